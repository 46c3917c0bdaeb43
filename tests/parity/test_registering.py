"""Maps are put on a parameter and taken off again, one and several, as torch's parametrize does with a twin."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import surgery
from tests.parity.maps import Cayley, Halves, LowerSkew, Plus, Same, Times, ZeroAt, register, stepper, twins
from tests.surgery.picture import differences, picture


def both(ours: nn.Module, theirs: nn.Module, **maps: tuple[nn.Module, ...]) -> None:
    """Put the same maps on both."""
    for name, given in maps.items():
        for each in given:
            surgery.constrain(ours, {name: each})
    register(theirs, **maps)


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for name in ("weight", "bias"):
        one: Tensor = getattr(ours, name)
        torch.testing.assert_close(one.detach(), getattr(theirs, name).detach(), rtol=1e-5, atol=1e-6)


def test_register_and_remove_one():
    ours, theirs = twins()
    before, weight, bias = picture(ours), ours.weight, ours.bias
    both(ours, theirs, weight=(LowerSkew(),))
    value = ours.weight.detach().numpy()
    assert np.array_equal(value, -value.T)
    assert torch.equal(ours.weight, theirs.weight)
    assert list(surgery.computed_parameters(ours)) == ["weight"]
    assert "weight" not in ours._parameters
    assert ours.bias is bias
    surgery.undo(ours)
    assert ours.weight is weight
    assert differences(before, picture(ours)) == []


def test_register_and_remove_two_on_one_weight():
    ours, theirs = twins()
    before = picture(ours)
    both(ours, theirs, weight=(LowerSkew(), Cayley()))
    value = ours.weight.detach().double().numpy()
    np.testing.assert_allclose(value.T @ value, np.eye(8), atol=1e-6)
    assert_same(ours, theirs)
    assert ours.weight.spec == "LowerSkew | Cayley"
    assert list(ours.weight.raws) == ["raw"]
    surgery.undo(surgery.undo(ours))
    assert differences(before, picture(ours)) == []


def test_register_and_remove_one_by_one():
    """Trained in step with torch's twin between the removals; the optimizer goes on, as it has the same objects."""
    ours, theirs = twins()
    weight, bias = ours.weight, ours.bias
    both(ours, theirs, weight=(LowerSkew(), Cayley()), bias=(ZeroAt(0), ZeroAt(-1)))
    steps = stepper(ours), stepper(theirs)

    def train() -> None:
        batch, before = torch.randn(4, 8), (ours.weight.detach().clone(), ours.bias.detach().clone())
        for step in steps:
            step(batch)
        assert_same(ours, theirs)
        assert not torch.equal(ours.weight, before[0])
        assert not torch.equal(ours.bias, before[1])

    train()
    assert len(list(ours.parameters())) == 2
    surgery.bake(ours, "weight")
    parametrize.remove_parametrizations(theirs, "weight")
    assert_same(ours, theirs)
    assert ours.weight is weight
    assert list(surgery.computed_parameters(ours)) == ["bias"]
    train()
    assert ours.bias.detach()[[0, -1]].tolist() == [0.0, 0.0]
    surgery.bake(ours, "bias")
    parametrize.remove_parametrizations(theirs, "bias")
    assert ours.bias is bias
    train()
    assert ours.bias.detach()[[0, -1]].abs().min() > 0
    assert [type(ours), *map(type, ours.parameters())] == [nn.Linear, nn.Parameter, nn.Parameter]


def test_remove_and_keep_the_trained_raw():
    """What torch does for leave_parametrized=False; here the raw is an ordinary Parameter that can be copied."""
    ours, theirs = twins()
    weight = ours.weight
    both(ours, theirs, weight=(LowerSkew(),))
    batch = torch.randn(4, 8)
    stepper(ours)(batch)
    stepper(theirs)(batch)
    raw = ours.weight.raws["raw"].detach().clone()
    surgery.bake(ours)
    with torch.no_grad():
        ours.weight.copy_(raw)
    parametrize.remove_parametrizations(theirs, "weight", leave_parametrized=False)
    assert ours.weight is weight
    assert_same(ours, theirs)


