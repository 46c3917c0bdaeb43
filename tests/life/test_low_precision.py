"""Low precision against formulas in float64: values to 1e-5 before the cast, gradients to the rounding of the raw.

What `test_precision.py` shows by the sets that constraints promise, for those that promise a formula, for chains, for
gradients, and for autocast in float16. Truth is the formula in float64, differentiated by torch, and the plain layer
that holds the value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import computed
import surgery
from computed.evaluation import evaluate
from computed.parameter import ComputedParameter
from tests.computed.constraints.test_contract import CORE
from tests.computed.identity import Identity

LOW = [torch.bfloat16, torch.float16]
Raws = dict[str, Tensor]


def capped(raw: Tensor, bound: float) -> Tensor:
    return raw * (bound / torch.linalg.matrix_norm(raw, 2)).clamp(max=1.0)


def halves(raw: Tensor, sign: int) -> Tensor:
    return (raw + sign * raw.T) / 2


def lengths_and_directions(raws: Raws, *, by_column: bool = False) -> Tensor:
    return raws["g"] * raws["v"] / torch.linalg.vector_norm(raws["v"], dim=0 if by_column else 1, keepdim=True)


def slope_at(base: Tensor, raws: Raws, prefix: str = "") -> Tensor:
    return base.detach() + 2.0 * raws[f"{prefix}B"] @ raws[f"{prefix}A"]


FORMULAS: dict[str, Callable[[Raws], Tensor]] = {
    "spectral": lambda raws: raws["raw"] / torch.linalg.matrix_norm(raws["raw"], 2),
    "spectral, norm 3": lambda raws: 3 * raws["raw"] / torch.linalg.matrix_norm(raws["raw"], 2),
    "spectral, bound": lambda raws: capped(raws["raw"], 0.5),
    "spectral, loose bound": lambda raws: raws["raw"] * 1.0,
    "operator_norm": lambda raws: raws["raw"] / torch.linalg.matrix_norm(raws["raw"], 2),
    "operator_norm, bound": lambda raws: capped(raws["raw"], 0.5),
    "positive": lambda raws: F.softplus(raws["raw"]),
    "greater_than": lambda raws: 1 + F.softplus(raws["raw"]),
    "greater_than, negative": lambda raws: F.softplus(raws["raw"]) - 0.3,
    "interval": lambda raws: 2 * torch.sigmoid(raws["raw"]) - 1,
    "interval, far from zero": lambda raws: 100 + 8 * torch.sigmoid(raws["raw"]),
    "unit_norm": lambda raws: F.normalize(raws["raw"], dim=1),
    "unit_norm, columns": lambda raws: F.normalize(raws["raw"], dim=0),
    "unit_norm, whole": lambda raws: raws["raw"] / torch.linalg.vector_norm(raws["raw"]),
    "weight_norm": lengths_and_directions,
    "weight_norm, columns": lambda raws: lengths_and_directions(raws, by_column=True),
    "weight_norm, whole": lambda raws: raws["g"] * raws["v"] / torch.linalg.vector_norm(raws["v"]),
    "symmetric": lambda raws: halves(raws["raw"], 1),
    "skew": lambda raws: halves(raws["raw"], -1),
    "lora": lambda raws: slope_at(raws["base"], raws),
    "function": lambda raws: torch.tanh(raws["raw"]),
    "function, inverse": lambda raws: -raws["raw"],
    "transform": lambda raws: torch.tanh(raws["raw"]),
    "transform, half line": lambda raws: torch.exp(raws["raw"]),
    "symmetric | spectral(bound=0.5)": lambda raws: capped(halves(raws["raw"], 1), 0.5),
    "positive | unit_norm": lambda raws: F.normalize(F.softplus(raws["raw"]), dim=1),
    "skew | lora(2, alpha=4)": lambda raws: slope_at(halves(raws["raw"], -1), raws, "constraints.1."),
}


def test_every_constraint_has_a_formula_or_a_set():
    """An orthogonal matrix is no formula of its raw alone: `test_precision.py` measures it by its Gram matrix."""
    # a mask and a grid are of the weight that was there
    assert set(CORE) - set(FORMULAS) == {"orthogonal", "mask", "fake_quant"}


def spec_of(name: str) -> object:
    return (lambda site: CORE[name]()) if name in CORE else name


def layer(name: str, dtype: torch.dtype) -> nn.Linear:
    """Cast, with raws that were written afterwards: numbers of the dtype."""
    made = nn.Linear(6, 6)
    nn.init.uniform_(made.weight, 0.05, 0.3)
    model = surgery.apply_constraints(made, {"weight": spec_of(name)}).to(dtype).eval()
    with torch.no_grad():
        for raw in model.weight.raws.values():
            raw.add_(torch.rand_like(raw))
    return model


@pytest.mark.parametrize("dtype", [*LOW, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients_are_those_of_the_formula(name: str, dtype: torch.dtype):
    weight: ComputedParameter = layer(name, dtype).weight
    raws = {role: raw.detach().double().requires_grad_() for role, raw in weight.raws.items()}
    expected = FORMULAS[name](raws)
    exact = expected.detach()
    size, wide = float(exact.abs().max()), torch.promote_types(dtype, torch.float32)
    rounding, converged = (
        float(torch.finfo(dtype).eps),
        1e-3 if name.startswith("operator_norm") or "spectral" in name else 0.0,
    )
    with torch.no_grad():
        before = evaluate(weight.links, list(weight.raws.values()), wide, training=False)[0]
    assert before.dtype is wide
    allowed = 1e-5 if wide is torch.float32 else 1e-7 if converged else 1e-12
    if name.startswith(("greater_than", "interval")):
        allowed += rounding  # the ends are the numbers of the dtype that are next to the bounds, inside
    assert float((before.double() - exact).abs().max()) < allowed * max(1.0, size)
    assert torch.equal(weight.detach(), before.to(dtype))
    weighting = torch.linspace(-2, 2, 36).mul(8).round().div(8).view(6, 6)  # the same numbers in every dtype
    (weight * weighting.to(dtype)).sum().backward()
    slopes = torch.autograd.grad((expected * weighting.double()).sum(), list(raws.values()), allow_unused=True)
    for (role, raw), slope in zip(weight.raws.items(), slopes, strict=True):
        assert (raw.grad is None) == (slope is None), role
        if slope is not None:
            assert raw.grad.dtype is dtype
            largest = max(1.0, float(slope.abs().max()))
            error = float((raw.grad.double() - slope).abs().max()) / largest
            assert error < rounding + converged + 8 * float(torch.finfo(wide).eps), role


HOSTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 6), (3, 6)),
    "convolution": (lambda: nn.Conv2d(4, 6, (2, 2)), (2, 4, 3, 3)),
    "transposed convolution": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 5)),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", [*CORE, "symmetric | spectral(bound=0.5)"])
def test_autocast_rounds_the_value_as_it_rounds_a_plain_weight(
    name: str, host: str, dtype: torch.dtype, training: bool
):
    """Forward and backward; the output has the bits of the plain layer's, an adapter's to rounding."""
    build, shape = HOSTS[host]
    plain = build()
    nn.init.uniform_(plain.weight, 0.05, 0.3)
    if not surgery.plan(plain, {"weight": spec_of(name)}).ok:
        return
    model = surgery.apply_constraints(copy.deepcopy(plain), {"weight": spec_of(name)}).train(training)
    with torch.no_grad():
        plain.weight.copy_(copy.deepcopy(model).weight)
    computed.invalidate(model)
    x, outputs = torch.randn(shape), []
    for one in (model, plain):
        with torch.autocast("cpu", dtype):
            outputs.append(one(x))
        assert outputs[-1].dtype is dtype
        outputs[-1].float().square().mean().backward()
    if name == "lora":
        scale = max(1.0, float(outputs[1].detach().abs().max()))
        torch.testing.assert_close(*outputs, rtol=0, atol=4 * scale * float(torch.finfo(dtype).eps))
    else:
        assert torch.equal(*outputs)
    for key, raw in model.named_parameters():
        assert raw.grad is None or (raw.grad.dtype is torch.float32 and bool(raw.grad.isfinite().all())), key
    assert torch.equal(model.bias.grad, plain.bias.grad) or name == "lora"


class Recording(Identity):
    """Notes in what it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, bool, bool]] = []

    def forward(self, raw: Tensor) -> Tensor:
        self.seen.append((raw.dtype, torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
        return raw * 1


@pytest.mark.parametrize("dtype", [*LOW, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_constraint_never_sees_less_than_float32(dtype: torch.dtype, training: bool):
    """Nor autocast, nor inference mode."""
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": Recording}).to(dtype).train(training)
    seen, x = model.weight.constraints[0].seen, torch.randn(2, 4, dtype=dtype)
    for context in (
        torch.autocast("cpu", torch.float16),
        torch.autocast("cpu"),
        torch.inference_mode(),
        torch.no_grad(),
    ):
        seen.clear()
        computed.invalidate(model)
        with context:
            model(x)
        assert seen == [(torch.promote_types(dtype, torch.float32), False, False)]
