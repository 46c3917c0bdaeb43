"""Applying rules to a live model: identity, ties, buffers, hosts of every kind; all of it or nothing."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.distributions import ExpTransform
from torch.nn.utils import parametrizations, parametrize

import surgery
from computed.constraint import Constraint, Preimage
from computed.constraints.conversions import function
from computed.constraints.orthogonal import Orthogonal
from computed.parameter import ComputedParameter
from computed.site import Site
from surgery import applying
from tests.surgery.models import MODELS, SPECS, SQUARE_SPECS, Listed, ResNet, TiedLM
from tests.surgery.picture import differences, picture

EVERY_MODEL = [pytest.param(*case, id=name) for name, case in MODELS.items()]
Build = Callable[[], nn.Module]
Rules = dict[str, object]


def value_of(model: nn.Module, name: str) -> Tensor:
    return surgery.computed_parameters(model)[name].detach()


# identity


@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_modules_stay_what_they_are(build: Build, inputs: Callable[[], Tensor], rules: Rules):
    model = build()
    modules = {name: (id(module), type(module)) for name, module in model.named_modules()}
    tensors = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    model(inputs()).sum().backward()
    surgery.apply_constraints(model, rules)
    now = dict(model.named_modules())
    assert {name: (id(now[name]), type(now[name])) for name in modules} == modules
    computed = surgery.computed_parameters(model)
    assert len(computed) == len([row for row in surgery.plan(model, rules).sites if row.action.value == "already"]) > 0
    others = dict(model.named_parameters(remove_duplicate=False))
    for name, key in tensors.items():
        if name in computed and len(computed[name].raws) == 1:
            (raw,) = computed[name].raws.values()
            assert id(raw) == key, name
            assert raw.grad is None
        elif name in others:
            assert id(others[name]) == key, name
    model(inputs()).sum().backward()
    assert all(raw.grad is not None for w in computed.values() for raw in w.raws.values() if raw.requires_grad)


@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_one_raw_of_the_same_shape_is_the_old_parameter(spec: str, requires_grad: bool):
    layer = nn.Linear(4, 4)
    parameter = layer.weight.requires_grad_(requires_grad)
    parameter.note = "kept"
    parameter.grad = torch.ones(4, 4)
    surgery.apply_constraints(layer, {"weight": spec})
    raws = layer.weight.raws
    first = next(iter(raws.values()))
    assert (first is parameter) is (first.shape == parameter.shape)
    if first is parameter:
        assert first.note == "kept"
        assert first.grad is None
    added = {name for name in raws if name.rpartition(".")[2] in ("A", "B")}
    for name, raw in raws.items():
        # beside adapters nothing trains: their base is fixed, and what is below it gets no gradient
        assert raw.requires_grad is (name in added or (requires_grad and not added)), name


def test_order_of_parameters_and_children_is_kept():
    model = Listed()
    surgery.apply_constraints(model, {"scale": "positive", "first.weight": "spectral", "named.a": "skew"})
    assert list(model._modules) == ["first", "weights", "named", "last", "scale"]
    model.another = nn.Linear(2, 2)
    assert list(model._modules)[-2:] == ["another", "scale"]
    names = [name for name, _ in model.named_parameters()]
    assert names == [
        "first.bias", "first.weight.raw", "weights.0", "weights.1", "weights.2", "named.b", "named.a.raw",
        "last.weight", "last.bias", "another.weight", "another.bias", "scale.raw",
    ]  # fmt: skip


def test_hooks_stay_and_are_called():
    model, calls = ResNet(), []
    model.head.register_forward_hook(lambda *args: calls.append("forward"))
    model.head.register_full_backward_hook(lambda *args: calls.append("backward"))
    model.stem.weight.register_hook(lambda grad: calls.append("tensor"))
    surgery.apply_constraints(model, {"head.weight": "spectral", "stem.weight": "spectral"})
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    assert calls == ["forward", "backward", "tensor"]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_that_of_the_host(training: bool):
    model = ResNet().train(training)
    model.blocks[0].train(not training)
    surgery.apply_constraints(model, {"*conv1.weight": "spectral"})
    for name, weight in surgery.computed_parameters(model).items():
        expected = training if name.startswith("blocks.1") else not training
        assert [module.training for module in weight.modules()] == [expected] * 3, name


# fine-tuning


def test_frozen_with_adapters_is_a_fine_tuning_setup():
    model, batch = ResNet(), torch.randn(4, 3, 6, 6)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    expected = model.eval()(batch)
    plan = surgery.plan(model, {"*": "frozen", "*.conv?.weight": "lora(rank=2, alpha=4)"})
    plan.apply()
    trainable = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trainable == {f"blocks.{i}.conv{j}.weight.{role}" for i in (0, 1) for j in (1, 2) for role in "AB"}
    assert plan.trainable_after == sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    assert plan.total_after == sum(tensor.numel() for tensor in model.parameters())
    torch.testing.assert_close(model(batch), expected)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)
        model.train()(batch).square().sum().backward()
        optimizer.step()
    assert not torch.allclose(model.eval()(batch), expected)
    after = dict(model.named_parameters())
    for name, tensor in before.items():
        assert torch.equal(after.get(name, after.get(f"{name}.base")), tensor), name
    surgery.bake(model)
    # the bases were trainable until the adapters came; what a rule froze stays frozen
    trainable = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trainable == {f"blocks.{i}.conv{j}.weight" for i in (0, 1) for j in (1, 2)}


@pytest.mark.parametrize("spec", SPECS)
def test_a_frozen_weight_stays_frozen_but_for_what_adapters_add(spec: str):
    layer = nn.Linear(4, 4)
    layer.weight.requires_grad_(False)
    surgery.apply_constraints(layer, {"weight": spec})
    trained = {role for role, raw in layer.weight.raws.items() if raw.requires_grad}
    assert trained == ({"A", "B"} if spec.startswith("lora") else set())
    assert layer.weight.requires_grad is bool(trained)


def test_the_last_rule_decides_and_none_exempts():
    model = ResNet()
    rules = {"*@Conv2d.weight": "spectral", "blocks.*": None, "blocks.1.conv1.weight": "orthogonal", "head.*": "frozen"}
    surgery.apply_constraints(model, rules)
    specs = {name: weight.spec for name, weight in surgery.computed_parameters(model).items()}
    assert specs == {"stem.weight": "spectral(norm=1.0, dim=0)", "blocks.1.conv1.weight": "orthogonal(dim=0)"}
    assert [name for name, tensor in model.named_parameters() if not tensor.requires_grad] == [
        "head.weight",
        "head.bias",
    ]


# ties


def test_a_tie_is_one_computed_parameter_in_all_places():
    model, tokens = TiedLM(), torch.randint(7, (2, 5))
    parameter = model.embedding.weight
    surgery.apply_constraints(model, {"head.weight": "orthogonal"})
    assert model.head.weight is model.embedding.weight
    assert model.head.weight.raws["raw"] is parameter
    assert list(surgery.computed_parameters(model)) == ["embedding.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(tokens).square().sum().backward()
        optimizer.step()
    weight = model.embedding.weight.detach().double()
    torch.testing.assert_close(weight.T @ weight, torch.eye(4, dtype=torch.float64), atol=1e-5, rtol=0)
    assert model.head.weight is model.embedding.weight
    assert len(list(model.parameters())) == 3


def test_the_last_rule_that_matches_any_name_of_a_tie_decides():
    model = TiedLM()
    surgery.apply_constraints(model, {"embedding.weight": "spectral", "head.weight": "orthogonal"}, strict=False)
    assert model.embedding.weight.spec == "orthogonal"


def test_a_tie_can_be_refused():
    model = TiedLM()
    before = picture(model)
    message = (
        r"embedding\.weight \(Embedding\), rule 'head.weight': 'orthogonal': is tied to head\.weight; pass tie='share'"
    )
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {"head.weight": "orthogonal"}, tie="error")
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {"mix.weight": "symmetric"}, tie="error")


@pytest.mark.parametrize("name", ["head.weight", "embedding.weight"])
@pytest.mark.parametrize("spec", ["orthogonal", "lora(2)", "weight_norm"])
def test_a_split_tie_leaves_the_other_part_as_it_was(name: str, spec: str):
    model = TiedLM()
    parameter, bits = model.head.weight, model.head.weight.detach().clone()
    other = model.head if name == "embedding.weight" else model.embedding
    plan = surgery.plan(model, {name: spec}, tie="split")
    before = picture(model)
    plan.apply()
    assert other.weight is parameter
    assert parameter.requires_grad
    assert torch.equal(parameter, bits)
    raws = value_raws(model, name)
    assert not any(raw is parameter for raw in raws)
    assert plan.total_after == sum(tensor.numel() for tensor in model.parameters())
    assert plan.trainable_after == sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    with torch.no_grad():
        raws[-1].add_(1.0)
    assert torch.equal(parameter, bits)
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def value_raws(model: nn.Module, name: str) -> list[nn.Parameter]:
    return list(surgery.computed_parameters(model)[name].raws.values())


@pytest.mark.parametrize("spec", ["orthogonal", "lora(2)"])
def test_a_tie_that_is_split_on_both_sides_has_two_raws(spec: str):
    model = TiedLM()
    model.embedding.weight.grad = torch.ones(7, 4)
    parameter, before = model.head.weight, picture(model)
    plan = surgery.plan(model, {"{head,embedding}.weight": spec}, tie="split")
    plan.apply()
    first, second = value_raws(model, "embedding.weight")[0], value_raws(model, "head.weight")[0]
    assert first is parameter
    assert second is not first
    assert torch.equal(first, second)
    assert plan.total_after == sum(tensor.numel() for tensor in model.parameters())
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def test_a_split_tie_trains_where_the_other_part_is_frozen():
    model = TiedLM()
    surgery.apply_constraints(model, {"*": "frozen", "head.weight": "spectral"}, tie="split")
    assert not model.embedding.weight.requires_grad
    assert model.head.weight.requires_grad


def test_one_half_of_a_tie_cannot_be_frozen():
    model = TiedLM()
    before = picture(model)
    with pytest.raises(
        surgery.PlanError, match=r"head\.weight, rule 'head\.\*': is tied to embedding\.weight, which would be"
    ):
        surgery.apply_constraints(model, {"head.*": "frozen"}, tie="split")
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {"head.*": "frozen"})
    assert not model.embedding.weight.requires_grad


def test_a_shared_module_is_one_place_with_two_names():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    surgery.apply_constraints(model, {"2.weight": "spectral"}, tie="error")
    assert list(surgery.computed_parameters(model)) == ["0.weight"]
    assert model[0].weight is model[2].weight
    assert surgery.plan(model, {"*.weight": "spectral"}).sites[0].site.names == ("0.weight", "2.weight")


# hosts


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
    assert [parameter for name, parameter in model.named_parameters() if "shift" in name][0].requires_grad is False
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
    with pytest.raises(surgery.PlanError, match=r"rule '0\.weight': 'spectral' matches none"):
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
    model.b = nn.Parameter(memory[:9].view(3, 3))
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


# existing constraints


def test_another_constraint_on_a_site_is_an_error_that_names_the_choices():
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "symmetric"})
    before = picture(model)
    message = (
        r"is constrained already by 'symmetric'; pass existing='chain' to apply 'spectral\(norm=1\.0\)' after it, "
        r"or existing='replace' to take its place"
    )
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {"weight": "spectral"})
    assert differences(before, picture(model)) == []


def test_the_same_spec_again_is_left_alone():
    model = surgery.apply_constraints(ResNet(), {"*conv*.weight": "spectral", "*.bias": "positive"})
    before = picture(model)
    surgery.apply_constraints(model, {"*conv*.weight": "spectral(norm=1.0)", "*.bias": "positive"})
    assert differences(before, picture(model)) == []


def test_a_chain_is_appended_and_keeps_its_keys():
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": "symmetric"})
    raw = model.weight.raws["raw"]
    surgery.apply_constraints(model, {"weight": "spectral(bound=0.5)"}, existing="chain")
    assert model.weight.spec == "symmetric | spectral(bound=0.5)"
    assert model.weight.raws == {"raw": raw}
    assert {key for key in model.state_dict() if key.startswith("weight")} == {
        "weight.raw", "weight.constraints.1.u", "weight.constraints.1.v",
    }  # fmt: skip
    weight = model.weight.detach().numpy()
    assert np.array_equal(weight, weight.T)
    assert np.linalg.norm(weight, 2) <= 0.5 * 1.001


def test_a_replaced_constraint_starts_from_the_value():
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": "weight_norm"})
    value = model.weight.detach().clone()
    surgery.apply_constraints(model, {"weight": "spectral(bound=100)"}, existing="replace")
    assert list(model.weight.raws) == ["raw"]
    assert torch.equal(model.weight, value)


@pytest.mark.parametrize("existing", ["chain", "replace"])
def test_adapters_on_a_frozen_weight_do_not_make_it_trained(existing: str):
    model = nn.Linear(4, 4)
    surgery.apply_constraints(model, {"*": "frozen"})
    surgery.apply_constraints(model, {"weight": "lora(2)"})
    plan = surgery.plan(model, {"weight": "symmetric"}, existing=existing)
    plan.apply()
    trained = {role for role, raw in model.weight.raws.items() if raw.requires_grad}
    assert trained == ({"A", "B"} if existing == "chain" else set())
    assert plan.trainable_after == sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    assert plan.total_after == sum(tensor.numel() for tensor in model.parameters())


class Doubled(nn.Module):
    """A module without inputs: it computes a weight from a Parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Parameter(torch.eye(3) / 2)

    def forward(self) -> Tensor:
        return self.part * 2


