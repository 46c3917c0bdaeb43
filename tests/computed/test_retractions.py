"""Steps along orthonormal columns, against SciPy: transforms of the generator, QR and polar decompositions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from computed.exponential_map import exponential_retraction, halvings, matrix_exponential, taylor_exponential
from computed.linalg import orthonormality_error
from computed.polar_map import NearPolar, by_distance, polar_value, rounds_of
from computed.retractions import cayley_retraction, horizontal, polar_retraction, qr_retraction, tangent

SHAPES = [(5, 5), (7, 3), (20, 4), (6, 1), (1, 1)]


def orthonormal(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.linalg.qr(torch.randn(rows, columns, dtype=torch.float64).numpy())[0]).to(dtype)


def generator(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """The skew matrix that turns ``base`` along the tangent part of ``delta``."""
    inside = base.T @ delta
    normal = delta - base @ inside
    return normal @ base.T - base @ normal.T + base @ ((inside - inside.T) / 2) @ base.T


def by_cayley(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    half = generator(base, delta) / 2
    identity = np.eye(len(base))
    return np.linalg.solve(identity - half, (identity + half) @ base)


def by_exponential(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return scipy.linalg.expm(generator(base, delta)) @ base


def along(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    inside = base.T @ delta
    return base + delta - base @ (inside + inside.T) / 2


def by_polar(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return scipy.linalg.polar(along(base, delta))[0]


def by_qr(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    q, r = np.linalg.qr(along(base, delta))
    return q * np.sign(np.diagonal(r))


TRUTHS: dict[Callable[[Tensor, Tensor], Tensor], Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    cayley_retraction: by_cayley,
    exponential_retraction: by_exponential,
    polar_retraction: by_polar,
    qr_retraction: by_qr,
}
RETRACTIONS = pytest.mark.parametrize("retraction", TRUTHS, ids=lambda function: function.__name__)


@RETRACTIONS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0])
def test_a_retraction_is_what_defines_it(retraction, shape, scale):
    base = orthonormal(*shape)
    delta = scale * torch.randn(shape, dtype=torch.float64)
    expected = TRUTHS[retraction](base.numpy(), delta.numpy())
    np.testing.assert_allclose(retraction(base, delta).numpy(), expected, atol=1e-11)


@RETRACTIONS
@pytest.mark.parametrize("shape", SHAPES)
def test_a_retraction_moves_as_the_tangent_part_of_the_step(retraction, shape):
    base = orthonormal(*shape)
    delta = torch.randn(shape, dtype=torch.float64)
    inside = base.T @ delta
    expected = delta - base @ (inside + inside.T) / 2
    torch.testing.assert_close(tangent(base, delta), expected)
    step = 1e-6
    moved = (retraction(base, step * delta) - retraction(base, -step * delta)) / (2 * step)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-8)


@RETRACTIONS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1e-2, 1.0])
def test_a_retraction_has_its_derivatives_at_any_step(retraction, shape, scale):
    base = orthonormal(*shape)
    delta = (scale * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda delta: retraction(base, delta), (delta,))
    assert torch.autograd.gradgradcheck(lambda delta: retraction(base, delta), (delta,), atol=1e-4)


@RETRACTIONS
def test_a_determinant_stays(retraction):
    for sign in (1.0, -1.0):
        base = orthonormal(6, 6)
        base[:, 0] *= sign * torch.linalg.det(base)
        for scale in (0.1, 3.0, 100.0):
            turned = retraction(base, scale * torch.randn(6, 6, dtype=torch.float64))
            assert torch.linalg.det(turned).item() == pytest.approx(sign)


@pytest.mark.parametrize("shape", [(64, 64), (200, 30), (300, 1)])
def test_without_a_step_a_base_is_kept_bit_for_bit(shape):
    base = orthonormal(*shape, torch.float32)
    assert torch.equal(cayley_retraction(base, torch.zeros(shape)), base)


def test_the_horizontal_part_leaves_the_span():
    base, delta = orthonormal(7, 3), torch.randn(7, 3, dtype=torch.float64)
    assert (base.T @ horizontal(base, delta)).abs().max() < 1e-14
    torch.testing.assert_close(horizontal(base, delta) + base @ (base.T @ delta), delta)


def test_the_polynomial_is_that_of_taylor():
    matrix = 0.3 * torch.randn(5, 5, dtype=torch.float64)
    expected = sum(np.linalg.matrix_power(matrix.numpy(), k) / math.factorial(k) for k in range(9))
    np.testing.assert_allclose(taylor_exponential(matrix).numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "scale"), [(1, 1.0), (2, 3.0), (7, 1e-3), (7, 30.0), (64, 1.0), (33, 100.0)])
def test_the_exponential_is_scipys(count, scale, dtype):
    matrix = scale * torch.randn(count, count, dtype=dtype)
    skew = matrix - matrix.T
    expected = scipy.linalg.expm(skew.double().numpy())
    # an error of the angle, which is as long as the matrix
    allowed = 64 * torch.finfo(dtype).eps * (1 + torch.linalg.matrix_norm(skew.double(), 2).item())
    np.testing.assert_allclose(matrix_exponential(skew).numpy(), expected, atol=allowed)


def test_the_exponential_of_what_is_not_normal_is_scipys():
    matrix = torch.triu(torch.randn(12, 12, dtype=torch.float64)) + 50.0 * torch.diag(torch.ones(11).double(), 1)
    expected = scipy.linalg.expm(matrix.numpy())
    np.testing.assert_allclose(matrix_exponential(matrix).numpy(), expected, rtol=1e-9, atol=1e-12 * expected.max())
    assert torch.autograd.gradcheck(
        matrix_exponential, (0.3 * torch.randn(4, 4, dtype=torch.float64).requires_grad_(),)
    )


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_matrix_that_is_zero_or_no_number_is_not_halved(value):
    assert halvings(torch.full((3, 3), value)) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-2, 0.08, 1.0, 100.0])
def test_a_polar_value_is_scipys_near_and_far(shape, noise):
    matrix = orthonormal(*shape) + noise * torch.randn(shape, dtype=torch.float64)
    expected = scipy.linalg.polar(matrix.numpy())[0]
    np.testing.assert_allclose(polar_value(matrix).numpy(), expected, atol=1e-11 * max(1.0, noise))


def test_near_matrices_are_iterated_and_far_ones_not():
    base = orthonormal(30, 8)
    assert rounds_of(base) == 0
    assert rounds_of(base + 1e-3 * torch.randn(30, 8, dtype=torch.float64)) in (2, 3)
    assert rounds_of(base + torch.randn(30, 8, dtype=torch.float64)) is None
    assert rounds_of(torch.full((3, 3), math.nan)) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_the_derivative_by_products_is_that_by_singular_values(shape):
    matrix = orthonormal(*shape) + 0.05 * torch.randn(shape, dtype=torch.float64)
    given = torch.randn(shape, dtype=torch.float64)
    gradients = []
    for function in (lambda m: NearPolar.apply(m, 8), lambda m: torch.linalg.svd(m, full_matrices=False)):
        leaf = matrix.clone().requires_grad_()
        found = function(leaf)
        value = found if isinstance(found, Tensor) else found[0] @ found[2]
        gradients.append(torch.autograd.grad(value, leaf, given)[0])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_a_wide_range_of_distances_stays_orthonormal_in_float32():
    for noise in (0.0, 1e-5, 1e-3, 1e-1, 10.0):
        matrix = orthonormal(40, 40, torch.float32) + noise * torch.randn(40, 40)
        assert orthonormality_error(by_distance(matrix)) < 2e-6
