"""Bounds on entries against NumPy's extended precision; strictness in every dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from computed.constraints.elementwise import GreaterThan, Interval, Positive, next_above, next_below
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EXTREMES = torch.tensor([-math.inf, -1e30, -200, -100, -20, -1e-3, -0.0, 0, 1e-3, 20, 100, 200]).double()


@pytest.mark.parametrize("bound", [0.0, -0.0, 1.0, -1.0, 1e-3, 1.1, -0.3, 2.0**-10, 100.0, 1e4, 1e-40, -1e-40])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_next_number_is_numpys(dtype, bound):
    ours = {np.float16: torch.float16, np.float32: torch.float32, np.float64: torch.float64}[dtype]
    found = next_above(bound, ours)
    rounded = dtype(bound)
    expected = rounded if float(rounded) > bound else np.nextafter(rounded, dtype(np.inf))
    tiny = 0 if dtype is np.float16 else np.finfo(dtype).tiny
    if 0 < abs(expected) < tiny:  # a subnormal number
        expected = tiny if bound >= 0 else 0.0
    assert found == float(expected)
    assert next_below(-bound, ours) == -found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bound", [0.0, 1.0, -1.0, 1e-3, 1000.0])
def test_saturated_raws_stay_strictly_inside(dtype, bound):
    for constraint, low, high in (
        (GreaterThan(bound), bound, math.inf),
        (Interval(bound, bound + 8), bound, bound + 8),
        (Interval(bound - 8, bound), bound - 8, bound),
    ):
        parameter = ComputedParameter.from_value(torch.ones(len(EXTREMES), dtype=dtype), constraint)
        for raws in (EXTREMES, -EXTREMES):
            with torch.no_grad():
                parameter.raws["raw"].copy_(raws.clamp(-torch.finfo(dtype).max, 1e4))
            value = parameter.detach().double()
            assert (value > low).all()
            assert (value < high).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bound", [0.1, -0.1, 0.3, 1e-3, 1 / 3])
def test_the_number_next_to_the_bound_is_inside_and_the_one_beyond_is_not(dtype, bound):
    """Told in float64, whatever the bound is rounded to in the dtype of the weight."""
    above, below = next_above(bound, dtype), next_below(bound, dtype)
    for constraint in (GreaterThan(bound), Interval(bound, bound + 1)):
        assert constraint.violation(torch.tensor([above], dtype=dtype), ()) == 0.0
        assert constraint.violation(torch.tensor([below], dtype=dtype), ()) > 0.0
    assert Interval(bound - 1, bound).violation(torch.tensor([below], dtype=dtype), ()) == 0.0
    assert Interval(bound - 1, bound).violation(torch.tensor([above], dtype=dtype), ()) > 0.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entries_outside_go_to_the_nearest_number_inside(dtype):
    eps = torch.finfo(dtype).eps
    weight = torch.tensor([-5.0, 1.0, 1.0 + eps, 3.0, 7.0, 50.0], dtype=dtype)
    above = ComputedParameter.from_value(weight, GreaterThan(1.0)).detach()
    assert above[:2].tolist() == [1 + eps, 1 + eps]
    inside = ComputedParameter.from_value(weight, Interval(1.0, 7.0)).detach()
    assert inside[:2].tolist() == [1 + eps, 1 + eps]
    assert inside[4:].tolist() == [7 - 4 * eps] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_is_inverted_without_cancellation(dtype):
    y = torch.logspace(-30, 6, 200, dtype=torch.float64).to(dtype)
    raw = Positive().right_inverse(y).raws[0]
    if dtype is torch.float64:
        exact = y.numpy().astype(np.longdouble)
        tiny = np.longdouble(torch.finfo(torch.float32).tiny)
        expected = (exact - tiny) + np.log(-np.expm1(-(exact - tiny)))
        np.testing.assert_allclose(raw.numpy(), expected.astype(np.float64), rtol=4e-16, atol=1e-15)
    constraint = Positive()
    constraint.stored = dtype
    again = constraint(constraint.right_inverse(y).raws[0])
    relative = ((again - y) / y).abs()
    assert (relative <= 2 * torch.finfo(dtype).eps * (1 + y.log().abs())).all()


def test_values_are_softplus_and_sigmoid():
    raw = torch.linspace(-30, 30, 50, dtype=torch.float64)
    x = raw.numpy()
    np.testing.assert_allclose(Positive()(raw).numpy(), np.log1p(np.exp(x)), rtol=1e-14)
    np.testing.assert_allclose(GreaterThan(2.0)(raw).numpy(), 2 + np.log1p(np.exp(x)), rtol=1e-6)
    np.testing.assert_allclose(Interval(-1, 3)(raw).numpy(), -1 + 4 / (1 + np.exp(-x)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("constraint", [Positive(), GreaterThan(1.0), Interval(-1, 1), Interval(5, 900)], ids=repr)
def test_values_rise_with_the_raw(constraint):
    raw = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    assert (constraint(raw).diff() >= 0).all()


def test_limits_follow_bounds_that_move_and_casts():
    parameter = ComputedParameter.from_value(torch.zeros(3), Interval(-1.0, 1.0))
    parameter.constraints[0].high = 0.5
    with torch.no_grad():
        parameter.raws["raw"].fill_(100)
    assert (parameter.detach() < 0.5).all()
    assert (parameter.detach() > 0.4999).all()
    nn.ModuleList([parameter]).to(torch.bfloat16)
    assert (parameter.detach() < 0.5).all()
    assert parameter.spec == "interval(low=-1.0, high=0.5)"
    above = ComputedParameter.from_value(torch.ones(3), GreaterThan(0.5))
    above.constraints[0].bound = 4.0
    assert (above.detach() > 4).all()


def test_a_dtype_without_numbers_inside_is_refused():
    narrow = Interval(1.0, 1.001)
    assert ComputedParameter.from_value(torch.ones(2), narrow).shape == (2,)
    with pytest.raises(ConstraintRefusedError, match=r"high=1.001\) leaves no range of .* torch.bfloat16; exempt"):
        ComputedParameter.from_value(torch.ones(2, dtype=torch.bfloat16), Interval(1.0, 1.001))
    with pytest.raises(ConstraintRefusedError, match=r"bound=100000.0\) leaves no number of torch.float16"):
        ComputedParameter.from_value(torch.ones(2, dtype=torch.float16), GreaterThan(1e5))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: GreaterThan(math.inf), "greater_than needs a finite bound, got inf"),
    (lambda: GreaterThan(math.nan), "greater_than needs a finite bound, got nan"),
    (lambda: Interval(1.0, 1.0), "finite low < high, got low=1.0 and high=1.0"),
    (lambda: Interval(2.0, 1.0), "finite low < high, got low=2.0 and high=1.0"),
    (lambda: Interval(-math.inf, 1.0), "finite low < high, got low=-inf"),
    (lambda: Interval(math.nan, 1.0), "finite low < high, got low=nan"),
])  # fmt: skip
def test_wrong_bounds_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("constraint", "values", "expected"), [
    (GreaterThan(1.0), [2.0, 0.5], 0.5), (GreaterThan(1.0), [2.0, 3.0], 0.0), (Positive(), [1.0, -3.0], 3.0),
    (Interval(-1.0, 1.0), [0.0, 1.5], 0.5), (Interval(-1.0, 1.0), [-4.0, 1.5], 3.0), (Interval(-1.0, 1.0), [0.9], 0.0),
])  # fmt: skip
def test_violation_is_the_distance_of_the_worst_entry(constraint, values, expected):
    assert constraint.violation(torch.tensor(values), ()) == expected


@pytest.mark.parametrize(("constraint", "value"), [(GreaterThan(1.0), 1.0), (Positive(), 0.0), (Interval(-1, 1), 1.0)])
def test_a_bound_itself_is_outside(constraint, value):
    assert constraint.violation(torch.tensor([value]), ()) > constraint.tolerance(torch.float32)


def test_entries_inside_train_and_projected_ones_wait():
    parameter = ComputedParameter.from_value(torch.tensor([0.5, -1.0]), Positive())
    parameter.sum().backward()
    gradient: Tensor = parameter.raws["raw"].grad
    assert gradient[0] == pytest.approx(1 - math.exp(-0.5), rel=1e-5)
    assert 0 <= gradient[1] < 1e-30