def test_a_module_without_inputs_is_replaced_but_not_chained():
    model = nn.Linear(3, 3)
    del model.weight
    model.weight = ComputedParameter(Doubled())
    before = picture(model)
    message = r"is computed by Doubled without a raw, so nothing can be chained to it; pass existing='replace'"
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {"weight": "spectral"}, existing="chain")
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {"weight": "orthogonal"}, existing="replace")
    assert torch.equal(model.weight, torch.eye(3))
    surgery.undo(model)
    assert differences(before, picture(model)) == []


# specs of every kind


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


# what weights are


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
def test_models_of_other_dtypes(dtype: torch.dtype, spec: str):
    model = nn.Linear(4, 4).to(dtype)
    before = picture(model)
    surgery.apply_constraints(model, {"weight": spec})
    assert model.weight.dtype is dtype
    assert {raw.dtype for raw in model.weight.raws.values()} == {dtype}
    assert surgery.check(model).ok
    model(torch.randn(2, 4, dtype=dtype)).sum().backward()
    surgery.undo(model)
    model.bias.grad = None
    assert [place for place in differences(before, picture(model)) if place != "random state"] == []


def test_a_model_on_meta_is_projected_when_it_is_loaded():
    source = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    rules = {"0.weight": "orthogonal", "1.weight": "lora(2, seed=3)", "1.bias": "positive"}
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    plan = surgery.plan(model, rules)
    assert [row.measures.moved for row in plan.sites] == [None] * 3
    plan.apply()
    assert model[0].weight.is_meta
    model.to_empty(device="cpu").load_state_dict(source.state_dict())
    expected = surgery.apply_constraints(copy.deepcopy(source), rules)
    batch = torch.randn(2, 4)
    assert torch.equal(model.eval()(batch), expected.eval()(batch))
    again = surgery.apply_constraints(copy.deepcopy(source).to("meta"), rules)
    again.load_state_dict(expected.state_dict(), assign=True)
    assert torch.equal(again.eval()(batch), expected(batch))


