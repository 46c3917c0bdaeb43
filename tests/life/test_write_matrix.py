"""Every way to write a weight, for every constraint of the catalogue: effective, or an error that changes nothing.

Truth: a plain tensor that takes the same write with the same random numbers, and a parameter made new from the result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import init

import surgery
from computed.parameter import ComputedParameter
from tests.surgery.models import SPECS, SQUARE_SPECS

ALL = [*SPECS, *SQUARE_SPECS]
TARGET = torch.arange(16.0).reshape(4, 4).sin()


def masked(layer: nn.Module) -> None:
    layer.weight[layer.weight > 0.1] = 0.05


def entry(layer: nn.Module) -> None:
    layer.weight[1, 2] = 0.7


def augmented(layer: nn.Module) -> None:
    layer.weight *= 0.5
    layer.weight += 0.1


def out(layer: nn.Module) -> None:
    torch.mul(TARGET, 0.5, out=layer.weight)


def transformers_like(layer: nn.Module) -> None:
    """As ``_init_weights`` of transformers 4 did; newer ones are in test_transformers_models.py."""
    layer.weight.data.normal_(mean=0.0, std=0.02)
    layer.bias.data.zero_()


def set_data(layer: nn.Module) -> None:
    layer.weight.data = TARGET.clone()


# those that a Parameter takes with gradients on as well
BY_DATA: dict[str, Callable[[nn.Module], object]] = {
    "data.normal_": lambda layer: layer.weight.data.normal_(0.0, 0.3),
    "data.copy_": lambda layer: layer.weight.data.copy_(TARGET),
    "data.mul_": lambda layer: layer.weight.data.mul_(3.0),
    "data[part]": lambda layer: layer.weight.data[1:3].fill_(0.3),
    "data[row][column] =": lambda layer: layer.weight.data[0].__setitem__(1, 0.4),
    "init of data": lambda layer: init.xavier_normal_(layer.weight.data),
    "_init_weights": transformers_like,
    "reset_parameters": lambda layer: layer.reset_parameters(),
    "data =": set_data,
}
# torch.nn.init turns gradients off by itself
BY_INIT: dict[str, Callable[[nn.Module], object]] = {
    "uniform_": lambda layer: init.uniform_(layer.weight, -0.5, 0.5),
    "normal_": lambda layer: init.normal_(layer.weight, 0.0, 0.4),
    "trunc_normal_": lambda layer: init.trunc_normal_(layer.weight, std=0.2),
    "constant_": lambda layer: init.constant_(layer.weight, 0.25),
    "ones_": lambda layer: init.ones_(layer.weight),
    "zeros_": lambda layer: init.zeros_(layer.weight),
    "eye_": lambda layer: init.eye_(layer.weight),
    "xavier_uniform_": lambda layer: init.xavier_uniform_(layer.weight),
    "xavier_normal_": lambda layer: init.xavier_normal_(layer.weight),
    "kaiming_uniform_": lambda layer: init.kaiming_uniform_(layer.weight),
    "kaiming_normal_": lambda layer: init.kaiming_normal_(layer.weight),
    "orthogonal_": lambda layer: init.orthogonal_(layer.weight),
    "sparse_": lambda layer: init.sparse_(layer.weight, 0.3),
    "init of a part": lambda layer: init.zeros_(layer.weight[2]),
}
# those that raise with gradients on, as on a leaf
IN_PLACE: dict[str, Callable[[nn.Module], object]] = {
    "copy_": lambda layer: layer.weight.copy_(TARGET),
    "mul_": lambda layer: layer.weight.mul_(2.0),
    "zero_": lambda layer: layer.weight.zero_(),
    "part": lambda layer: layer.weight[2].zero_(),
    "row = row": lambda layer: layer.weight.__setitem__(0, TARGET[0]),
    "masked": masked,
    "entry": entry,
    "augmented": augmented,
    "out=": out,
    "foreach": lambda layer: torch._foreach_mul_([layer.weight.data], 0.5),
}


SEED = 5  # of what a write draws, and of what adapters are drawn from when it is projected


def layer_of(spec: str, *, training: bool = True) -> nn.Linear:
    """One that has been read, as in the midst of a life."""
    torch.manual_seed(SEED)
    layer = surgery.constrain(nn.Linear(4, 4), weight=spec).train(training)
    layer(torch.ones(2, 4))
    return layer


def assert_taken(spec: str, write: Callable[[nn.Module], object], *, training: bool, gradients: bool) -> None:
    """A plain twin takes the same write: value and raws are those of a parameter that is made from it, bit for bit."""
    layer, twin = layer_of(spec, training=training), nn.Linear(4, 4)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
    for one, with_gradients in ((twin, False), (layer, gradients)):
        torch.manual_seed(SEED)
        with torch.set_grad_enabled(with_gradients):
            write(one)
    expected = ComputedParameter.from_value(twin.weight.detach(), spec).train(training)
    assert torch.equal(layer.weight.detach(), expected.detach())
    assert list(layer.weight.raws) == list(expected.raws)
    for role, raw in expected.raws.items():
        assert torch.equal(layer.weight.raws[role], raw), role


@pytest.mark.parametrize("name", [*BY_DATA, *BY_INIT, *IN_PLACE])
@pytest.mark.parametrize("spec", ALL)
def test_a_write_is_that_of_a_plain_weight(spec: str, name: str):
    """In both modes without gradients; with gradients on what a Parameter takes then."""
    write = (BY_DATA | BY_INIT | IN_PLACE)[name]
    assert_taken(spec, write, training=True, gradients=False)
    assert_taken(spec, write, training=False, gradients=False)
    if name not in IN_PLACE:
        assert_taken(spec, write, training=True, gradients=True)


REFUSALS = r"leaf [Vv]ariable|out=\.\.\. arguments|view and is being modified inplace"


@pytest.mark.parametrize("name", [name for name in IN_PLACE if name != "foreach"])
@pytest.mark.parametrize("spec", ALL)
def test_what_a_leaf_refuses_with_gradients_on_is_refused(spec: str, name: str):
    """As by a Parameter; nothing has changed then."""
    layer, plain = layer_of(spec), nn.Linear(4, 4)
    before = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    value = layer.weight.detach().clone()
    for one in (plain, layer):
        with pytest.raises(RuntimeError, match=REFUSALS):
            IN_PLACE[name](one)
    assert torch.equal(layer.weight.detach(), value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in layer.state_dict().items())


ASSIGNMENTS: dict[str, Callable[[nn.Module], object]] = {
    "a Parameter": lambda layer: setattr(layer, "weight", nn.Parameter(TARGET.clone())),
    "a Tensor": lambda layer: setattr(layer, "weight", TARGET.clone()),
    "None": lambda layer: setattr(layer, "weight", None),
    "a Module": lambda layer: setattr(layer, "weight", nn.Identity()),
    "del": lambda layer: delattr(layer, "weight"),
    "register_parameter": lambda layer: layer.register_parameter("weight", nn.Parameter(TARGET.clone())),
    "register_buffer": lambda layer: layer.register_buffer("weight", TARGET.clone()),
    "data of another shape": lambda layer: setattr(layer.weight, "data", torch.zeros(3, 3)),
}


@pytest.mark.parametrize("name", ASSIGNMENTS)
@pytest.mark.parametrize("spec", ALL)
def test_an_assignment_to_the_name_raises_and_changes_nothing(spec: str, name: str):
    layer = layer_of(spec)
    weight, before = layer.weight, {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    with pytest.raises((RuntimeError, TypeError, KeyError, ValueError), match=r"weight"):
        ASSIGNMENTS[name](layer)
    assert layer.weight is weight
    assert layer._modules["weight"] is weight
    assert list(layer.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[key]) for key, tensor in layer.state_dict().items())


@pytest.mark.parametrize("source", ["own", "plain"])
@pytest.mark.parametrize("name", ["copy_", "data.copy_", "data =", "constant_"])
@pytest.mark.parametrize("spec", ALL)
def test_a_load_wins_over_a_write_that_waits(spec: str, name: str, source: str):
    layer, other = layer_of(spec), surgery.constrain(nn.Linear(4, 4), weight=spec)
    expected = copy.deepcopy(layer)
    state = copy.deepcopy(surgery.state_dict(other, format=source))
    expected.load_state_dict(state)
    with torch.no_grad():
        (BY_DATA | BY_INIT | IN_PLACE)[name](layer)
    layer.load_state_dict(state)
    assert torch.equal(layer.weight.detach(), expected.weight.detach())
    assert all(map(torch.equal, layer.state_dict().values(), expected.state_dict().values()))
    layer.train(False)
    assert torch.equal(layer.weight.detach(), expected.eval().weight.detach())


@pytest.mark.parametrize("spec", ALL)
def test_marks_of_a_walk_over_modules_are_not_the_tensors(spec: str):
    """transformers marks every module, and then skips each tensor that seems to have the mark."""
    layer = layer_of(spec)
    for module in layer.modules():
        module._is_hf_initialized = True
    assert not getattr(layer.weight, "_is_hf_initialized", False)
    first = next(iter(layer.weight.raws.values()))
    first._is_hf_initialized = True
    assert layer.weight._is_hf_initialized


@pytest.mark.parametrize("spec", ALL)
def test_making_and_writing_draw_no_random_numbers(spec: str):
    layer = nn.Linear(4, 4)
    state = torch.get_rng_state()
    surgery.constrain(layer, weight=spec)
    layer(torch.ones(2, 4)).sum().backward()
    with torch.no_grad():
        layer.weight.copy_(TARGET)
    layer.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
