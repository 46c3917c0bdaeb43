"""Precision: casts of a model and autocast change in what a weight is stored, not how a constraint is computed.

Each constraint of the catalogue is evaluated in at least float32 (in float64 for float64) and cast once to the dtype
of the parameter. Truth is NumPy in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint, IteratedConstraint
from computed.evaluation import evaluate
from computed.parameter import ComputedParameter
from tests.computed.constraints.test_contract import CORE, STRICT

WIDTH = {"small": 6, "full": 64}
CASTS: dict[str, tuple[Callable[[nn.Module], nn.Module], torch.dtype]] = {
    "bfloat16": (lambda model: model.bfloat16(), torch.bfloat16),
    "half": (lambda model: model.half(), torch.float16),
    "float": (lambda model: model.float(), torch.float32),
    "double": (lambda model: model.double(), torch.float64),
    "to(bfloat16)": (lambda model: model.to(torch.bfloat16), torch.bfloat16),
}
SMALL = 0.3  # weights that every constraint's inverse takes: tanh ends at 1, exp begins at 0


def linear(name: str, size: str = "small") -> nn.Module:
    """A Linear whose weight is constrained, and a plain one behind it."""
    width = WIDTH[size]
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 2))
    with torch.no_grad():
        model[0].weight.uniform_(0.05, SMALL)
    return surgery.apply_constraints(model, {"0.weight": lambda site: CORE[name]()})


def convolution(name: str) -> nn.Module:
    """A convolution, where the constraint takes its weight."""
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[0].weight.uniform_(0.05, SMALL)
    return surgery.apply_constraints(model, {"0.weight": lambda site: CORE[name]()})


def constraint_of(weight: ComputedParameter) -> Constraint:
    (constraint,) = weight.constraints
    assert isinstance(constraint, Constraint)
    return constraint


def before_the_cast(weight: ComputedParameter) -> Tensor:
    """The value in the dtype in which it was evaluated."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.no_grad():
        return evaluate(weight.links, list(weight.raws.values()), wide, training=weight.training)[0]


def violation(weight: ComputedParameter, value: Tensor) -> float:
    raws = [raw.detach().double() for raw in weight.raws.values()]
    return float(constraint_of(weight).violation(value.double(), raws))


def outside(name: str, value: np.ndarray) -> float:
    """By NumPy in float64: how far a value is from the set, relative to its size; zero where nothing is promised."""
    matrix = value.reshape(len(value), -1)
    sigma = float(np.linalg.svd(matrix, compute_uv=False)[0])
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    columns, transposed = value.reshape(-1, value.shape[-1]), np.swapaxes(value, -1, -2)
    measures: dict[str, Callable[[], float]] = {
        "spectral": lambda: abs(sigma - 1),
        "spectral, norm 3": lambda: abs(sigma / 3 - 1),
        "spectral, bound": lambda: max(0.0, sigma / 0.5 - 1),
        "spectral, loose bound": lambda: max(0.0, sigma / 1e4 - 1),
        "orthogonal": lambda: float(np.abs(gram - np.eye(len(gram))).max()),
        "unit_norm": lambda: float(np.abs(np.linalg.norm(matrix, axis=1) - 1).max()),
        "unit_norm, columns": lambda: float(np.abs(np.linalg.norm(columns, axis=0) - 1).max()),
        "unit_norm, whole": lambda: abs(float(np.linalg.norm(value)) - 1),
        "positive": lambda: float(-min(value.min(), 0.0)),
        "greater_than": lambda: float(max(1.0 - value.min(), 0.0)),
        "greater_than, negative": lambda: float(max(-0.3 - value.min(), 0.0)),
        "interval": lambda: float(max(np.abs(value).max() - 1.0, 0.0)),
        "interval, far from zero": lambda: float(max(100 - value.min(), value.max() - 108, 0.0)),
        "symmetric": lambda: float(np.abs(value - transposed).max()),
        "skew": lambda: float(np.abs(value + transposed).max()),
    }
    return measures.get(name, lambda: 0.0)()