def test_lazy_modules_are_planned_and_wait():
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3))
    before = picture(model)
    plan = surgery.plan(model, {"*.weight": "spectral(bound=0.1)"})
    assert plan.ok
    assert "shape unknown" in str(plan)
    assert [row.action.value for row in plan.sites] == ["shape unknown", "constrain"]
    message = r"0\.weight has no shape yet \(a lazy module\); run one batch through the model first"
    with pytest.raises(surgery.PlanError, match=message):
        plan.apply()
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {"*.weight": "spectral(bound=0.1)"})
    assert differences(before, picture(model)) == []
    model(torch.randn(2, 5))
    surgery.apply_constraints(model, {"*.weight": "spectral(bound=0.1)"})
    assert len(surgery.computed_parameters(model)) == 2
    assert surgery.check(model).ok


def test_a_lazy_module_can_be_frozen():
    model = nn.LazyLinear(3)
    before = picture(model)
    surgery.apply_constraints(model, {"*": "frozen"})
    assert not model.weight.requires_grad
    surgery.undo(model)
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {"*": "frozen"})
    model(torch.randn(2, 4))
    assert not model.weight.requires_grad


def trains_and_comes_back(model: nn.Module) -> None:
    """Constrain, train, and take back; the weights are in memory that torch did not allocate."""
    batch, before = torch.randn(3, 4), picture(model)
    plan = surgery.plan(model, {"*.weight": "spectral(bound=0.1)"})
    plan.apply()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()
    assert surgery.check(model.eval()).ok
    surgery.undo(model.train())
    for place in differences(before, picture(model)):
        assert place == "random state" or "bias" in place, place


