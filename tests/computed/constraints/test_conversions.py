"""Plain functions and torch's Transforms as constraints."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch.distributions import (
    AbsTransform,
    AffineTransform,
    ComposeTransform,
    CorrCholeskyTransform,
    ExpTransform,
    LowerCholeskyTransform,
    PowerTransform,
    SigmoidTransform,
    SoftmaxTransform,
    SoftplusTransform,
    StickBreakingTransform,
    TanhTransform,
    transform_to,
)
from torch.distributions.constraints import interval, less_than

from computed.constraints.conversions import FunctionConstraint, TransformConstraint, function
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter

TRANSFORMS = {
    "exp": ExpTransform(),
    "tanh": TanhTransform(),
    "sigmoid": SigmoidTransform(),
    "softplus": SoftplusTransform(),
    "affine": AffineTransform(2.0, -3.0),
    "cube": PowerTransform(torch.tensor(3.0)),
    "cached": ExpTransform(cache_size=1),
    "composed": ComposeTransform([SigmoidTransform(), AffineTransform(1.0, 4.0)]),
    "interval": transform_to(interval(-2.0, 5.0)),
    "below": transform_to(less_than(-1.0)),
    "softmax": SoftmaxTransform(),
    "abs": AbsTransform(),
}
OUTSIDE = torch.tensor([[-1e30, -7.0, -1.0, -0.0], [0.0, 1.0, 7.0, 1e30]])


def square(x: torch.Tensor) -> torch.Tensor:
    return x.square()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_values_of_a_transform_are_kept(name):
    inside = TRANSFORMS[name](torch.rand(4, 4) + 0.5)
    parameter = ComputedParameter.from_value(inside, TRANSFORMS[name])
    torch.testing.assert_close(parameter.detach(), inside, rtol=1e-5, atol=1e-6)
    assert parameter.constraints[0].violation(inside, ()) == 0


@pytest.mark.parametrize("name", TRANSFORMS)
def test_values_outside_of_a_transform_are_brought_inside(name):
    parameter = ComputedParameter.from_value(OUTSIDE, TRANSFORMS[name])
    value = parameter.detach()
    assert parameter.raws["raw"].isfinite().all()
    assert value.isfinite().all()
    constraint = parameter.constraints[0]
    assert constraint.violation(value, ()) <= constraint.tolerance(torch.float32)


@pytest.mark.parametrize(("name", "low", "high"), [
    ("tanh", -1, 1), ("sigmoid", 0, 1), ("exp", 0, math.inf), ("composed", 1, 5), ("interval", -2, 5),
    ("below", -math.inf, -1),
])  # fmt: skip
def test_values_outside_of_an_interval_go_to_its_end(name, low, high):
    weight = torch.tensor([-50.0, 50.0])
    value = ComputedParameter.from_value(weight, TRANSFORMS[name]).detach()
    torch.testing.assert_close(value, weight.clamp(low, high), rtol=1e-5, atol=1e-6)


def test_a_cache_keeps_nothing():
    transform = ExpTransform(cache_size=1)
    parameter = ComputedParameter.from_value(torch.ones(2), transform)
    parameter.value()
    again = pickle.loads(pickle.dumps(parameter))
    assert torch.equal(again.detach(), parameter.detach())
    assert TransformConstraint(transform).transform is not transform


@pytest.mark.parametrize(("transform", "shape", "message"), [
    (StickBreakingTransform(), (3, 4), r"changes the shape \(3, 4\) to \(3, 5\); exempt it with 'weight': None"),
    (CorrCholeskyTransform(), (3,), r"changes the shape \(3,\) to \(3, 3\); exempt it"),
    (LowerCholeskyTransform(), (3,), r"needs 2 or more dimensions, got shape \(3,\); exempt it"),
])  # fmt: skip
def test_a_transform_of_the_shape_is_refused(transform, shape, message):
    with pytest.raises(ConstraintRefusedError, match=message):
        ComputedParameter.from_value(torch.ones(shape), transform)


def test_violation_of_a_transform_is_the_distance_to_its_values():
    constraint = TransformConstraint(TanhTransform())
    assert constraint.violation(torch.tensor([0.5, 3.0]), ()) == pytest.approx(2 / 3, rel=1e-5)
    assert constraint.violation(torch.tensor([0.5, -0.5]), ()) == 0


def test_a_function_with_an_inverse_keeps_values():
    parameter = ComputedParameter.from_value(torch.tensor([4.0, 9.0]), function(square, torch.sqrt))
    assert parameter.raws["raw"].tolist() == [2, 3]
    with torch.no_grad():
        parameter.copy_(torch.tensor([16.0, 25.0]))
    assert parameter.tolist() == [16, 25]
    assert parameter.constraints[0].violation(torch.tensor([16.0, 25.0]), ()) == 0
    assert parameter.constraints[0].violation(torch.tensor([16.0, -1.0]), ()) == math.inf


def test_a_function_without_an_inverse_takes_the_value_as_raw():
    parameter = ComputedParameter.from_value(torch.tensor([2.0, 3.0]), function(square))
    assert parameter.tolist() == [4, 9]
    assert parameter.constraints[0].violation(torch.tensor([-5.0]), ()) == 0


def test_a_function_that_trains_may_be_a_module():
    layer = torch.nn.Linear(3, 3)
    parameter = ComputedParameter.from_value(torch.randn(3, 3), function(layer))
    parameter.sum().backward()
    assert layer.weight.grad is None  # each site has a copy of its own
    assert parameter.constraints[0].f.weight.grad is not None


def test_functions_pickle_and_name_themselves():
    constraint = FunctionConstraint(square, torch.sqrt)
    assert repr(constraint).startswith("FunctionConstraint(square, inverse=")
    assert repr(pickle.loads(pickle.dumps(constraint))) == repr(constraint)
    assert repr(function(lambda x: x)).endswith("<lambda>)")


@pytest.mark.parametrize(("made", "message"), [
    (lambda: function(lambda x: 1.0), r"function\(.*<lambda>\): it returned float, expected a tensor"),
    (lambda: function(torch.neg, lambda x: None), r"function\(.*<lambda>\): it returned NoneType, expected a tensor"),
    (lambda: function(lambda x: x[:1]), r"the constraint changes the shape, \(3, 2\) to \(1, 2\)"),
])  # fmt: skip
def test_functions_that_give_no_weight_are_refused(made, message):
    with pytest.raises(ConstraintRefusedError, match=message):
        ComputedParameter.from_value(torch.ones(3, 2), made())