def assert_computed_in_full(name: str, weight: ComputedParameter, *, allowed: float = 1e-5) -> None:
    """Inside before the cast, and what is read is that value, cast once."""
    wide = before_the_cast(weight)
    assert wide.dtype == torch.promote_types(weight.dtype, torch.float32)
    assert violation(weight, wide) < allowed
    assert outside(name, wide.double().numpy()) < allowed
    assert weight.value().dtype == weight.dtype
    assert torch.equal(weight.detach(), wide.to(weight.dtype))


def train(model: nn.Module, batch: Tensor) -> None:
    optimizer = torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(batch).float().square().mean()
        loss.backward()
        for name, raw in model.named_parameters():
            if raw.grad is not None:
                assert raw.grad.dtype == raw.dtype, name
                assert bool(raw.grad.isfinite().all()), name
        optimizer.step()


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_model_trains_and_computes_its_weight_in_full(cast: str, name: str, size: str):
    convert, dtype = CASTS[cast]
    model = linear(name, size)
    assert convert(model) is model
    weight = model[0].weight
    # values near 100 in float16: numbers that are small enough for gradients that are
    batch = 0.01 * torch.randn(3, WIDTH[size]).to(dtype)
    for mode in (True, False):
        model.train(mode)
        output = model(batch)
        assert output.dtype is dtype
        output.float().sum().backward()
    assert weight.dtype is dtype
    assert {raw.dtype for raw in weight.raws.values()} == {dtype}
    assert {buffer.dtype for buffer in weight.buffers()} <= {torch.promote_types(dtype, torch.float32)}
    assert_computed_in_full(name, weight)
    model.zero_grad()
    train(model.train(), batch)
    assert_computed_in_full(name, model.eval()[0].weight)
    if name in STRICT:
        assert surgery.check(model).ok


@pytest.mark.parametrize("name", [name for name in STRICT if name in CORE])
def test_float64_stays_float64(name: str, size: str):
    """Exact to float64's rounding; iterated state of a float32 model converges anew."""
    model = linear(name, size).double().eval()
    assert_computed_in_full(name, model[0].weight, allowed=1e-7 if name.startswith("spectral") else 1e-11)
    made = nn.Sequential(nn.Linear(WIDTH[size], WIDTH[size])).double()
    surgery.apply_constraints(made, {"0.weight": lambda site: CORE[name]()}).eval()
    assert made[0].weight.dtype is torch.float64
    assert_computed_in_full(name, made[0].weight, allowed=1e-7 if name.startswith("spectral") else 1e-11)


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_autocast_acts_on_operations_and_not_on_the_constraint(training: bool, name: str, size: str):
    model = linear(name, size).train(training)
    twin = copy.deepcopy(model)
    batch = torch.randn(3, WIDTH[size])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
        inside = model[0].weight.value().detach().clone()
    assert output.dtype is torch.bfloat16
    assert inside.dtype is torch.float32
    assert torch.equal(inside, twin[0].weight.detach())
    output.float().square().mean().backward()
    for key, raw in model.named_parameters():
        assert raw.grad is None or raw.grad.dtype is torch.float32, key
        assert raw.grad is None or bool(raw.grad.isfinite().all()), key
    assert_computed_in_full(name, model.eval()[0].weight)
    expected = twin(batch).detach()
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CORE)
def test_a_value_first_read_under_autocast_is_the_one_that_is_read_outside(name: str, dtype: torch.dtype):
    model = linear(name).eval()
    twin = copy.deepcopy(model)
    batch = torch.randn(3, WIDTH["small"])
    with torch.autocast("cpu", dtype), torch.no_grad():
        assert model(batch).dtype is dtype
    with torch.no_grad():
        assert torch.equal(model(batch), twin(batch))


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("name", CORE)
def test_a_cast_convolution_computes_its_weight_in_full(name: str, cast: str):
    convert, dtype = CASTS[cast]
    host = nn.Conv2d(3, 4, 2)
    if not surgery.plan(host, {"weight": lambda site: CORE[name]()}).ok:
        with pytest.raises(surgery.PlanError, match=r"0\.weight \(Conv2d\)"):
            convolution(name)
        return
    model = convert(convolution(name))
    batch = torch.randn(2, 3, 3, 3, dtype=dtype)
    for mode in (True, False):
        output = model.train(mode)(batch)
        assert output.dtype is dtype
        output.float().sum().backward()
    assert_computed_in_full(name, model[0].weight)


