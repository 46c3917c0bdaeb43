"""Specs of every kind: names, classes, modules, transforms, functions, factories."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import ExpTransform

import surgery
from computed.constraint import Constraint, Preimage
from computed.constraints.conversions import function
from computed.constraints.orthogonal import Orthogonal
from computed.site import Site
from tests.surgery.picture import differences, picture


class Halved(Constraint):
    """value = raw / 2."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw / 2

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value * 2,))

    def violation(self, value: Tensor, raws: object) -> float:
        return 0.0


class Squared(nn.Module):
    """A torch parametrization."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.square()

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.abs().sqrt()


class Outer(nn.Module):
    """A torch parametrization of two tensors, with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        self.calls += 1
        return self.gain * left[:, None] * right

    def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(value)), value


def cubed(raw: Tensor) -> Tensor:
    return raw**3


def cube_root(value: Tensor) -> Tensor:
    return value.sign() * value.abs() ** (1 / 3)


def narrow_only(site: Site) -> str | None:
    """A factory."""
    return "spectral(bound=0.5)" if site.shape is not None and site.shape[0] < 4 else None


@pytest.mark.parametrize(
    ("spec", "written", "raws"),
    [
        ("symmetric", "symmetric", ["raw"]),
        (Orthogonal, "orthogonal", ["raw"]),
        (Orthogonal(), "orthogonal", ["raw"]),
        (Halved, "Halved()", ["raw"]),
        (Squared, "Squared", ["raw"]),
        (Outer(), "Outer", ["0", "1"]),
        (ExpTransform(), "TransformConstraint(ExpTransform())", ["raw"]),
        (function(cubed, cube_root), "FunctionConstraint(cubed, inverse=cube_root)", ["raw"]),
        (narrow_only, "spectral(bound=0.5)", ["raw"]),
        (lambda site: Orthogonal(), "orthogonal", ["raw"]),
        (lambda site: Squared, "Squared", ["raw"]),
    ],
)
def test_specs_of_every_kind(spec: object, written: str, raws: list[str]):
    model, batch = nn.Linear(3, 3), torch.randn(2, 3)
    with torch.no_grad():
        model.weight.abs_().add_(0.1)
    plan = surgery.plan(model, {"weight": spec})
    assert [row.constraint for row in plan.sites] == [written]
    plan.apply()
    assert list(model.weight.raws) == raws
    assert plan.total_after == sum(tensor.numel() for tensor in model.parameters())
    model(batch).sum().backward()
    assert all(raw.grad is not None for raw in model.weight.raws.values())
    expected = model.eval()(batch)
    assert torch.equal(copy.deepcopy(model)(batch), expected)
    surgery.bake(model)
    assert torch.equal(model(batch), expected)


def test_a_module_is_copied_for_each_site_and_left_alone_itself():
    spec = Outer()
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    surgery.apply_constraints(model, {"*.weight": spec})
    modules = [*model[0].weight.constraints, *model[1].weight.constraints]
    assert len({id(module) for module in [spec, *modules]}) == 3
    assert float(spec.calls) == 0


def test_a_factory_that_returns_none_leaves_the_site_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5))
    surgery.apply_constraints(model, {"*.weight": narrow_only})
    assert list(surgery.computed_parameters(model)) == ["0.weight"]


def test_the_traceback_of_a_factory_is_kept():
    def failing(site: Site) -> str:
        raise KeyError(f"no entry for {site.name}")

    model = nn.Linear(3, 3)
    before = picture(model)
    with pytest.raises(KeyError, match="no entry for weight"):
        surgery.apply_constraints(model, {"weight": failing})
    assert differences(before, picture(model)) == []