def test_weights_from_safetensors(tmp_path: Path):
    source = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    save_model(source, str(tmp_path / "model.safetensors"))
    save_file({key: value.clone() for key, value in source.state_dict().items()}, tmp_path / "file.safetensors")
    model = copy.deepcopy(source)
    load_model(model, str(tmp_path / "model.safetensors"))
    trains_and_comes_back(model)
    model = copy.deepcopy(source)
    model.load_state_dict(load_file(tmp_path / "file.safetensors"), assign=True)
    trains_and_comes_back(model)
    surgery.apply_constraints(model, {"*.weight": "symmetric"})
    model.load_state_dict(load_file(tmp_path / "file.safetensors"), assign=True)
    half = source[0].weight.detach() / 2
    assert torch.equal(model[0].weight, half + half.T)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_weights_from_a_torch_file(tmp_path: Path, mapped: bool, whole: bool):
    source = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 4))
    source[0] = nn.Linear(4, 40)
    torch.save(source if whole else source.state_dict(), tmp_path / "file.pt")
    loaded = torch.load(tmp_path / "file.pt", weights_only=not whole, mmap=mapped)
    if whole:
        trains_and_comes_back(loaded)
    else:
        model = copy.deepcopy(source)
        model.load_state_dict(loaded, assign=True)
        trains_and_comes_back(model)


