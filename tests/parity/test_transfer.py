"""Constraints and raws are carried from one module to another: the constraints are the rules, the rest is state."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

import surgery
from tests.parity.maps import Counted, Plus, RankOne, Scaled, Times, register


class Other(nn.Linear):
    """A layer of another class, which is used in the place of the first."""


def transfer(source: nn.Module, target: nn.Module, *names: str) -> None:
    """All that is constrained, or only ``names``; a parameter that the target lacks is made."""
    found = surgery.computed_parameters(source)
    for name in names or found:
        if name not in dict(target.named_parameters()):
            setattr(target, name, nn.Parameter(found[name].detach().clone()))
        for constraint in found[name].constraints:
            surgery.constrain(target, {name: constraint})
        target.get_submodule(name).load_state_dict(found[name].state_dict())


def chained(layer: nn.Module, *names: str) -> nn.Module:
    """Three maps on each name, one after the other."""
    for name in names:
        for each in (Plus(), Times(), Plus(-1.0)):
            surgery.constrain(layer, {name: each})
    return layer


def assert_carried(source: nn.Module, target: nn.Module, name: str) -> None:
    one, other = surgery.computed_parameters(source)[name], surgery.computed_parameters(target)[name]
    assert one is not other
    assert torch.equal(one, other)
    assert one.spec == other.spec
    assert one.raws.keys() == other.raws.keys()
    for role, raw in one.raws.items():
        assert torch.equal(raw, other.raws[role])
        assert raw is not other.raws[role]


def test_transfer():
    """The chain and its raw; a name that is not there; each trains and is baked on its own."""
    source, target = chained(nn.Linear(5, 5), "weight"), Other(5, 5)
    value = source.weight.detach().clone()
    transfer(source, target)
    assert_carried(source, target, "weight")
    assert type(target) is Other
    assert torch.equal(source.weight, value)
    surgery.bake(target)
    assert list(surgery.computed_parameters(source)) == ["weight"]
    with torch.no_grad():
        target.weight.zero_()
    assert torch.equal(source.weight, value)
    source.extra = nn.Parameter(torch.randn(5, 5))
    surgery.constrain(source, extra=Times())
    transfer(source, target, "extra")
    assert_carried(source, target, "extra")
    assert torch.equal(source.weight, value)


def test_transfer_with_a_right_inverse():
    source, target = surgery.constrain(nn.Linear(5, 5), weight=Scaled(2.0)), Other(5, 5)
    value = source.weight.detach().clone()
    transfer(source, target)
    assert_carried(source, target, "weight")
    assert torch.equal(target.weight.raws["raw"], value / 2)
    assert torch.equal(source.weight, value)


def test_transfer_of_a_single_parameter():
    source, target = chained(nn.Linear(5, 5), "weight", "bias"), Other(5, 5)
    bias, old = target.bias, target.bias.detach().clone()
    transfer(source, target, "weight")
    assert_carried(source, target, "weight")
    assert target.bias is bias
    assert torch.equal(bias, old)


def test_transfer_of_many_to_one():
    source, target = surgery.constrain(nn.Linear(3, 3), weight=RankOne()), Other(3, 3)
    surgery.constrain(source, weight=Times())
    value = source.weight.detach().clone()
    transfer(source, target)
    assert_carried(source, target, "weight")
    assert list(target.weight.raws) == ["0", "1"]
    source.extra = nn.Parameter(torch.randn(3, 3))
    surgery.constrain(source, extra=RankOne())
    transfer(source, target, "extra")
    assert_carried(source, target, "extra")
    assert torch.equal(source.weight, value)


def test_transfer_is_what_torch_transfers():
    """From the same raw, torch's pair of twins has the values of ours."""
    source, target = surgery.constrain(nn.Linear(3, 3), weight=RankOne()), Other(3, 3)
    theirs, theirs_target = nn.Linear(3, 3), Other(3, 3)
    with torch.no_grad():
        theirs.weight.copy_(source.weight.value())
    register(theirs, weight=RankOne())
    transfer(source, target)
    parametrize.transfer_parametrizations_and_params(theirs, theirs_target)
    torch.testing.assert_close(target.weight.detach(), theirs_target.weight.detach())


def test_transfer_and_hold():
    """Values are held without a context, which torch needs; source and target have values of their own."""
    source, target = surgery.constrain(nn.Linear(5, 5), weight=Counted()), Other(5, 5)
    transfer(source, target)
    batch = torch.ones(5)
    for layer in (source, target):
        Counted.evaluations.clear()
        for _ in range(3):
            layer(batch)
        assert Counted.evaluations == [id(layer.weight.constraints[0])]
        Counted.evaluations.clear()
        theirs = register(nn.Linear(5, 5), weight=Counted())
        Counted.evaluations.clear()
        for _ in range(3):
            theirs(batch)
        assert len(Counted.evaluations) == 3
    assert torch.equal(source.weight, target.weight)
    assert source.weight.value() is source.weight.value() is not target.weight.value()
