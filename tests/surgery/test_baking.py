"""A bake gives plain Parameters that hold the values of eval, bit for bit."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import computed
import surgery
from computed.constraints.spectral import Spectral
from computed.parameter import ComputedParameter
from surgery.rules.errors import RuleError
from tests.surgery.models import MODELS, SPECS, SQUARE_SPECS, Attending, Listed, ResNet, TiedLM, transformer
from tests.surgery.picture import bits, differences, picture

EVERY_MODEL = [pytest.param(*case, id=name) for name, case in MODELS.items()]
Build = Callable[[], nn.Module]
Rules = dict[str, object]


class Halves(nn.Module):
    """A torch parametrization of two halves: none has the shape of the weight."""

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        return torch.cat([upper, lower])

    def right_inverse(self, value: Tensor) -> tuple[Tensor, ...]:
        return value.chunk(2)


def trained(model: nn.Module, batch: Tensor, steps: int = 3) -> nn.Module:
    """Trained in train mode, where it stays, with an evaluation whose state is pending."""
    optimizer = torch.optim.Adam([tensor for tensor in model.parameters() if tensor.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(batch).square().sum().backward()
        optimizer.step()
    model(batch)
    return model


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
@pytest.mark.parametrize("build", [lambda: nn.Linear(4, 4), lambda: nn.Conv2d(4, 4, 3)], ids=["linear", "conv"])
def test_the_output_is_that_of_eval_bit_for_bit(build: Build, spec: str, mode: bool):
    model = build()
    if spec in SQUARE_SPECS and isinstance(model, nn.Conv2d):
        model = nn.Conv2d(4, 4, (4, 4))  # a stack of square matrices
    batch = torch.randn(3, 4) if isinstance(model, nn.Linear) else torch.randn(3, 4, 5, 5)
    surgery.apply_constraints(model, {"weight": spec})
    trained(model, batch)
    reference = copy.deepcopy(model).eval()
    expected, value = reference(batch), reference.weight.detach()
    model.train(mode)
    assert surgery.bake(model) is model
    assert type(model.weight) is nn.Parameter
    assert model.training is mode
    assert bits(model.weight) == bits(value)
    if "lora" in spec:
        torch.testing.assert_close(model.eval()(batch), expected, atol=1e-5, rtol=1e-5)
    else:
        assert bits(model.eval()(batch)) == bits(expected)


@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_a_baked_model_has_the_keys_and_order_of_the_plain_one(
    build: Build, inputs: Callable[[], Tensor], rules: Rules
):
    model, batch = build(), inputs()
    plain = copy.deepcopy(model)
    parameters = [name for name, _ in model.named_parameters()]
    children = [name for name, _ in model.named_modules()]
    surgery.apply_constraints(model, rules)
    trained(model, batch, 1)
    expected = surgery.state_dict(model, format="plain")
    output = model.eval()(batch)
    surgery.bake(model)
    state = model.state_dict()
    assert list(state) == list(plain.state_dict())
    assert [name for name, _ in model.named_parameters()] == parameters
    assert [name for name, _ in model.named_modules()] == children
    assert {key: bits(value) for key, value in state.items()} == {key: bits(value) for key, value in expected.items()}
    assert not surgery.computed_parameters(model)
    torch.testing.assert_close(model(batch), output, atol=1e-5, rtol=1e-5)
    plain.load_state_dict(state, strict=True)
    for name, buffer in model.named_buffers():
        plain.get_buffer(name).copy_(buffer)  # those that no state dict holds
    assert bits(plain.eval()(batch)) == bits(model(batch))
    for _, module in model.named_modules():
        assert type(module._modules) is dict
        assert not module._load_state_dict_pre_hooks
    trained(model, batch, 1)


def test_the_original_parameter_takes_the_value_where_it_is_still_a_raw():
    model = nn.Linear(4, 4)
    weight, bias = model.weight, model.bias
    surgery.apply_constraints(model, {"weight": "symmetric | spectral(bound=0.5)", "bias": "positive"})
    surgery.bake(model)
    assert (model.weight is weight, model.bias is bias) == (True, True)
    surgery.apply_constraints(model, {"weight": Halves})
    assert not any(raw is weight for raw in model.weight.raws.values())
    surgery.bake(model)
    assert model.weight is not weight
    assert list(model._parameters) == ["weight", "bias"]


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("spec", [*SPECS, "weight_norm | lora(2)", "lora(1) | spectral(bound=0.5)"])
def test_requires_grad_is_what_it_was(spec: str, requires_grad: bool):
    model = nn.Linear(4, 4)
    model.weight.requires_grad_(requires_grad)
    surgery.apply_constraints(model, {"weight": spec})
    model(torch.randn(2, 4)).sum().backward()
    surgery.bake(model)
    assert model.weight.requires_grad is requires_grad
    assert model.weight.grad is None  # a raw's gradient is not the value's


@pytest.mark.parametrize("spec", ["symmetric", "lora(2)", "weight_norm"])
def test_a_weight_that_was_frozen_since_stays_frozen(spec: str):
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec})
    model.weight.requires_grad_(False)
    surgery.bake(model)
    assert not model.weight.requires_grad


@pytest.mark.parametrize("spec", ["symmetric", "weight_norm"])
def test_a_weight_that_was_unfrozen_since_stays_trained(spec: str):
    model = nn.Linear(4, 4)
    model.weight.requires_grad_(False)
    surgery.apply_constraints(model, {"weight": spec})
    model.weight.requires_grad_(True)
    surgery.bake(model)
    assert model.weight.requires_grad


def test_a_rule_that_froze_is_not_undone_by_a_bake():
    model = surgery.apply_constraints(ResNet(), {"*": "frozen", "head.weight": "lora(2)"})
    surgery.bake(model)
    assert [name for name, tensor in model.named_parameters() if tensor.requires_grad] == ["head.weight"]


# parts


def test_one_pattern_bakes_what_it_matches():
    model, batch = ResNet(), torch.randn(2, 3, 6, 6)
    surgery.apply_constraints(model, {"*@Conv2d.weight": "spectral", "head.*": "positive"})
    expected = model.eval()(batch)
    surgery.bake(model, "blocks.0.*")
    left = ["stem.weight", "blocks.1.conv1.weight", "blocks.1.conv2.weight", "head.weight", "head.bias"]
    assert list(surgery.computed_parameters(model)) == left
    surgery.bake(model, ["*@Conv2d.weight"])
    assert list(surgery.computed_parameters(model)) == left[3:]
    surgery.bake(model, ["head.bias"])
    assert list(model.head._modules) == ["weight"]
    assert len(model.head._load_state_dict_pre_hooks) == 1
    assert bits(model(batch)) == bits(expected)
    surgery.bake(model)
    assert bits(model(batch)) == bits(expected)


@pytest.mark.parametrize("patterns", ["stem.bias", ["head.weight", "stem"], ["nope", "head.*"], "*.running_mean"])
def test_a_pattern_that_matches_no_computed_parameter_is_an_error(patterns: str | list[str]):
    model = surgery.apply_constraints(ResNet(), {"head.*": "positive", "*.conv1.weight": "spectral"})
    before = picture(model)
    wrong = [pattern for pattern in ([patterns] if isinstance(patterns, str) else patterns) if "head" not in pattern]
    message = (
        f"bake: no computed parameter matches {', '.join(map(repr, wrong))}; this ResNet has 4: "
        r"blocks\.0\.conv1\.weight, blocks\.1\.conv1\.weight, head\.weight, head\.bias$"
    ).replace("*", r"\*")
    with pytest.raises(surgery.SurgeryError, match=message):
        surgery.bake(model, patterns)
    assert differences(before, picture(model)) == []


def test_a_pattern_that_cannot_be_read_is_an_error():
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "symmetric"})
    with pytest.raises(ValueError, match=r"a name is empty"):
        surgery.bake(model, "a..b")
    with pytest.raises((RuleError, surgery.SurgeryError), match=r"weight@F\.linear"):
        surgery.bake(model, "weight@F.linear")
    assert isinstance(model.weight, ComputedParameter)


@pytest.mark.parametrize("name", ["head.weight", "embedding.weight"])
@pytest.mark.parametrize("spec", ["orthogonal", "weight_norm"])
def test_one_name_of_a_tie_bakes_the_tie(name: str, spec: str):
    model, tokens = TiedLM(), torch.randint(7, (2, 5))
    surgery.apply_constraints(model, {"head.weight": spec, "mix.weight": "symmetric"})
    expected = model(tokens)
    surgery.bake(model, name)
    assert model.head.weight is model.embedding.weight
    assert type(model.head.weight) is nn.Parameter
    assert isinstance(model.mix.weight, ComputedParameter)
    torch.testing.assert_close(model(tokens), expected)
    trained(model, tokens)
    assert model.head.weight is model.embedding.weight
    assert list(model.state_dict()) == ["embedding.weight", "mix.bias", "mix.weight.raw", "head.weight"]


def test_a_submodule_is_baked_alone():
    model = surgery.apply_constraints(ResNet(), {"*conv*.weight": "spectral"})
    surgery.bake(model.blocks[0])
    assert list(surgery.computed_parameters(model)) == ["blocks.1.conv1.weight", "blocks.1.conv2.weight"]
    with pytest.raises(
        surgery.UndoError, match=r"blocks\.0\.conv1\.weight no longer holds what the last apply left there"
    ):
        surgery.undo(model)


# what is said


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    assert {(record.name, record.levelno) for record in caplog.records} <= {("surgery", logging.INFO)}
    caplog.clear()
    return said


def test_a_bake_says_what_it_did(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "surgery")
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(36)])
    surgery.apply_constraints(model, {"*.weight": "spectral"})
    surgery.bake(model, "0.*")
    assert messages(caplog) == ["baked 1 of 36"]
    surgery.bake(model)
    assert messages(caplog) == ["baked 35 of 35"]
    surgery.bake(model)
    assert messages(caplog) == ["nothing to bake"]
    surgery.apply_constraints(model, {"*.weight": "symmetric"})
    surgery.bake(model)
    assert messages(caplog) == ["baked 36 of 36"]


def test_a_bake_says_what_becomes_dense(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "surgery")
    model = surgery.apply_constraints(nn.Linear(40, 40), {"*": "frozen", "weight": "lora(2)"})
    surgery.bake(model)
    assert messages(caplog) == ["baked 1 of 1; dense again: 1,760 -> 1,600 parameters"]
    surgery.bake(surgery.apply_constraints(nn.Linear(40, 40), {"weight": "weight_norm"}))
    assert messages(caplog) == ["baked 1 of 1; dense again: 1,640 -> 1,600 parameters"]


# buffers, dtypes, devices


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
def test_other_dtypes_are_baked_as_they_are_read(dtype: torch.dtype, spec: str):
    model = surgery.apply_constraints(nn.Linear(4, 4).to(dtype), {"weight": spec})
    trained(model, torch.randn(2, 4, dtype=dtype))
    value = copy.deepcopy(model).eval().weight.detach()
    surgery.bake(model)
    assert model.weight.dtype is dtype
    assert bits(model.weight) == bits(value)


def test_a_model_cast_since_is_baked_in_its_new_dtype():
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": "symmetric", "bias": "positive"}).half()
    surgery.bake(model)
    assert (model.weight.dtype, model.bias.dtype) == (torch.float16, torch.float16)


def test_buffers_become_buffers_again():
    model = Listed()
    surgery.apply_constraints(model, {"shift": "positive", "passing": "orthogonal"})
    batch = torch.randn(2, 3)
    expected = model.eval()(batch)
    surgery.bake(model)
    assert list(model._buffers) == ["shift", "passing"]
    assert type(model.shift) is type(model.passing) is Tensor
    assert model._non_persistent_buffers_set == {"passing"}
    assert list(model.state_dict()) == list(Listed().state_dict())
    assert not model.shift.requires_grad
    assert bits(model(batch)) == bits(expected)


def test_a_model_on_meta_is_baked():
    model = surgery.apply_constraints(nn.Linear(4, 4, device="meta"), {"weight": "spectral", "bias": "positive"})
    surgery.bake(model)
    assert model.weight.is_meta
    assert list(model.state_dict()) == ["weight", "bias"]


def test_a_pending_write_is_baked():
    model = surgery.constrain(nn.Linear(4, 4), weight="symmetric")
    with torch.no_grad():
        model.weight.copy_(torch.arange(16.0).view(4, 4))
    surgery.bake(model)
    half = torch.arange(16.0).view(4, 4) / 2
    assert torch.equal(model.weight, half + half.T)


def test_the_fast_path_of_attention_comes_back():
    for build in (Attending, transformer):
        model, batch = build().eval(), torch.randn(2, 5, 8)
        plain = copy.deepcopy(model)
        surgery.apply_constraints(
            model, {"*@Linear.weight": "spectral(bound=100)", "*.in_proj_weight": "spectral(bound=100)"}
        )
        surgery.bake(model)
        with torch.inference_mode():
            assert bits(model(batch)) == bits(plain(batch))


class Essay(nn.Module):
    """The form of the essay: a module without inputs gives the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.zeros(3))

    def forward(self) -> Tensor:
        return self.log.exp()