def test_weights_that_belong_to_numpy():
    model = nn.Linear(4, 4)
    array = np.random.randn(4, 4).astype(np.float32)
    model.weight = nn.Parameter(torch.from_numpy(array))
    kept = array.copy()
    trains_and_comes_back(nn.Sequential(model))
    assert np.array_equal(array, kept)
    array[0, 0] = 7.0
    assert float(model.weight[0, 0].detach()) == 7.0


def test_shared_memory_stays_shared():
    model = nn.Linear(4, 4).share_memory()
    surgery.apply_constraints(model, {"weight": "symmetric"})
    assert model.weight.raws["raw"].is_shared()
    assert surgery.check(model).ok


def test_apply_under_no_grad_and_in_inference_mode_gives_raws_that_train():
    for context in (torch.no_grad(), torch.inference_mode()):
        model, batch = nn.Linear(4, 4), torch.randn(2, 4)
        with context:
            surgery.apply_constraints(model, {"weight": "symmetric | lora(2)"})
        model(batch).sum().backward()
        trained = {name for name, raw in model.weight.raws.items() if raw.requires_grad}
        assert trained == {"constraints.1.A", "constraints.1.B"}  # what is below an adapter's base gets no gradient
        assert all(model.weight.raws[name].grad is not None for name in trained)
        with context:
            surgery.bake(model)
        model(batch).sum().backward()
        assert model.weight.grad is not None


