"""What a value depends on beside its raws may change at any time, whatever was held before: the next read is fresh.

A constraint of ours and somebody else's module read a setting, a setting of a module inside, a buffer, a parameter of
their own and the mode. Truth is their formula, written out over what is there now, and its derivatives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint, Preimage


def formula(module: nn.Module, raw: Tensor) -> Tensor:
    factor = 1.0 if module.training else 0.5
    return raw.tanh() * module.gain * module.inner.gain * module.scale * module.tilt * factor


def set_up(module: nn.Module, *, trained: bool) -> None:
    module.gain = 1.5
    module.inner = nn.Module()
    module.inner.gain = 0.75
    module.register_buffer("scale", torch.tensor(2.0))
    module.tilt = nn.Parameter(torch.tensor([1.0, -1.0, 2.0]), requires_grad=trained)


class Ours(Constraint):
    """A constraint of ours."""

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        set_up(self, trained=trained)

    def forward(self, raw: Tensor) -> Tensor:
        return formula(self, raw)

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0


class Foreign(nn.Module):
    """Somebody else's module."""

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        set_up(self, trained=trained)

    def forward(self, raw: Tensor) -> Tensor:
        return formula(self, raw)


def only(model: nn.Linear) -> nn.Module:
    return model.weight.constraints[0]


def the_state_of_another(model: nn.Linear) -> dict[str, Tensor]:
    other = copy.deepcopy(model)
    with torch.no_grad():
        only(other).scale.fill_(-3.0)
        only(other).tilt.fill_(0.25)
    return other.state_dict()


def load_one(model: nn.Linear, ending: str) -> None:
    state = {key: tensor for key, tensor in the_state_of_another(model).items() if key.endswith(ending)}
    assert len(state) == 1
    model.load_state_dict(state, strict=False)


def with_a_step(model: nn.Linear) -> None:
    only(model).tilt.grad = torch.ones(3)
    torch.optim.SGD([only(model).tilt], 0.1, fused=True).step()
    only(model).tilt.grad = None


def bind_parameter(model: nn.Linear) -> None:
    only(model).tilt = nn.Parameter(torch.tensor([3.0, 1.0, 0.5]), requires_grad=only(model).tilt.requires_grad)


def without_gradients(write: Callable[[nn.Linear], object]) -> Callable[[nn.Linear], object]:
    def change(model: nn.Linear) -> None:
        with torch.no_grad():
            write(model)

    return change


CHANGES: dict[str, Callable[[nn.Linear], object]] = {
    "setting": lambda model: setattr(only(model), "gain", 4.0),
    "setting of a module inside": lambda model: setattr(only(model).inner, "gain", 4.0),
    "buffer in place": lambda model: only(model).scale.mul_(2.0),
    "buffer by data": lambda model: only(model).scale.data.fill_(5.0),
    "buffer bound anew": lambda model: setattr(only(model), "scale", torch.tensor(-1.0)),
    "parameter in place": without_gradients(lambda model: only(model).tilt[1:].fill_(0.5)),
    "parameter by data": lambda model: only(model).tilt.data.add_(1.0),
    "parameter's data exchanged": lambda model: setattr(only(model).tilt, "data", torch.tensor([1.0, 0.0, 1.0])),
    "parameter bound anew": bind_parameter,
    "parameter by a step": with_a_step,
    "load of a buffer": lambda model: load_one(model, "scale"),
    "load of a parameter": lambda model: load_one(model, "tilt"),
    "load of all": lambda model: model.load_state_dict(the_state_of_another(model)),
    "load by assigning": lambda model: model.load_state_dict(the_state_of_another(model), assign=True),
    "switch of the model": lambda model: model.train(not model.training),
    "switch of the weight": lambda model: model.weight.train(not model.weight.training),
    "switch of the constraint": lambda model: only(model).train(not only(model).training),
    "flag of the own parameter": lambda model: only(model).tilt.requires_grad_(not only(model).tilt.requires_grad),
}  # fmt: skip


def never_read(model: nn.Linear) -> None:
    pass


def read_without(model: nn.Linear) -> None:
    with torch.no_grad():
        model(torch.eye(3))


def read_with(model: nn.Linear) -> None:
    model(torch.eye(3)).sum().backward()
    model.zero_grad()


def read_in_both_modes(model: nn.Linear) -> None:
    for training in (not model.training, model.training):
        read_without(model.train(training))
        read_with(model)


HELD_BEFORE = (never_read, read_without, read_with, read_in_both_modes)


def assert_fresh(model: nn.Linear) -> None:
    """Values and gradients are those of the formula now."""
    raw, module, weighting = model.weight.raws["raw"], only(model), torch.arange(1.0, 10.0).view(3, 3)
    expected = formula(module, raw)
    with torch.no_grad():
        assert torch.equal(model.weight + 0, expected)
    assert torch.equal(model.weight + 0, expected)
    trained = [raw, module.tilt] if module.tilt.requires_grad else [raw]
    slopes = torch.autograd.grad((expected * weighting).sum(), trained)
    (model.weight * weighting).sum().backward()
    for parameter, slope in zip(trained, slopes, strict=True):
        allowed = 8 * torch.finfo(slope.dtype).eps * float(slope.abs().max())
        assert float((parameter.grad - slope).abs().max()) <= allowed
    assert module.tilt.requires_grad or module.tilt.grad is None


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("trained", [True, False], ids=["own parameter trained", "own parameter fixed"])
@pytest.mark.parametrize("kind", [Ours, Foreign])
@pytest.mark.parametrize("held", HELD_BEFORE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("change", CHANGES)
def test_the_next_read_is_fresh(
    change: str, held: Callable[[nn.Linear], None], kind: type[nn.Module], trained: bool, training: bool
):
    model = surgery.apply_constraints(nn.Linear(3, 3, bias=False), {"weight": kind(trained=trained)}).train(training)
    held(model)
    before = formula(only(model), model.weight.raws["raw"]).detach()
    CHANGES[change](model)
    assert_fresh(model)
    assert torch.equal(model.weight.detach(), before) is (change == "flag of the own parameter")


@pytest.mark.parametrize("kind", [Ours, Foreign])
@pytest.mark.parametrize("held", HELD_BEFORE[1:], ids=lambda f: f.__name__)
def test_something_is_held_before(held: Callable[[nn.Linear], None], kind: type[nn.Module]):
    """Otherwise nothing was asked above: once read in a way, reads in that way evaluate no more."""
    model = surgery.apply_constraints(nn.Linear(3, 3, bias=False), {"weight": kind(trained=False)})
    held(model)
    calls: list[int] = []
    only(model).register_forward_hook(lambda module, args, output: calls.append(1))
    model.weight.forget()
    held(model)
    most = len(calls)
    assert most >= 1
    held(model), held(model)
    assert len(calls) == most