def test_what_a_module_without_inputs_computes_is_baked():
    model = nn.Module()
    model.bias = nn.Parameter(torch.zeros(2))
    model.scale = ComputedParameter(Essay())
    surgery.bake(model)
    assert list(model._parameters) == ["bias", "scale"]
    assert torch.equal(model.scale, torch.ones(3))
    assert model.scale.requires_grad


class Failing(nn.Module):
    """A torch parametrization that works twice."""

    calls = 0

    def forward(self, raw: Tensor) -> Tensor:
        type(self).calls += 1
        if type(self).calls > 2:
            raise ArithmeticError("out of order")
        return raw


def test_an_error_while_evaluating_leaves_everything_constrained():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    Failing.calls = 0
    surgery.apply_constraints(model, {"0.weight": "symmetric", "1.weight": Failing})
    Failing.calls = 2
    before = picture(model)
    with pytest.raises(ArithmeticError, match=r"^out of order$"):
        surgery.bake(model)
    assert differences(before, picture(model)) == []
    assert isinstance(model[0].weight, ComputedParameter)


@pytest.mark.parametrize("enabled", [True, False], ids=["held", "unheld"])
@pytest.mark.parametrize("gradients", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_kernels_are_those_of_a_parameter(enabled: bool, gradients: bool, frozen: bool):
    """A product of a batch is folded or not by whether its weight requires a gradient, whatever the mode."""
    layer = nn.Linear(4, 15, bias=False).requires_grad_(not frozen)
    inputs = torch.randn(3, 5, 4).transpose(0, 1)
    surgery.apply_constraints(layer, {"weight": "interval(-5, 5)"}).eval()
    computed.caching(layer, enabled)
    with torch.set_grad_enabled(gradients):
        before = layer(inputs)
        assert before.requires_grad is (gradients and not frozen)
        assert torch.equal(surgery.bake(layer)(inputs), before)


def test_a_bake_in_eval_takes_what_eval_holds(monkeypatch: pytest.MonkeyPatch):
    evaluated = []
    whole = Spectral.settled_state
    monkeypatch.setattr(Spectral, "settled_state", lambda self, raw: evaluated.append(1) or whole(self, raw))
    model = surgery.apply_constraints(nn.Linear(5, 4), {"weight": "spectral"})
    x = torch.randn(3, 5)
    expected = model.eval()(x)
    held = model.weight.value().detach()
    evaluated.clear()
    weight = surgery.bake(model).weight
    assert evaluated == []
    assert torch.equal(model(x), expected)
    with torch.no_grad():
        weight.zero_()  # in memory of its own
    assert held.abs().sum() > 0


@pytest.mark.parametrize("training", [True, False])
def test_a_bake_after_a_write_evaluates(training: bool):
    model = surgery.apply_constraints(nn.Linear(5, 4), {"weight": "spectral"}).eval()
    model(torch.randn(3, 5))
    model.train(training).weight.raws["raw"].data.mul_(3).add_(1)
    expected = copy.deepcopy(model).eval().weight.detach()
    assert torch.equal(surgery.bake(model).weight, expected)