def test_autocast_changes_nothing():
    plain, inside = nn.Linear(8, 8), nn.Linear(8, 8)
    inside.load_state_dict(plain.state_dict())
    surgery.apply_constraints(plain, {"weight": "orthogonal"})
    with torch.autocast("cpu", torch.bfloat16):
        surgery.apply_constraints(inside, {"weight": "orthogonal"})
    assert torch.equal(plain.weight, inside.weight)


# distributed


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("inside", [False, True])
def test_a_built_ddp_takes_what_needs_no_new_raws(process_group: None, inside: bool):
    wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    model, prefix = (nn.ModuleDict({"net": wrapped}), "net.module.") if inside else (wrapped, "module.")
    before = picture(model)
    for spec in ("lora(2)", "weight_norm", Outer()):
        with pytest.raises(
            surgery.PlanError, match=r"wrapped by DistributedDataParallel, .* constrain first, then wrap"
        ):
            surgery.apply_constraints(model, {f"{prefix}0.weight": spec})
    with pytest.raises(
        surgery.PlanError, match=r"waits for the gradient of every parameter .* freeze first, then wrap"
    ):
        surgery.apply_constraints(model, {f"{prefix}0.weight": "frozen"})
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {f"{prefix}0.weight": "spectral(bound=0.1)"})
    wrapped(torch.randn(2, 4)).sum().backward()
    assert wrapped.module[0].weight.raws["raw"].grad is not None


def test_a_sharded_model_is_refused(process_group: None):
    fsdp = pytest.importorskip("torch.distributed.fsdp", reason="this torch is built without FSDP")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    fsdp.fully_shard(model, mesh=mesh)
    before = [(name, id(tensor)) for name, tensor in model.named_parameters()]
    with pytest.raises(surgery.PlanError, match=r"is sharded \(a DTensor\), .* constrain before fully_shard\(model\)"):
        surgery.apply_constraints(model, {"0.weight": "spectral"})
    with pytest.raises(surgery.PlanError, match=r"is sharded, by a wrapper .* freeze first, then wrap"):
        surgery.apply_constraints(model, {"0.weight": "frozen"})
    assert [(name, id(tensor)) for name, tensor in model.named_parameters()] == before


# all or nothing


class Fault(Exception):
    """The planted fault."""


STEPS = ("assemble", "place", "rebuild_flat_weights", "set_mode", "_change", "_persistent", "_freeze")
FAULTY = {
    "resnet": (ResNet, {"*conv*.weight": "spectral", "head.*": "frozen", "stem.weight": "lora(2)"}, "share"),
    "lstm": (MODELS["lstm"][0], {"rnn.weight_hh*": "orthogonal", "rnn.bias*": "frozen", "out.*": "interval(-1, 1)"}, "share"),
    "tied": (TiedLM, {"head.weight": "weight_norm", "mix.weight": "symmetric", "mix.bias": "frozen"}, "share"),
    "split": (TiedLM, {"{head,embedding}.weight": "lora(2)", "mix.weight": "symmetric"}, "split"),
    "listed": (Listed, MODELS["listed"][2], "share"),
}  # fmt: skip


def failing_at(monkeypatch: pytest.MonkeyPatch, step: str, call: int, *, after: bool) -> None:
    """Let call number ``call`` of ``step`` raise, before it does anything or after it has."""
    original, count = getattr(applying, step), iter(range(1000))

    def faulty(*args: object, **kwargs: object) -> object:
        planted = next(count) == call
        if planted and not after:
            raise Fault
        result = original(*args, **kwargs)
        if planted:
            raise Fault
        return result

    monkeypatch.setattr(applying, step, faulty)


