"""State dicts: the plain one is that of the original model, the own one comes back, and each loads into the other."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from tests.surgery.models import MODELS, SPECS, SQUARE_SPECS, Listed, ResNet, TiedLM
from tests.surgery.picture import bits, differences, picture

EVERY_MODEL = [pytest.param(*case, id=name) for name, case in MODELS.items()]
Build = Callable[[], nn.Module]
Rules = dict[str, object]


def trained(model: nn.Module, batch: Tensor, steps: int = 2) -> nn.Module:
    optimizer = torch.optim.Adam([tensor for tensor in model.parameters() if tensor.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(batch).square().sum().backward()
        optimizer.step()
    return model


def with_the_same_passing_buffers(model: nn.Module, source: nn.Module) -> nn.Module:
    """``model`` with the buffers of ``source`` that no state dict holds."""
    values = {
        name: getattr(source.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in passing(model)
    }
    for name, value in values.items():
        model.get_buffer(name).copy_(value.detach())
    return model


def passing(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_buffers() if name not in model.state_dict()]


@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_the_plain_state_dict_is_that_of_the_original_model(build: Build, inputs: Callable[[], Tensor], rules: Rules):
    model, batch = build(), inputs()
    original = copy.deepcopy(model)
    expected = original.state_dict()
    surgery.apply_constraints(model, rules)
    trained(model, batch)
    output = model.eval()(batch)
    before = picture(model.train())
    plain = surgery.state_dict(model, format="plain")
    assert differences(before, picture(model)) == []
    assert type(plain) is OrderedDict
    assert list(plain) == list(expected)
    assert plain._metadata == expected._metadata
    assert list(plain._metadata) == list(expected._metadata)
    assert {key: (value.shape, value.dtype) for key, value in plain.items()} == {
        key: (value.shape, value.dtype) for key, value in expected.items()
    }
    assert not any(value.requires_grad for value in plain.values())
    with_the_same_passing_buffers(original, model)
    original.load_state_dict(plain, strict=True)
    torch.testing.assert_close(original.eval()(batch), output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_the_own_state_dict_comes_back(build: Build, inputs: Callable[[], Tensor], rules: Rules):
    model, batch = surgery.apply_constraints(build(), rules), inputs()
    trained(model, batch)
    own = surgery.state_dict(model)
    assert list(own) == list(model.state_dict())
    assert own._metadata == model.state_dict()._metadata
    for assign in (False, True):
        other = with_the_same_passing_buffers(surgery.apply_constraints(build(), rules), model)
        other.load_state_dict(copy.deepcopy(own), strict=True, assign=assign)
        assert {key: bits(value) for key, value in other.state_dict().items()} == {
            key: bits(v) for key, v in own.items()
        }
        assert bits(other.eval()(batch)) == bits(model.eval()(batch))
        trained(other, batch, 1)
        model.train()


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_a_plain_state_dict_loads_into_a_constrained_model(
    build: Build, inputs: Callable[[], Tensor], rules: Rules, assign: bool
):
    source, batch = build(), inputs()
    expected = with_the_same_passing_buffers(build(), source)
    expected.load_state_dict(source.state_dict())
    surgery.apply_constraints(expected, rules)
    model = surgery.apply_constraints(with_the_same_passing_buffers(build(), source), rules)
    state = source.state_dict()
    kept = {key: bits(value) for key, value in state.items()}
    found = model.load_state_dict(state, strict=True, assign=assign)
    assert str(found) == "<All keys matched successfully>"
    assert {key: bits(value) for key, value in state.items()} == kept
    assert bits(model.eval()(batch)) == bits(expected.eval()(batch))
    assert surgery.check(model).ok
    trained(model, batch)
    assert surgery.check(model.eval()).ok


@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_round_trip_keeps_a_value_that_is_inside(spec: str, dtype: torch.dtype):
    model = surgery.apply_constraints(nn.Linear(4, 4).to(dtype), {"weight": spec})
    trained(model, torch.randn(2, 4, dtype=dtype))
    plain = surgery.state_dict(model, format="plain")
    other = surgery.apply_constraints(nn.Linear(4, 4).to(dtype), {"weight": spec})
    other.load_state_dict(plain, strict=True)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(other.eval().weight.detach(), plain["weight"], atol=tolerance, rtol=tolerance)
    again = surgery.state_dict(other, format="plain")
    torch.testing.assert_close(again["weight"], plain["weight"], atol=tolerance, rtol=tolerance)


class Nested(nn.Module):
    """Two ResNets under long names, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left = ResNet()
        self.right = nn.ModuleDict({"net": ResNet()})
        self.again = self.left


