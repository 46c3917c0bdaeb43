"""LoRA: its value by NumPy, its rules against its value, its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from computed.constraints.adapters import LoRA
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter
from computed.site import site_of

CONVOLUTIONS = {1: (nn.Conv1d, F.conv1d), 2: (nn.Conv2d, F.conv2d), 3: (nn.Conv3d, F.conv3d)}


def adapted(value: Tensor, host: nn.Module | None = None, **settings: object) -> ComputedParameter:
    """A trained adapter of rank 2: its factors are not at their start."""
    constraint = LoRA(2, alpha=3.0, **settings)
    host = nn.Module() if host is None else host
    constraint.bind(site_of(host, ("weight",), value, shape=value.shape))
    parameter = ComputedParameter.from_value(value, constraint)
    with torch.no_grad():
        parameter.raws["B"].normal_()
    return parameter


def both(op, parameter: ComputedParameter, *args: Tensor, **kwargs: object) -> tuple[list[Tensor], list[Tensor]]:
    """Result and gradients of the raws: by the rule, and by the value."""
    found = []
    for factored in (True, False):
        parameter.zero_grad()
        weight = parameter if factored else parameter.value()
        arguments = [argument.clone().requires_grad_() for argument in args]
        result = op(arguments[0], weight, *arguments[1:], **kwargs)
        result.float().square().sum().backward()
        gradients = [raw.grad.clone() for raw in parameter.raws.values() if raw.grad is not None]
        found.append([result.detach(), *(argument.grad for argument in arguments), *gradients])
    return found[0], found[1]


def test_value_is_base_plus_scaled_product():
    parameter = adapted(torch.randn(5, 7))
    base, a, b = (raw.detach().double().numpy() for raw in parameter.raws.values())
    np.testing.assert_allclose(parameter.detach().numpy(), base + 3.0 / 2 * b @ a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_value_starts_as_the_weight_bit_for_bit(dtype):
    weight = torch.randn(5, 7).to(dtype)
    weight[0] = -0.0
    value = ComputedParameter.from_value(weight, LoRA(3, alpha=7)).detach()
    assert torch.equal(value, weight)
    assert torch.equal(value.signbit(), weight.signbit())


def test_only_the_factors_train_also_where_the_weight_was_frozen():
    weight = nn.Parameter(torch.randn(5, 7), requires_grad=False)
    parameter = ComputedParameter.from_value(weight, LoRA(2))
    assert {role: raw.requires_grad for role, raw in parameter.raws.items()} == {"base": False, "A": True, "B": True}
    assert parameter.raws["base"] is weight
    trained = ComputedParameter.from_value(nn.Parameter(torch.randn(5, 7)), LoRA(2))
    assert not trained.raws["base"].requires_grad


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 7)])
def test_linear_by_the_rule_is_linear_by_the_value(shape, with_bias):
    parameter = adapted(torch.randn(5, 7, dtype=torch.float64))
    bias = [torch.randn(5, dtype=torch.float64)] if with_bias else []
    by_rule, by_value = both(F.linear, parameter, torch.randn(shape, dtype=torch.float64), *bias)
    torch.testing.assert_close(by_rule, by_value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", [
    {}, {"stride": 2}, {"padding": 1}, {"padding": "same", "dilation": 2}, {"padding": "valid"},
    {"dilation": 2, "stride": 3},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dims", CONVOLUTIONS)
def test_convolution_by_the_rule_is_convolution_by_the_value(dims, settings):
    kind, op = CONVOLUTIONS[dims]
    host = kind(3, 4, 3, dtype=torch.float64)
    parameter = adapted(host.weight.detach(), host)
    inputs = torch.randn(2, 3, *[8] * dims, dtype=torch.float64)
    by_rule, by_value = both(op, parameter, inputs, host.bias.detach(), **settings)
    torch.testing.assert_close(by_rule, by_value, rtol=1e-11, atol=1e-11)
    unbatched = op(inputs[0], parameter, **settings)
    torch.testing.assert_close(unbatched, op(inputs[0], parameter.value(), **settings), rtol=1e-11, atol=1e-11)


def test_rules_act_without_the_value_and_by_keyword():
    parameter = adapted(torch.randn(5, 7))
    calls = []
    constraint = parameter.constraints[0]
    constraint.register_forward_hook(lambda *unused: calls.append(1))
    x = torch.randn(4, 7)
    for mode in (True, False):
        parameter.train(mode)
        F.linear(x, parameter)
        F.linear(x, weight=parameter, bias=None)
        F.linear(input=x, weight=parameter)
    assert calls == []
    x @ parameter.T
    assert calls == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_acts_on_the_operations_of_the_rule(dtype):
    parameter = adapted(torch.randn(5, 7) / 3)
    x = torch.randn(4, 7)
    exact = F.linear(x, parameter).detach()
    with torch.autocast("cpu", dtype=dtype):
        result = F.linear(x, parameter)
        by_value = F.linear(x, parameter.value())
    assert result.dtype == by_value.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(result.float(), exact, rtol=8 * eps, atol=16 * eps)


@pytest.mark.parametrize(("op", "kind"), [(F.conv2d, nn.Conv2d), (F.conv_transpose2d, nn.ConvTranspose2d)])
def test_what_has_no_rule_uses_the_value(op, kind):
    groups = 2 if kind is nn.Conv2d else 1
    host = kind(4, 6, 3, groups=groups)
    parameter = adapted(host.weight.detach(), host)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(op(x, parameter, groups=groups), op(x, parameter.value(), groups=groups))


def test_a_transposed_convolution_has_rows_of_outputs():
    host = nn.ConvTranspose2d(4, 6, 3)
    parameter = adapted(host.weight.detach(), host)
    assert [tuple(raw.shape) for raw in parameter.raws.values()] == [(4, 6, 3, 3), (2, 4, 3, 3), (6, 2)]
    assert parameter.spec == "lora(rank=2, alpha=3.0, dim=1)"
    base, a, b = (raw.detach() for raw in parameter.raws.values())
    expected = base + 1.5 * torch.einsum("or,rikl->iokl", b, a)
    torch.testing.assert_close(parameter.detach(), expected)


def test_rows_along_another_dimension_have_no_rule():
    parameter = adapted(torch.randn(5, 5), dim=1)
    x = torch.randn(4, 5)
    assert torch.equal(F.linear(x, parameter), F.linear(x, parameter.value()))


def test_numbers_are_the_weights_own():
    weight = torch.randn(5, 7)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = ComputedParameter.from_value(weight, LoRA(2)).raws["A"].detach()
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert torch.equal(ComputedParameter.from_value(weight, LoRA(2)).raws["A"], first)
    assert not torch.equal(ComputedParameter.from_value(weight + 1, LoRA(2)).raws["A"], first)
    assert torch.equal(ComputedParameter.from_value(weight, LoRA(2, seed=5)).raws["A"], first)
    assert not torch.equal(ComputedParameter.from_value(weight, LoRA(2, seed=6)).raws["A"], first)
    assert first.abs().max() <= 7**-0.5


def test_a_rank_above_the_smaller_side_is_taken():
    parameter = ComputedParameter.from_value(torch.randn(3, 2), LoRA(16))
    assert parameter.raws["A"].shape == (16, 2)
    F.linear(torch.randn(4, 2), parameter).sum().backward()
    assert parameter.raws["B"].grad.abs().sum() > 0


@pytest.mark.parametrize(("arguments", "message"), [
    ((0,), "lora needs a rank of 1 or more, got 0"), ((2.5,), "lora: rank must be a whole number, got 2.5"),
])  # fmt: skip
def test_wrong_ranks_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoRA(*arguments)
    with pytest.raises(ValueError, match="lora needs a finite alpha, got inf"):
        LoRA(2, alpha=float("inf"))


def test_experts_are_asked_for_dim():
    with pytest.raises(ConstraintRefusedError, match=r"lora does not know how Module uses its weight of shape .*dim=0"):
        adapted(torch.randn(4, 5, 6))
    assert adapted(torch.randn(4, 5, 6), dim=-1).raws["B"].shape == (6, 2)
