"""Polar factors against SciPy, weights as matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from computed.linalg import (
    as_matrix,
    like_weight,
    newton_schulz_correction,
    orthonormality_error,
    polar_factor,
)

SHAPES = [(5, 5), (7, 3), (20, 4), (6, 1), (1, 1)]


def orthonormal(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.linalg.qr(torch.randn(rows, columns, dtype=torch.float64).numpy())[0]).to(dtype)


@pytest.mark.parametrize(("shape", "dim", "matrix"), [
    ((4, 3, 2, 2), 0, (4, 12)), ((4, 3, 2, 2), 1, (3, 16)), ((4, 3), 1, (3, 4)),
])  # fmt: skip
def test_a_weight_is_a_matrix_and_back(shape, dim, matrix):
    weight = torch.randn(shape)
    found = as_matrix(weight, dim)
    assert found.shape == matrix
    assert torch.equal(found, torch.from_numpy(np.moveaxis(weight.numpy(), dim, 0).reshape(matrix).copy()))
    again = like_weight(found, weight, dim)
    assert torch.equal(again, weight)
    assert again.is_contiguous()


@pytest.mark.parametrize("shape", [*SHAPES, (3, 7)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_polar_factor_is_scipys(shape, scale):
    matrix = torch.randn(shape, dtype=torch.float64)
    found = polar_factor(scale * matrix)
    expected = scipy.linalg.polar(matrix.numpy())[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, torch.nan, torch.inf, -3e38])
def test_polar_factor_of_what_has_no_rank_is_orthonormal(value):
    for shape in ((6, 4), (4, 6), (5, 5)):
        assert orthonormality_error(polar_factor(torch.full(shape, value))) < 1e-6


def test_newton_schulz_squares_the_error():
    matrix = orthonormal(30, 8) + 1e-3 * torch.randn(30, 8, dtype=torch.float64)
    before = orthonormality_error(matrix)
    after = orthonormality_error(matrix + newton_schulz_correction(matrix))
    assert 1e-4 < before < 1e-2
    assert after < 8 * before**2


def test_orthonormality_is_measured_on_the_smaller_side():
    assert orthonormality_error(torch.eye(3, 5)) == 0
    assert orthonormality_error(2 * torch.eye(5, 3)) == 3