@pytest.mark.parametrize("assign", [False, True])
def test_nested_and_shared_modules(assign: bool):
    source, batch = Nested(), torch.randn(2, 3, 6, 6)
    model = surgery.apply_constraints(
        Nested(), {"*.conv?.weight": "spectral(bound=0.5)", "left.stem.weight": "orthogonal"}
    )
    assert list(surgery.state_dict(model, format="plain")) == list(source.state_dict())
    model.load_state_dict(source.state_dict(), strict=True, assign=assign)
    plain = surgery.state_dict(model, format="plain")
    assert plain["left.stem.weight"].data_ptr() == plain["again.stem.weight"].data_ptr()
    source.load_state_dict(plain, strict=True)
    for one, other in ((model.left, source.left), (model.right["net"], source.right["net"])):
        assert bits(one.eval()(batch)) == bits(other.eval()(batch))


def test_a_submodule_has_its_own_plain_state_dict():
    model = surgery.apply_constraints(ResNet(), {"*.conv1.weight": "spectral", "head.weight": "lora(2)"})
    block = surgery.state_dict(model.blocks[0], format="plain")
    assert list(block) == list(ResNet().blocks[0].state_dict())
    assert block._metadata == ResNet().blocks[0].state_dict()._metadata
    model.blocks[1].load_state_dict(block, strict=True)
    torch.testing.assert_close(model.blocks[1].conv1.weight.detach(), model.blocks[0].conv1.weight.detach())
    assert list(surgery.state_dict(model.head, format="plain")) == ["weight", "bias"]


def test_ties_share_a_tensor():
    model = surgery.apply_constraints(TiedLM(), {"head.weight": "orthogonal"})
    plain = surgery.state_dict(model, format="plain")
    assert list(plain) == list(TiedLM().state_dict())
    assert plain["head.weight"] is plain["embedding.weight"]
    own = surgery.state_dict(model)
    assert own["head.weight.raw"].data_ptr() == own["embedding.weight.raw"].data_ptr()
    other = TiedLM()
    other.load_state_dict(plain)
    assert torch.equal(other.head.weight, model.head.weight)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3), nn.Linear(3, 3, bias=False)),
        lambda: nn.Sequential(nn.Embedding(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3, bias=False))),
        lambda: nn.Linear(3, 3, bias=False),
        lambda: nn.BatchNorm1d(3),
    ],
)
def test_hosts_whose_tensors_are_all_computed_keep_their_position(build: Build):
    model = build()
    keys = list(model.state_dict())
    names = [name for name, _ in model.named_parameters()]
    surgery.apply_constraints(model, {"*": "positive"})
    assert list(surgery.computed_parameters(model)) == names
    assert list(surgery.state_dict(model, format="plain")) == keys
    for name in names:
        one = surgery.apply_constraints(build(), {name: "positive"})
        assert list(surgery.state_dict(one, format="plain")) == keys


class Gaps(nn.Module):
    """Has parameters and buffers that are None or not saved, before others."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("absent", None)
        self.weight = nn.Parameter(torch.rand(3))
        self.register_parameter("bias", None)
        self.scale = nn.Parameter(torch.rand(3))
        self.register_buffer("passing", torch.rand(3), persistent=False)
        self.register_buffer("nothing", None)
        self.register_buffer("kept", torch.rand(3))


@pytest.mark.parametrize(
    "names", [["weight"], ["scale"], ["kept"], ["weight", "kept"], ["weight", "scale", "kept", "passing"]]
)
def test_what_is_none_or_not_saved_leaves_no_gap(names: list[str]):
    model = surgery.apply_constraints(nn.Sequential(Gaps(), Gaps()), {f"*.{name}": "positive" for name in names})
    plain = surgery.state_dict(model, format="plain")
    assert list(plain) == [f"{i}.{name}" for i in (0, 1) for name in ("weight", "scale", "kept")]


class Extra(nn.Module):
    """Keeps more than tensors, and adds a key by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.register_buffer("count", torch.zeros(1))
        self.child = nn.Linear(3, 3)
        self.register_state_dict_post_hook(
            lambda module, state, prefix, metadata: state.update({f"{prefix}note": torch.ones(1)})
        )

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def test_extra_state_and_hooks_keep_their_entries():
    model = nn.ModuleDict({"first": Extra(), "second": Extra()})
    expected = list(model.state_dict())
    surgery.apply_constraints(model, {"*.weight": "positive", "*.count": "positive"})
    plain = surgery.state_dict(model, format="plain")
    assert list(plain) == expected
    assert plain["first._extra_state"] == {"version": 3}


