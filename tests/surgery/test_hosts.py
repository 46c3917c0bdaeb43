"""Hosts of every kind: those that keep parameters in their own way, and those that are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import surgery
from computed.parameter import ComputedParameter
from tests.surgery.models import Listed
from tests.surgery.picture import differences, picture

Build = Callable[[], nn.Module]


def test_parameters_in_lists_and_dictionaries():
    model, batch = Listed(), torch.randn(4, 3)
    surgery.apply_constraints(model, {"weights.*": "orthogonal", "named.*": "interval(-1, 1)"})
    assert [type(weight) for weight in model.weights] == [ComputedParameter] * 3
    assert len(model.weights) == 3
    assert list(model.named.keys()) == ["a", "b"]
    assert model.named["b"].spec == "interval(low=-1.0, high=1.0)"
    assert "ParameterList" in repr(model)
    model(batch).sum().backward()
    assert surgery.check(model).ok


def test_buffers_are_meant_only_where_their_name_is_written():
    model, batch = Listed(), torch.randn(4, 3)
    surgery.apply_constraints(model, {"*.{scale,*t}": "positive"})
    assert list(surgery.computed_parameters(model)) == ["scale", "first.weight", "last.weight"]
    surgery.apply_constraints(model, {"shift": "positive", "*.passing": "orthogonal"})
    assert bool((model.shift > 0).all())
    assert not dict(model.named_parameters())["shift.raw"].requires_grad
    model(batch)
    norm = nn.BatchNorm1d(3)
    with pytest.raises(
        surgery.PlanError, match=r"num_batches_tracked \(BatchNorm1d\).*has dtype int64; only float tensors"
    ):
        surgery.apply_constraints(norm, {"*.num_batches_tracked": "positive"})


def test_a_module_that_torch_parametrizes_keeps_its_parametrization():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    surgery.apply_constraints(model, {"*.bias": "positive", "1.weight": "orthogonal"})
    assert parametrize.is_parametrized(model[0], "weight")
    assert list(surgery.computed_parameters(model)) == ["0.bias", "1.weight", "1.bias"]
    model(torch.randn(2, 3)).sum().backward()
    with pytest.raises(surgery.PlanError, match=r"0\.weight .*surgery\.adopt\(model, '0\.weight'\)"):
        surgery.apply_constraints(model, {"0.weight": "spectral"})
    surgery.undo(model)
    assert type(model[0].bias) is nn.Parameter


def test_a_child_whose_name_only_ends_in_parametrizations_is_a_child():
    model = nn.Module()
    model.myparametrizations = nn.Linear(3, 3)
    surgery.apply_constraints(model, {"*.weight": "spectral"})
    assert list(surgery.computed_parameters(model)) == ["myparametrizations.weight"]


class Owning(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3))
        self.scale = nn.Parameter(torch.ones(3))


def owning(kind: type[nn.Module]) -> nn.Module:
    model = kind()
    model.scale = nn.Parameter(torch.ones(3))
    return model


@pytest.mark.parametrize(
    ("build", "rule", "message"),
    [
        (Owning, "scale", r"scale \(Owning\).* is owned directly by a Owning, which calls its children"),
        (lambda: owning(nn.ModuleList), "scale", r"is owned directly by a ModuleList, .* into a module of its own"),
        (lambda: owning(nn.ModuleDict), "scale", r"is owned directly by a ModuleDict"),
        (
            lambda: nn.Embedding(3, 3, max_norm=1.0),
            "weight",
            r"Embedding\(max_norm=1\.0\).*; set max_norm=None and use",
        ),
        (lambda: nn.EmbeddingBag(3, 3, max_norm=1.0), "weight", r"EmbeddingBag\(max_norm=1\.0\)"),
        (
            lambda: nn.Embedding(3, 3, sparse=True),
            "weight",
            r"has sparse gradients \(Embedding\(sparse=True\)\).* set sparse=False",
        ),
        (
            lambda: torch.jit.script(nn.Linear(3, 3)),
            "weight",
            r"stands in a RecursiveScriptModule, .* before torch\.jit\.script",
        ),
        (lambda: torch.jit.trace(nn.Linear(3, 3), torch.ones(3)), "weight", r"stands in a TopLevelTracedModule"),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(3, 3))), "0.weight", r"stands in a RecursiveScriptModule"),
    ],
)
def test_hosts_that_would_not_use_it_as_a_tensor_are_refused(build: Build, rule: str, message: str):
    model = build()
    before = picture(model)
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {rule: "positive"})
    assert differences(before, picture(model)) == []


def test_a_refused_host_can_still_be_frozen():
    model = Owning()
    surgery.apply_constraints(model, {"scale": "frozen"})
    assert not model.scale.requires_grad
    surgery.undo(model)
    assert model.scale.requires_grad


def overlapping() -> nn.Module:
    memory = torch.randn(40)
    model = nn.Module()
    model.a = nn.Parameter(memory)
    model.b = nn.Parameter(memory[1:10].view(3, 3))
    model.c = nn.Parameter(memory[20:29].view(3, 3))
    model.d = nn.Parameter(torch.randn(3, 3))
    return model


@pytest.mark.parametrize("name", ["b", "c"])
def test_a_parameter_inside_another_ones_memory_is_refused(name: str):
    model = overlapping()
    before = picture(model)
    message = (
        rf"{name} \(Module\), rule '{name}': 'spectral': shares its storage with a, so a write to one would change"
    )
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {name: "spectral"})
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {"d": "spectral"})


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 3).weight.data.t(), lambda: torch.randn(3, 6)[:, ::2]])
def test_strided_parameters_are_constrained(build: Callable[[], Tensor]):
    model = nn.Module()
    model.weight = nn.Parameter(build())
    assert not model.weight.is_contiguous()
    before, value = picture(model), model.weight.detach().clone()
    surgery.apply_constraints(model, {"weight": "spectral(bound=100)"})
    assert torch.equal(model.weight, value)
    surgery.apply_constraints(model, {"weight": "orthogonal"}, existing="replace")
    assert surgery.check(model).ok
    surgery.undo(model)
    surgery.undo(model)
    assert differences(before, picture(model)) == []
