"""After an undo a model lives on as one that was never touched: modes, hooks, training.

Truth is a plain twin that goes through the same life without the apply; bits and objects are in test_undoing.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgery
from tests.surgery.models import MODELS
from tests.surgery.picture import differences, picture

NAMES = ("resnet", "lstm", "mha", "transformer", "tied")


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def train(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()


def assert_same(model: nn.Module, twin: nn.Module) -> None:
    one, other = model.state_dict(), twin.state_dict()
    assert list(one) == list(other)
    assert [key for key, tensor in other.items() if not torch.equal(one[key], tensor)] == []


def mixed(model: nn.Module) -> None:
    """Every second module in eval, as where a part is frozen; torch's own call for one, which does not recurse."""
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0


MODES: dict[str, Callable[[nn.Module], object]] = {
    "train": lambda model: model.train(),
    "eval": lambda model: model.eval(),
    "mixed": mixed,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_modes_are_what_they_were(name: str, mode: str):
    """Of every module; those of computed parameters go with them."""
    build, _, rules = MODELS[name]
    model = build()
    MODES[mode](model)
    before = picture(model)
    modes = [module.training for module in model.modules()]
    surgery.apply_constraints(model, rules)
    surgery.undo(model)
    assert [module.training for module in model.modules()] == modes
    assert differences(before, picture(model)) == []


def hooked(model: nn.Module) -> list[str]:
    """Hooks of every kind, on every module and parameter; what they were called for."""
    calls: list[str] = []

    def told(kind: str) -> Callable[..., None]:
        return lambda *args, **kwargs: calls.append(kind)

    for name, module in model.named_modules():
        module.register_forward_pre_hook(told(f"{name} before forward"))
        module.register_forward_hook(told(f"{name} forward"))
        module.register_full_backward_hook(told(f"{name} backward"))
        module.register_state_dict_post_hook(told(f"{name} state dict"))
        module.register_load_state_dict_post_hook(told(f"{name} load"))
    for name, parameter in model.named_parameters():
        parameter.register_hook(told(f"{name} gradient"))
        parameter.register_post_accumulate_grad_hook(told(f"{name} accumulated"))
    return calls


@pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_hooks_are_called_as_before(name: str):
    """Of modules and of parameters, which are the same objects again; the twin counts."""
    build, draw, rules = MODELS[name]
    torch.manual_seed(0)
    model = build()
    torch.manual_seed(0)
    twin, x = build(), draw()
    called, expected = hooked(model), hooked(twin)
    surgery.apply_constraints(model, rules)
    surgery.undo(model)
    for one, calls in ((model, called), (twin, expected)):
        calls.clear()
        loss_of(one, x).backward()
        one.load_state_dict(one.state_dict())
    assert called == expected
    assert any(call.endswith("accumulated") for call in called)
    assert_same(model, twin)


@pytest.mark.parametrize("followed", [True, False], ids=["the optimizer follows", "an optimizer of its own"])
@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on_as_if_nothing_had_been(name: str, followed: bool):
    """Three steps, an interlude with constraints, three steps: as six; what else the interlude trained is put back."""
    build, draw, rules = MODELS[name]
    model, x = build(), draw()
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(one.parameters(), 0.05) for one in (model, twin)]
    for one, optimizer in zip((model, twin), optimizers, strict=True):
        train(one, x, optimizer)
    between = copy.deepcopy(model.state_dict())
    surgery.apply_constraints(model, rules, optimizer=optimizers[0] if followed else None)
    weights = surgery.computed_parameters(model)
    inner = (
        optimizers[0] if followed else torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], 0.1)
    )
    values = {key: weight.detach().clone() for key, weight in weights.items()}
    train(model, x, inner)
    assert [key for key, weight in weights.items() if torch.equal(weight.detach(), values[key])] == []
    surgery.undo(model)
    sites = {key for key in between if key in values}
    assert [key for key in sites if not torch.equal(model.state_dict()[key], between[key])] == []
    model.load_state_dict(between)  # the layers that no rule touched were trained too
    for one, optimizer in zip((model, twin), optimizers, strict=True):
        train(one, x, optimizer)
    assert_same(model, twin)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), twin.eval()(x))