def test_register_again_after_removal():
    ours, theirs = twins()
    objects = list(map(id, ours.parameters()))
    steps = stepper(ours), stepper(theirs)
    for _ in range(2):
        both(ours, theirs, weight=(LowerSkew(), Cayley()))
        surgery.bake(ours)
        parametrize.remove_parametrizations(theirs, "weight")
        assert_same(ours, theirs)
        assert list(map(id, ours.parameters())) == objects
        batch = torch.randn(4, 8)
        for step in steps:
            step(batch)
    assert_same(ours, theirs)


def test_register_unsafe_is_refused():
    """A map that changes the shape; torch takes it with unsafe=True."""
    layer = nn.Linear(8, 8)
    before = picture(layer)

    class FirstRow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:1]

    message = re.escape("weight (Linear), rule 'weight': FirstRow: the constraint changes the shape, (8, 8) to (1, 8)")
    for attempt in (surgery.apply_constraints, surgery.constrain):
        with pytest.raises(surgery.PlanError, match=message):
            attempt(layer, {"weight": FirstRow()})
    assert differences(before, picture(layer)) == []


def test_register_and_remove_nested():
    """A raw takes no map of its own; what torch nests inside is the first of a chain here."""
    ours, theirs = twins()
    register(theirs, weight=Cayley())
    register(theirs.parametrizations.weight, original=LowerSkew())
    surgery.constrain(ours, weight=LowerSkew())
    with pytest.raises(surgery.PlanError, match=r"rule 'weight\.raw': .* matches none of 2 names; there are weight, "):
        surgery.constrain(ours, {"weight.raw": LowerSkew()})
    surgery.constrain(ours, weight=Cayley())
    assert_same(ours, theirs)
    surgery.undo(ours)
    parametrize.remove_parametrizations(theirs.parametrizations.weight, "original")
    parametrize.remove_parametrizations(theirs, "weight", leave_parametrized=False)
    assert_same(ours, theirs)


def test_register_a_chain_at_once():
    """Without a right inverse the raw is the weight, and maps act in the order that they stand in."""
    ours, theirs = twins()
    surgery.constrain(ours, weight=nn.Sequential(Plus(), Times(), Plus(-1.0)))
    register(theirs, weight=(Plus(), Times(), Plus(-1.0)))
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.weight.raws["raw"], theirs.parametrizations.weight.original)


def test_register_and_remove_buffer():
    ours, theirs = twins()
    for layer in (ours, theirs):
        del layer.bias
        layer.bias = nn.Buffer(torch.ones(8))
    both(ours, theirs, bias=(ZeroAt(0), ZeroAt(-1)))
    assert_same(ours, theirs)
    assert ours.bias.tolist() == [0.0, *[1.0] * 6, 0.0]
    assert not ours.bias.requires_grad
    surgery.bake(ours, "bias")
    assert type(ours.bias) is Tensor
    assert ours.bias.tolist() == [0.0, *[1.0] * 6, 0.0]
    assert [name for name, _ in ours.named_parameters()] == ["weight"]
    assert [name for name, _ in ours.named_buffers()] == ["bias"]


def test_register_no_grad():
    layer = nn.Linear(8, 8)
    layer.weight.requires_grad_(False)
    surgery.constrain(layer, weight=Halves())
    assert not layer.weight.requires_grad
    assert {role: (raw.requires_grad, raw.shape) for role, raw in layer.weight.raws.items()} == {
        "0": (False, (4, 8)),
        "1": (False, (4, 8)),
    }
    surgery.bake(layer)
    assert not layer.weight.requires_grad


def test_register_with_the_training_mode_of_the_host():
    layer = nn.Linear(4, 4).eval()
    surgery.constrain(layer, weight=Same())
    assert [each.training for each in layer.weight.constraints] == [False]
    layer.train()
    surgery.constrain(layer, weight=Times().eval())
    assert [each.training for each in layer.weight.constraints] == [True, True]