def calls_of(step: str, build: Build, rules: Rules, tie: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        failing_at(patch, step, 999, after=False)
        counting, calls = getattr(applying, step), []
        patch.setattr(applying, step, lambda *args, **kwargs: [calls.append(1), counting(*args, **kwargs)][1])
        surgery.apply_constraints(build(), rules, tie=tie)
    return len(calls)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", FAULTY)
def test_a_fault_at_any_step_leaves_the_model_as_it_was(case: str, step: str, after: bool):
    build, rules, tie = FAULTY[case]
    calls = calls_of(step, build, rules, tie)
    model = build()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, keys = picture(model), list(model.state_dict())
    for call in range(calls):
        with pytest.MonkeyPatch.context() as patch:
            failing_at(patch, step, call, after=after)
            with pytest.raises(Fault, match="^$"):
                surgery.apply_constraints(model, rules, tie=tie)
        assert differences(before, picture(model)) == [], (step, call)
        assert list(model.state_dict()) == keys
    surgery.apply_constraints(model, rules, tie=tie)
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def test_every_step_of_an_apply_is_tried():
    counts = {step: [calls_of(step, *FAULTY[case]) for case in FAULTY] for step in STEPS}
    assert all(any(found) for found in counts.values()), counts
    assert sum(map(sum, counts.values())) > 80


@pytest.mark.parametrize("existing", ["chain", "replace"])
@pytest.mark.parametrize("step", ["assemble", "place", "set_mode"])
def test_a_fault_while_constraining_again_leaves_the_first_constraint(existing: str, step: str):
    model = surgery.apply_constraints(ResNet(), {"*conv*.weight": "spectral", "head.weight": "lora(2)"})
    before = picture(model)
    rules = {"*conv*.weight": "orthogonal", "head.weight": "weight_norm", "head.bias": "positive"}
    for call in range(6):
        with pytest.MonkeyPatch.context() as patch:
            failing_at(patch, step, call, after=True)
            with pytest.raises(Fault, match="^$"):
                surgery.apply_constraints(model, rules, existing=existing)
        assert differences(before, picture(model)) == [], call
    assert surgery.check(model).ok


def test_an_interrupt_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch):
    model = ResNet()
    before = picture(model)

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(applying, "set_mode", interrupted)
    with pytest.raises(KeyboardInterrupt, match="^$"):
        surgery.apply_constraints(model, {"*conv*.weight": "spectral"})
    assert differences(before, picture(model)) == []


def test_a_model_is_expected():
    with pytest.raises(surgery.SurgeryError, match=r"expected a torch\.nn\.Module, got Tensor"):
        surgery.apply_constraints(torch.ones(3), {"*": "spectral"})
    with pytest.raises(surgery.SurgeryError, match=r"via='fx': the route is 'tree'"):
        surgery.apply_constraints(nn.Linear(3, 3), {"weight": "spectral"}, via="fx")
    with pytest.raises(surgery.SurgeryError, match=re.escape("tie='both'; it is one of 'share', 'error', 'split'")):
        surgery.apply_constraints(nn.Linear(3, 3), {"weight": "spectral"}, tie="both")
    with pytest.raises(surgery.SurgeryError, match=re.escape("existing='x'; it is one of 'error', 'chain', 'replace'")):
        surgery.apply_constraints(nn.Linear(3, 3), {"weight": "spectral"}, existing="x")


LOADED_FROM_A_FILE = """
import io, torch
from torch import nn
import surgery

def through_a_file(saved, **how):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, **how)

model = surgery.apply_constraints(nn.Linear(40, 40), {"weight": "symmetric"})
{load}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    model(torch.randn(2, 40)).sum().backward()
    optimizer.step()
model(torch.randn(2, 40))
print("done")
"""


@pytest.mark.xfail(
    reason="computed.watching.snapshot takes snapshots of memory that torch did not allocate", strict=True
)
@pytest.mark.parametrize(
    "load",
    [
        "model.load_state_dict(through_a_file(model.state_dict()), assign=True)",
        "model = through_a_file(model, weights_only=False)",
        "model.weight.raws['raw'].data = through_a_file(model.state_dict())['weight.raw']",
    ],
    ids=["assigned", "whole", "data"],
)
def test_raws_in_the_memory_of_a_file_train(load: str):
    """In a process of its own: torch crashes at a write to memory that it did not allocate, where a snapshot lives."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOADED_FROM_A_FILE.replace("{load}", load)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr[-2000:]
