"""Applying rules to a live model: what stays as it was, what rules decide, what is constrained already."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import ExpTransform

import surgery
from computed.constraint import Constraint, Preimage
from computed.constraints.conversions import function
from computed.constraints.orthogonal import Orthogonal
from computed.parameter import ComputedParameter
from tests.surgery.models import MODELS, SPECS, SQUARE_SPECS, Listed, ResNet
from tests.surgery.picture import differences, picture

EVERY_MODEL = [pytest.param(*case, id=name) for name, case in MODELS.items()]
Build = Callable[[], nn.Module]
Rules = dict[str, object]


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


@pytest.mark.parametrize("cast", [nn.Module.float, nn.Module.half, nn.Module.double])
@pytest.mark.parametrize(
    "spec", [*SPECS, *SQUARE_SPECS, Orthogonal, ExpTransform(), function(torch.square, torch.sqrt)]
)
def test_the_same_spec_is_found_again_whatever_became_of_the_model(
    spec: object, cast: Callable[[nn.Module], nn.Module]
):
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec})
    model(torch.randn(2, 4)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    cast(model.eval())
    assert [row.action.value for row in surgery.plan(model, {"weight": spec}).sites] == ["already"]


class Capped(Constraint):
    """A constraint that does not write its setting."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, raw: Tensor) -> Tensor:
        return raw.clamp(max=self.bound)

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))

    def violation(self, value: Tensor, raws: object) -> float:
        return 0.0


def test_a_setting_that_no_spec_shows_makes_another_constraint():
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": Capped(1.0)})
    assert [row.action.value for row in surgery.plan(model, {"weight": Capped(1.0)}).sites] == ["already"]
    with pytest.raises(surgery.PlanError, match=r"is constrained already by 'Capped\(\)'; pass existing='chain'"):
        surgery.apply_constraints(model, {"weight": Capped(0.01)})
    surgery.apply_constraints(model, {"weight": Capped(0.01)}, existing="replace")
    assert float(model.weight.detach().max()) <= 0.01


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


def test_a_model_is_expected():
    with pytest.raises(surgery.SurgeryError, match=r"expected a torch\.nn\.Module, got Tensor"):
        surgery.apply_constraints(torch.ones(3), {"*": "spectral"})
    with pytest.raises(surgery.SurgeryError, match=r"via='source': the route is 'tree', .*'fx' or 'export'"):
        surgery.apply_constraints(nn.Linear(3, 3), {"weight": "spectral"}, via="source")
    with pytest.raises(surgery.SurgeryError, match=r"expected a torch\.nn\.Module, got Tensor"):
        surgery.apply_constraints(torch.ones(3), {"*": "spectral"}, via="fx")
    with pytest.raises(surgery.SurgeryError, match=re.escape("tie='both'; it is one of 'share', 'error', 'split'")):
        surgery.apply_constraints(nn.Linear(3, 3), {"weight": "spectral"}, tie="both")
    with pytest.raises(surgery.SurgeryError, match=re.escape("existing='x'; it is one of 'error', 'chain', 'replace'")):
        surgery.apply_constraints(nn.Linear(3, 3), {"weight": "spectral"}, existing="x")