def test_parameters_registered_since_come_behind():
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "symmetric"})
    model.extra = nn.Parameter(torch.ones(1))
    model.child = nn.Linear(1, 1)
    assert list(surgery.state_dict(model, format="plain")) == ["weight", "bias", "extra", "child.weight", "child.bias"]


def test_the_values_are_copies():
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "symmetric"})
    before = model.weight.detach().clone()
    surgery.state_dict(model, format="plain")["weight"].zero_()
    assert torch.equal(model.weight, before)


def test_training_gives_the_values_of_eval():
    model, batch = (
        surgery.apply_constraints(ResNet(), {"*conv*.weight": "spectral(bound=0.1)"}),
        torch.randn(2, 3, 6, 6),
    )
    trained(model, batch)
    model(batch)
    plain = surgery.state_dict(model, format="plain")
    sigma = torch.linalg.matrix_norm(plain["blocks.0.conv1.weight"].flatten(1).double(), 2)
    assert sigma <= 0.1 * 1.001
    assert bits(plain["blocks.0.conv1.weight"]) == bits(model.eval().blocks[0].conv1.weight.detach())


@pytest.mark.parametrize("format", ["weight-norm", "plane", "", None])
def test_another_format_is_an_error(format: Any):
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "symmetric"})
    with pytest.raises(
        surgery.SurgeryError, match=r"state_dict: format=.*; it is one of 'own', 'plain', 'weight_norm'"
    ):
        surgery.state_dict(model, format=format)


def test_a_model_without_computed_parameters_has_its_own_in_both_formats():
    model = Listed()
    expected = model.state_dict()
    for format in ("own", "plain"):
        found = surgery.state_dict(model, format=format)
        assert list(found) == list(expected)
        assert found._metadata == expected._metadata


@pytest.mark.parametrize("assign", [False, True])
def test_a_constrained_buffer_that_is_not_saved_stays_as_it_is(assign: bool):
    model, state = Listed(), Listed().state_dict()
    surgery.apply_constraints(model, {"passing": "spectral(bound=0.5)", "shift": "positive"})
    before = model.passing.detach().clone()
    model.load_state_dict(state, strict=True, assign=assign)
    assert torch.equal(model.passing, before)
    own = surgery.state_dict(model)
    other = surgery.apply_constraints(Listed(), {"passing": "spectral(bound=0.5)", "shift": "positive"})
    other.load_state_dict(own, strict=True, assign=assign)
    assert torch.equal(other.passing, before)


@pytest.mark.parametrize("strict", [True, False])
def test_a_wrong_shape_is_reported_as_torch_does(strict: bool):
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(3, 3)), {"0.weight": "symmetric"})
    before = model[0].weight.detach().clone()
    message = (
        r"size mismatch for 0\.weight: copying a param with shape torch\.Size\(\[2, 2\]\) from checkpoint, the shape "
        r"in current model is torch\.Size\(\[3, 3\]\)\."
    )
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict({"0.weight": torch.ones(2, 2), "0.bias": torch.ones(3)}, strict=strict)
    assert torch.equal(model[0].weight, before)


def test_missing_and_unexpected_keys_are_reported_by_their_own_names():
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(3, 3)), {"0.weight": "spectral"})
    found = model.load_state_dict({"0.bias": torch.ones(3), "0.weights": torch.ones(3, 3)}, strict=False)
    assert found.unexpected_keys == ["0.weights"]
    assert found.missing_keys == ["0.weight.raw", "0.weight.constraints.0.u", "0.weight.constraints.0.v"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_plain_checkpoint_of_another_dtype(dtype: torch.dtype):
    source = nn.Linear(3, 3).to(dtype)
    for spec in (*SPECS, *SQUARE_SPECS):
        model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": spec})
        model.load_state_dict(source.state_dict(), strict=True)
        assert model.weight.dtype is torch.float32
        assert surgery.check(model).ok, spec


def test_loading_leaves_the_checkpoint_alone():
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "orthogonal", "bias": "positive"})
    state = nn.Linear(3, 3).state_dict()
    kept = {key: bits(value) for key, value in state.items()}
    model.load_state_dict(state, assign=True)
    trained(model, torch.randn(2, 3))
    assert {key: bits(value) for key, value in state.items() if key == "weight"} == {"weight": kept["weight"]}
    assert list(state) == ["weight", "bias"]
