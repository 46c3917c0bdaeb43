"""What a parametrized module is as a module: copied, saved, and of values that are subclasses of Tensor."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.testing._internal.two_tensor import TwoTensor

import surgery
from tests.parity.maps import Counted, Plus, Times, register
from tests.surgery.picture import differences, picture


class Vectors(nn.Module):
    """Two vectors and an attribute that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.bias = nn.Parameter(torch.zeros(4))
        self.notes = [1.0, 2.0]


class CopiesItself(Vectors):
    """With a deep copy of its own, which copies what is in ``__dict__``."""

    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesItself:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made


@pytest.mark.parametrize("kind", [Vectors, CopiesItself])
def test_deepcopy_after_parametrization(kind: type[Vectors]):
    """One name, two names, two maps on one name; the copy trains on its own and is baked on its own."""
    module = kind()
    for name, each in (("weight", Plus()), ("bias", Plus()), ("weight", Times())):
        surgery.constrain(module, {name: each})
        twin = copy.deepcopy(module)
        assert type(twin) is kind
        assert vars(twin).keys() == vars(module).keys()
        assert twin.notes == module.notes
        assert twin.notes is not module.notes
        ours, theirs = surgery.computed_parameters(module), surgery.computed_parameters(twin)
        assert ours.keys() == theirs.keys()
        for key, parameter in ours.items():
            assert parameter.spec == theirs[key].spec
            assert torch.equal(parameter, theirs[key])
            assert parameter.raws["raw"] is not theirs[key].raws["raw"]
        value = module.weight.detach().clone()
        with torch.no_grad():
            twin.weight.raws["raw"].add_(1.0)
        assert torch.equal(module.weight, value)
        assert not torch.equal(twin.weight, value)
        surgery.bake(twin)
        assert list(surgery.computed_parameters(module)) == list(ours)


class Turned(nn.Module):
    """An orthogonal matrix from a base that is drawn when it is made."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("base", nn.init.orthogonal_(torch.empty(width, width)))

    def forward(self, x: Tensor) -> Tensor:
        one, upper = torch.eye(len(x)), x.triu(1)
        return self.base @ torch.linalg.solve(one + upper - upper.mT, one - upper + upper.mT)


def turned() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 1))
    surgery.apply_constraints(model, {"0.weight": Turned(5)})
    return model


def test_serialization(tmp_path: Path):
    """By a state dict into a model of the same rules, and whole, which torch's parametrize refuses."""
    model, batch = turned(), torch.randn(3, 5)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = turned()
    assert not torch.equal(other[0].weight, model[0].weight)
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(other[0].weight, model[0].weight)
    assert torch.equal(other[0].weight.constraints[0].base, model[0].weight.constraints[0].base)
    torch.save(model, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert type(whole[0]) is nn.Linear
    assert torch.equal(whole(batch), model(batch))
    with pytest.raises(RuntimeError, match="state_dict"):
        torch.save(register(nn.Linear(5, 5), weight=Turned(5)), tmp_path / "theirs.pt")


def test_caching_without_a_context():
    """One evaluation for all reads in one step; torch needs `parametrize.cached` around them."""
    ours, theirs = surgery.constrain(nn.Linear(5, 5), weight=Counted()), register(nn.Linear(5, 5), weight=Counted())
    Counted.evaluations.clear()
    assert ours.weight.value() is ours.weight.value()
    for _ in range(3):
        ours(torch.ones(5))
    assert len(Counted.evaluations) == 1
    for _ in range(3):
        theirs(torch.ones(5))
    assert len(Counted.evaluations) == 1 + 3
    with parametrize.cached():
        ours(torch.ones(5)), theirs(torch.ones(5)), theirs(torch.ones(5))
    assert len(Counted.evaluations) == 1 + 3 + 1


class Doubling(nn.Module):
    """A plain tensor to a subclass that wraps two."""

    def forward(self, x: Tensor) -> Tensor:
        return TwoTensor(x, x)


def test_wrapper_subclass_value():
    """The weight is a plain Parameter, its value a subclass; what was there before comes back."""
    layer, batch = nn.Linear(2, 2), torch.randn(3, 2)
    before, expected = picture(layer), layer(batch).detach()
    surgery.constrain(layer, weight=Doubling())
    assert type(layer.weight.value()) is TwoTensor
    output = layer(batch)
    assert type(output) is TwoTensor
    assert torch.equal(output.a, expected)
    assert type(layer.weight.raws["raw"]) is nn.Parameter
    surgery.undo(layer)
    assert differences(before, picture(layer)) == []
