"""A value is written to a parametrized weight: through its right inverse, or not at all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import surgery
from tests.parity.maps import Scaled, register, twins
from tests.surgery.picture import differences, picture


class StrictSkew(nn.Module):
    """Upper triangle to skew matrix; its right inverse refuses what is not skew."""

    def forward(self, x: Tensor) -> Tensor:
        upper = x.triu(1)
        return upper - upper.mT

    def right_inverse(self, value: Tensor) -> Tensor:
        if not torch.allclose(value, -value.mT):
            raise ValueError("this is no skew matrix")
        return value.triu(1)


class TurnedCayley(nn.Module):
    """A base times the Cayley map; its right inverse takes the value for the base."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("base", torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        one = torch.eye(len(x))
        return self.base @ torch.linalg.solve(one + x, one - x)

    def right_inverse(self, value: Tensor) -> Tensor:
        if not torch.allclose(value.mT @ value, torch.eye(len(value)), atol=1e-4):
            raise ValueError("this is no orthogonal matrix")
        self.base = value.clone()
        return torch.zeros_like(value)


def write(layer: nn.Module, value: Tensor) -> Tensor:
    """Write as `nn.init` does, and read."""
    with torch.no_grad():
        layer.weight.copy_(value)
    found: Tensor = layer.weight.detach()
    return found


def skew(width: int) -> Tensor:
    value = torch.rand(width, width)
    return value - value.mT


def test_initialization():
    ours, theirs = twins(5)
    start, value = skew(5), skew(5)
    for layer in (ours, theirs):
        write(layer, start)
    surgery.constrain(ours, weight=StrictSkew())
    register(theirs, weight=StrictSkew())
    assert torch.equal(ours.weight, start)
    theirs.weight = value
    assert torch.equal(write(ours, value), theirs.weight)
    assert torch.equal(ours.weight, value)
    assert torch.equal(ours.weight.raws["raw"], theirs.parametrizations.weight.original)


def test_initialization_through_a_chain():
    layer = nn.Linear(5, 5)
    with torch.no_grad():
        layer.weight.zero_().add_(torch.eye(5))
    surgery.constrain(layer, weight=Scaled(2.0))
    surgery.constrain(layer, weight=TurnedCayley(5))
    assert torch.equal(layer.weight, torch.eye(5))
    value = nn.init.orthogonal_(torch.empty(5, 5))
    assert torch.equal(write(layer, value), value)
    assert torch.equal(layer.weight.raws["raw"], torch.zeros(5, 5))
    assert torch.equal(layer.weight.constraints[1].base, value)


def test_initialization_with_what_the_right_inverse_refuses():
    """torch raises at the assignment and keeps the old value; here the write waits, and whoever reads is told."""
    ours, theirs = twins(5)
    old, bad, good = skew(5), torch.rand(5, 5), skew(5)
    for layer in (ours, theirs):
        write(layer, old)
    surgery.constrain(ours, weight=StrictSkew())
    register(theirs, weight=StrictSkew())
    with pytest.raises(ValueError, match="this is no skew matrix"):
        theirs.weight = bad
    assert torch.equal(theirs.weight, old)
    with torch.no_grad():
        ours.weight.copy_(bad)
    for _ in range(2):
        with pytest.raises(ValueError, match="this is no skew matrix"):
            ours(torch.ones(5))
    assert torch.equal(write(ours, good), good)


def test_initialization_before_registering_is_refused_too():
    layer = nn.Linear(5, 5)
    before = picture(layer)
    for attempt in (surgery.apply_constraints, surgery.constrain):
        with pytest.raises(ValueError, match="this is no skew matrix") as raised:
            attempt(layer, {"weight": StrictSkew()})
        assert raised.value.__notes__ == ["while preparing weight for rule 'weight'; the model is unchanged"]
    assert differences(before, picture(layer)) == []


def test_initialization_by_assignment_is_refused():
    """torch's parametrize takes an assigned tensor for a value; a Module stands here, and torch says so itself."""
    ours, theirs = twins(5)
    value = skew(5)
    surgery.constrain(ours, weight=Scaled())
    register(theirs, weight=Scaled())
    theirs.weight = value
    with pytest.raises(TypeError, match="as child module 'weight'"):
        ours.weight = value
    assert torch.equal(write(ours, value), theirs.weight)


def test_initialization_with_a_shape_that_does_not_fit():
    layer = surgery.constrain(nn.Linear(5, 5), weight=Scaled())
    value = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match="must match the size"):
        write(layer, torch.rand(4, 3))
    with pytest.raises(ValueError, match=r"cannot set data of shape \(4, 3\); the shape of a constrained weight is"):
        layer.weight.data = torch.rand(4, 3)
    assert torch.equal(layer.weight, value)


def test_a_right_inverse_keeps_the_value_of_a_chain():
    """torch applies the new map to the value; here the pretrained value is kept where the right inverse can."""
    ours, theirs = twins(5)
    value = ours.weight.detach().clone()
    for _ in range(2):
        register(theirs, weight=Scaled(2.0))
    surgery.constrain(ours, weight=Scaled(2.0))
    surgery.constrain(ours, weight=Scaled(4.0))
    assert torch.equal(ours.weight, value)
    assert torch.equal(ours.weight.raws["raw"], value / 8)
    assert torch.equal(theirs.weight, 2 * value)
    assert parametrize.is_parametrized(theirs, "weight")
