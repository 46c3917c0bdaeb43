"""A weight from several raws."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import surgery
from tests.parity.maps import RankOne, Times, register, stepper, twins


def best_of_rank_one(value: Tensor) -> np.ndarray:
    u, s, vh = np.linalg.svd(value.detach().double().numpy())
    return s[0] * np.outer(u[:, 0], vh[0])


def rank(value: Tensor) -> int:
    return int(np.linalg.matrix_rank(value.detach().double().numpy(), rtol=1e-5))


def test_multiple_inputs():
    ours, theirs = twins(3)
    expected = best_of_rank_one(ours.weight)
    surgery.constrain(ours, weight=RankOne())
    register(theirs, weight=RankOne())
    np.testing.assert_allclose(ours.weight.detach().numpy(), expected, atol=1e-6)
    assert torch.equal(ours.weight, theirs.weight)
    originals = theirs.parametrizations.weight
    assert torch.equal(ours.weight.raws["0"], originals.original0)
    assert torch.equal(ours.weight.raws["1"], originals.original1)
    assert [name for name, _ in ours.named_parameters()] == ["bias", "weight.0", "weight.1"]
    assert list(surgery.computed_parameters(ours)) == ["weight"]


def test_multiple_inputs_are_removed_and_registered_again():
    layer = nn.Linear(3, 3)
    surgery.bake(surgery.constrain(layer, weight=RankOne()))
    value = layer.weight.detach().clone()
    assert type(layer.weight) is nn.Parameter
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert rank(value) == 1
    surgery.constrain(layer, weight=RankOne())
    torch.testing.assert_close(layer.weight.detach(), value)


def test_multiple_inputs_below_a_map_of_one():
    """Trained in step with torch's twin, then plain and trained on."""
    ours, theirs = twins(3)
    surgery.constrain(ours, weight=RankOne())
    value = ours.weight.detach().clone()
    surgery.constrain(ours, weight=Times(2.0))
    register(theirs, weight=(RankOne(), Times(2.0)))
    torch.testing.assert_close(ours.weight.detach(), 2 * value)
    assert len(list(ours.parameters())) == 3
    steps = stepper(ours), stepper(theirs)
    for _ in range(2):
        batch = torch.randn(4, 3)
        for step in steps:
            step(batch)
        torch.testing.assert_close(ours.weight.detach(), theirs.weight.detach())
    assert rank(ours.weight) == 1
    value = ours.weight.detach().clone()
    surgery.bake(ours)
    assert torch.equal(ours.weight, value)
    assert len(list(ours.parameters())) == 2
    step, batch = stepper(ours), torch.randn(4, 3)
    for _ in range(2):
        step(batch)
    assert rank(ours.weight) > 1


def test_multiple_inputs_get_gradients_of_first_and_second_order():
    """By finite differences, in float64."""
    layer = surgery.constrain(nn.Linear(3, 3).double(), weight=RankOne())
    raws = [raw.detach().clone().requires_grad_() for raw in layer.weight.raws.values()]
    batch = torch.randn(2, 3, dtype=torch.float64)

    def outputs(left: Tensor, right: Tensor) -> Tensor:
        given = {"weight.0": left, "weight.1": right}
        found: Tensor = torch.func.functional_call(layer, given, batch)
        return found

    assert torch.autograd.gradcheck(outputs, raws)
    assert torch.autograd.gradgradcheck(outputs, raws)