@pytest.mark.parametrize("name", [name for name in STRICT if name in CORE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_low_precision_is_projected_in_full(dtype: torch.dtype, name: str):
    """The weight of a bfloat16 model is projected in float32 and rounded once."""
    model = nn.Sequential(nn.Linear(6, 6)).to(dtype)
    surgery.apply_constraints(model, {"0.weight": lambda site: CORE[name]()}).eval()
    assert model[0].weight.dtype is dtype
    assert_computed_in_full(name, model[0].weight)
    assert surgery.check(model).ok
    with torch.no_grad():
        expected = model(torch.ones(1, 6, dtype=dtype))
        assert torch.equal(surgery.bake(model)(torch.ones(1, 6, dtype=dtype)), expected)
    assert model[0].weight.dtype is dtype


@pytest.mark.parametrize("name", [name for name, make in CORE.items() if isinstance(make(), IteratedConstraint)])
def test_iterated_state_survives_casts_down_and_up(name: str):
    """It stays float32 for half precision, and is not rounded on the way."""
    model = linear(name)
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    model.bfloat16().half().float()
    for key, buffer in model.named_buffers():
        assert buffer.dtype is torch.float32
        assert torch.equal(buffer, before[key]), key
    model.double().float()
    for key, buffer in model.named_buffers():
        # an orthogonal base is made orthonormal to float64 in between
        torch.testing.assert_close(buffer, before[key], rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", CORE)
def test_a_cast_inside_a_forward_gives_a_tensor_and_changes_nothing(name: str):
    """`self.weight.float()` in a model's code follows the Tensor."""
    model = linear(name).half()
    weight = model[0].weight
    for cast, dtype in ((weight.float(), torch.float32), (weight.to(torch.bfloat16), torch.bfloat16)):
        assert type(cast) is Tensor
        assert cast.dtype is dtype
    assert weight.dtype is torch.float16
    assert {raw.dtype for raw in weight.raws.values()} == {torch.float16}


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize(
    "dtype",
    [torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.int64, torch.bool],
    ids=str,
)
def test_what_is_no_float_is_refused_at_plan_time_by_name(dtype: torch.dtype, name: str):
    model = nn.Sequential(nn.Linear(3, 3))
    tensor = torch.zeros(3, 3).to(dtype)
    model[0].weight = nn.Parameter(tensor, requires_grad=dtype.is_complex)
    parameter = model[0].weight
    word = str(dtype).removeprefix("torch.")
    message = rf"0\.weight \(Linear\).*: has dtype {word}; only float tensors of 16 bits or more can be computed"
    plan = surgery.plan(model, {"0.weight": lambda site: CORE[name]()})
    assert not plan.ok
    for apply in (plan.apply, lambda: surgery.constrain(model, {"0.weight": lambda site: CORE[name]()})):
        with pytest.raises(surgery.PlanError, match=message):
            apply()
    assert model[0].weight is parameter


def test_a_complex_model_is_refused_with_all_its_names_at_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    for layer in model:
        layer.weight = nn.Parameter(layer.weight.detach().to(torch.complex64))
    with pytest.raises(surgery.PlanError, match=r"(?s)0\.weight, 1\.weight.*has dtype complex64"):
        surgery.apply_constraints(model, {"*.weight": "spectral"})


def test_a_complex_parameter_beside_a_constrained_one_stays_as_it_is():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))

    model = Mixed()
    surgery.apply_constraints(model, {"layer.weight": "orthogonal"})
    model.double()
    assert model.layer.weight.dtype is torch.float64
    assert model.phase.dtype.is_complex
