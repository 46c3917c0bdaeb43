"""Unit and weight norms against NumPy and torch's own weight_norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from computed.constraints.norms import UnitScale, WeightScale
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter

LAYERS = [
    (lambda: nn.Linear(5, 4), 0), (lambda: nn.Linear(5, 4), 1), (lambda: nn.Conv2d(3, 4, 2), 0),
    (lambda: nn.Conv2d(3, 4, 2), 3), (lambda: nn.ConvTranspose2d(3, 4, 2), 0), (lambda: nn.Linear(5, 4), None),
]  # fmt: skip


def normalised(weight: Tensor, dim: int | None) -> np.ndarray:
    exact = weight.double().numpy()
    axes = tuple(axis for axis in range(exact.ndim) if axis != dim)
    return exact / np.sqrt((exact**2).sum(axes, keepdims=True))


@pytest.mark.parametrize(("layer", "dim"), LAYERS)
def test_unit_slices_are_the_nearest_ones(layer, dim):
    weight = layer().weight.detach()
    value = ComputedParameter.from_value(weight, UnitScale(dim, eps=1e-10)).detach()
    np.testing.assert_allclose(value.numpy(), normalised(weight, dim), atol=2e-7)


def test_negative_dims_count_from_behind():
    weight = torch.randn(3, 4, 5)
    parameter = ComputedParameter.from_value(weight, UnitScale(-1))
    assert parameter.spec == "unit_norm(dim=2)"
    np.testing.assert_allclose(parameter.detach().numpy(), normalised(weight, 2), atol=2e-7)
    again = ComputedParameter.from_value(weight, WeightScale(-2))
    assert again.raws["g"].shape == (1, 4, 1)
    assert repr(again.constraints[0]) == "WeightScale(dim=1)"


@pytest.mark.parametrize("short", [[0.0, 0.0], [1e-13, -1e-13], [-1e-20, -1e-20]])
def test_slices_without_a_length_become_unit_slices_that_train(short):
    raw = torch.tensor([[3.0, 4.0], short], requires_grad=True)
    value = UnitScale()(raw)
    torch.testing.assert_close(value.detach().norm(dim=1), torch.ones(2))
    (value * torch.tensor([[1.0, 0.0], [1.0, 0.0]])).sum().backward()
    assert raw.grad.isfinite().all()
    assert raw.grad[1].abs().sum() > 0
    assert raw.grad.abs().max() < 10


def test_a_short_slice_keeps_its_direction_where_it_is_inserted():
    value = ComputedParameter.from_value(torch.tensor([[3e-25, 4e-25], [1.0, 0.0]]), UnitScale()).detach()
    torch.testing.assert_close(value, torch.tensor([[0.6, 0.8], [1.0, 0.0]]))


def test_gradient_of_a_unit_slice_is_orthogonal_to_it():
    raw = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    (UnitScale()(raw) * torch.randn(6, 5)).sum().backward()
    assert (raw.grad * raw.detach()).sum(1).abs().max() < 1e-14


@pytest.mark.parametrize(("layer", "dim"), LAYERS)
def test_weight_norm_is_torchs(layer, dim):
    theirs = weight_norm(layer(), dim=dim)
    with torch.no_grad():
        theirs.weight = theirs.weight + 0
        for raw in theirs.parametrizations.weight.parameters():
            raw.mul_(1 + torch.rand_like(raw))
    ours = ComputedParameter.from_value(torch.randn(theirs.weight.shape), WeightScale(dim))
    g, v = theirs.parametrizations.weight.original0, theirs.parametrizations.weight.original1
    if dim is None:
        g = nn.Parameter(g.detach().reshape([1] * v.dim()))  # torch keeps no dimensions there
    ours.load_state_dict({"g": g, "v": v})
    torch.testing.assert_close(ours.detach(), theirs.weight.detach(), rtol=1e-6, atol=1e-7)
    cotangent = torch.randn(theirs.weight.shape)
    (theirs.weight * cotangent).sum().backward()
    (ours * cotangent).sum().backward()
    expected = {"g": theirs.parametrizations.weight.original0.grad, "v": v.grad}
    for role, raw in ours.raws.items():
        torch.testing.assert_close(raw.grad, expected[role].reshape(raw.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_is_kept_bit_for_bit(dtype):
    weight = nn.Parameter(torch.randn(33, 65, dtype=dtype))
    weight.data[3] = 0
    parameter = ComputedParameter.from_value(weight, WeightScale())
    assert torch.equal(parameter.detach()[:3], weight[:3])
    assert torch.equal(parameter.detach()[3], torch.zeros(65, dtype=dtype))
    assert parameter.raws["v"] is weight


def test_a_zero_slice_can_grow():
    parameter = ComputedParameter.from_value(torch.zeros(2, 4), WeightScale())
    parameter.sum().backward()
    assert (parameter.raws["g"].grad == 2).all()
    assert (parameter.raws["v"].grad == 0).all()


def test_a_direction_of_zero_gives_zero_and_no_nan():
    v, g = torch.zeros(2, 4, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    value = WeightScale()(v, g)
    value.sum().backward()
    assert torch.equal(value.detach(), torch.zeros(2, 4))
    assert v.grad.isfinite().all()
    assert g.grad.isfinite().all()


def test_a_slice_that_is_longer_than_its_dtype_can_say_is_shortened():
    weight = torch.full((1, 4), 6e4, dtype=torch.float16)
    value = ComputedParameter.from_value(weight, WeightScale()).detach()
    assert value.tolist() == [[65504 / 2] * 4]
    longer = torch.full((1, 4), 6e4, dtype=torch.bfloat16)
    assert torch.equal(ComputedParameter.from_value(longer, WeightScale()).detach(), longer)


@pytest.mark.parametrize(("constraint", "shape", "message"), [
    (UnitScale(), (64,), r"every entry of shape \(64,\) one or minus one.*dim=None.*'weight': None"),
    (UnitScale(2), (3, 3), r"dim=2, but shape \(3, 3\) has dimensions 0 to 1; give another dim or exempt it"),
    (WeightScale(-3), (3, 3), r"weight_norm was given dim=-3"),
    (WeightScale(None), (), r"weight_norm needs 1 or more dimensions, got shape \(\); exempt it with 'weight': None"),
])  # fmt: skip
def test_shapes_without_slices_are_refused(constraint, shape, message):
    with pytest.raises(ConstraintRefusedError, match=message):
        ComputedParameter.from_value(torch.ones(shape), constraint)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: UnitScale(eps=0.0), "eps between 0 and 1, got 0.0"), (lambda: UnitScale(eps=1.0), "eps between 0 and 1"),
    (lambda: UnitScale(1.5), "unit_norm: dim must be a whole number, got 1.5"),
    (lambda: WeightScale("0"), "weight_norm: dim must be a whole number, got '0'"),
])  # fmt: skip
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_violation_is_the_error_of_the_worst_length():
    assert UnitScale().violation(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), ()) == 4
    assert UnitScale(None).violation(torch.tensor([[0.6, 0.0], [0.0, 0.8]]), ()) < 1e-7
    assert WeightScale().violation(torch.randn(3, 3), ()) == 0
