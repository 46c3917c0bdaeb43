"""Maps that are none: what is wrong is told, and the layer stays as it was."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import surgery
from tests.parity.maps import Same, register
from tests.surgery.picture import differences, picture


class Sum(nn.Module):
    """Two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def right_inverse(self, value: Tensor) -> tuple[Tensor, ...]:
        return value, torch.zeros_like(value)


class MissingInput(Sum):
    """Three inputs, two of which its right inverse gives."""

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return x + y + z


class SurplusInput(Sum):
    """One input, and a right inverse that gives two."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class NoRaw(Same):
    """A right inverse that gives nothing."""

    def right_inverse(self, value: Tensor) -> None:
        return None


class NoRawInASequence(Sum):
    """A right inverse that gives a sequence with something else in it."""

    def right_inverse(self, value: Tensor) -> tuple[object, ...]:
        return None, value


class Shorter(nn.Module):
    """Another shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:-1]


class ShorterInverse(Same):
    """A raw of another shape."""

    def right_inverse(self, value: Tensor) -> Tensor:
        return value[:-1]


class AloneInASequence(Same):
    """A right inverse that gives a sequence of one."""

    def right_inverse(self, value: Tensor) -> tuple[Tensor, ...]:
        return (value,)


class Wider(nn.Module):
    """Another dtype on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double() / 3


WRONG: dict[type[nn.Module], tuple[type[Exception], str]] = {
    MissingInput: (TypeError, "missing 1 required positional argument: 'z'"),
    SurplusInput: (TypeError, "takes 2 positional arguments but 3 were given"),
    NoRaw: (surgery.PlanError, "NoRaw.right_inverse returned NoneType; it must return a tensor or a sequence of"),
    NoRawInASequence: (surgery.PlanError, "NoRawInASequence.right_inverse returned NoneType at position 0; it must"),
    Shorter: (surgery.PlanError, "Shorter: the constraint changes the shape, (4, 3) to (3, 3)"),
    ShorterInverse: (surgery.PlanError, "ShorterInverse: the constraint changes the shape, (4, 3) to (3, 3)"),
}
ATTEMPTS = {
    "apply": lambda layer, spec: surgery.apply_constraints(layer, {"weight": spec}, existing="chain"),
    "constrain": lambda layer, spec: surgery.constrain(layer, weight=spec),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda cls: cls.__name__)
def test_errors_at_a_plain_tensor(wrong: type[nn.Module], attempt: str):
    layer = nn.Linear(3, 4)
    before = picture(layer)
    error, message = WRONG[wrong]
    with pytest.raises(error, match=re.escape(message)) as raised:
        ATTEMPTS[attempt](layer, wrong())
    told = [str(raised.value), *getattr(raised.value, "__notes__", ())]
    assert any("weight" in text and "'weight'" in text for text in told)
    assert differences(before, picture(layer)) == []


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda cls: cls.__name__)
def test_errors_at_a_parametrized_tensor(wrong: type[nn.Module], attempt: str):
    layer = surgery.constrain(nn.Linear(3, 4), weight=Same())
    value, before = layer.weight.detach().clone(), picture(layer)
    error, message = WRONG[wrong]
    with pytest.raises(error, match=re.escape(message)):
        ATTEMPTS[attempt](layer, wrong())
    assert differences(before, picture(layer)) == []
    assert layer.weight.spec == "Same"
    assert torch.equal(layer.weight, value)


def test_errors_of_names():
    layer = nn.Linear(3, 4)
    before = picture(layer)
    with pytest.raises(surgery.PlanError, match=r"rule 'foo': .* matches none of 2 names; there are weight, bias"):
        surgery.constrain(layer, foo=Same())
    with pytest.raises(surgery.SurgeryError, match=r"bake: no computed parameter matches 'bias'"):
        surgery.bake(layer, "bias")
    with pytest.raises(surgery.UndoError, match="nothing to undo on this Linear"):
        surgery.undo(layer)
    assert differences(before, picture(layer)) == []


def test_no_error_where_a_map_of_two_inputs_is_taken_off():
    """torch cannot give back what was there before; here undo can, bit for bit."""
    layer, theirs = nn.Linear(3, 4), nn.Linear(3, 4)
    before, value = picture(layer), layer.weight.detach().clone()
    surgery.constrain(layer, weight=Sum())
    register(theirs, weight=Sum())
    with pytest.raises(ValueError, match="leave_parametrized=False"):
        parametrize.remove_parametrizations(theirs, "weight", leave_parametrized=False)
    surgery.undo(layer)
    assert differences(before, picture(layer)) == []
    surgery.bake(surgery.constrain(layer, weight=Sum()))
    assert torch.equal(layer.weight, value)


def test_no_error_for_a_sequence_of_one():
    layer = nn.Linear(3, 4)
    value = layer.weight.detach().clone()
    surgery.constrain(layer, weight=AloneInASequence())
    assert list(layer.weight.raws) == ["raw"]
    assert torch.equal(layer.weight, value)
    surgery.bake(layer)
    assert torch.equal(layer.weight, value)


def test_no_error_for_a_value_of_another_dtype():
    """torch refuses it; here a value is computed in float32 at least, and cast to the dtype of the weight."""
    layer = nn.Linear(3, 4)
    value = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="may not change the dtype"):
        register(nn.Linear(3, 4), weight=Wider())
    surgery.constrain(layer, weight=Wider())
    assert layer.weight.value().dtype is torch.float32
    assert torch.equal(layer.weight, (value.double() / 3).float())
