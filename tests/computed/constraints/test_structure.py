"""Symmetric and skew matrices against NumPy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from computed.constraints.structure import Skew, Symmetric
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter


@pytest.mark.parametrize("shape", [(5, 5), (3, 4, 4), (2, 3, 1, 1)])
@pytest.mark.parametrize(("constraint", "sign"), [(Symmetric, 1), (Skew, -1)])
def test_value_is_the_nearest_matrix(constraint, sign, shape):
    weight = torch.randn(shape)
    value = ComputedParameter.from_value(weight, constraint()).detach()
    exact = weight.double().numpy()
    np.testing.assert_allclose(value.numpy(), (exact + sign * exact.swapaxes(-1, -2)) / 2, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("constraint", "sign"), [(Symmetric, 1), (Skew, -1)])
def test_structure_holds_bit_for_bit_at_every_scale(constraint, sign, dtype):
    largest = torch.finfo(dtype).max
    for weight in (torch.randn(9, 9), largest * torch.randn(9, 9).sign().double(), 1e-7 * torch.randn(9, 9)):
        value = ComputedParameter.from_value(weight.to(dtype), constraint()).detach()
        assert value.isfinite().all()
        assert torch.equal(value, sign * value.mT)


def test_the_raw_is_the_old_parameter():
    weight = torch.nn.Parameter(torch.randn(4, 4))
    bits = weight.detach().clone()
    assert ComputedParameter.from_value(weight, Symmetric()).raws["raw"] is weight
    assert torch.equal(weight, bits)


@pytest.mark.parametrize(("constraint", "sign"), [(Symmetric, 1), (Skew, -1)])
def test_gradient_has_the_structure(constraint, sign):
    parameter = ComputedParameter.from_value(torch.randn(4, 4), constraint())
    cotangent = torch.randn(4, 4)
    (parameter * cotangent).sum().backward()
    torch.testing.assert_close(parameter.raws["raw"].grad, (cotangent + sign * cotangent.T) / 2)


@pytest.mark.parametrize("shape", [(3, 4), (3,), (), (4, 4, 3)])
@pytest.mark.parametrize("name", ["symmetric", "skew"])
def test_what_is_not_square_is_refused(name, shape):
    with pytest.raises(ConstraintRefusedError, match=rf"{name} needs square matrices, got shape .*; exempt it with"):
        ComputedParameter.from_value(torch.ones(shape), name)


def test_violation_is_the_largest_difference():
    matrix = torch.tensor([[1.0, 2.0], [5.0, 0.0]])
    assert Symmetric().violation(matrix, ()) == 3
    assert Skew().violation(matrix, ()) == 7
    assert Skew().violation(matrix - torch.eye(2), ()) == 7
