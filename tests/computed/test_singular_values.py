"""The largest singular value against NumPy's, in shapes and spectra where an iteration may go astray."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from computed.singular_values import GRAM_SIDE, largest_singular_value, leading_vectors, power_steps
from computed.torch_private import address_of
from computed.watching import snapshot

LARGE = GRAM_SIDE + 32
SHAPES = [(1, 1), (1, 9), (9, 1), (30, 40), (LARGE, LARGE), (LARGE, 3 * LARGE), (3 * LARGE, LARGE)]


def sigma_of(matrix: Tensor, vectors: tuple[Tensor, Tensor]) -> float:
    u, v = (vector.double().numpy() for vector in vectors)
    np.testing.assert_allclose([np.linalg.norm(u), np.linalg.norm(v)], 1, atol=1e-5)
    return float(u @ matrix.double().numpy() @ v)


def truth(matrix: Tensor) -> float:
    return float(np.linalg.svd(matrix.double().numpy(), compute_uv=False)[0])


def with_values(values: Tensor, columns: int) -> Tensor:
    left = np.linalg.qr(torch.randn(len(values), len(values)).numpy())[0]
    right = np.linalg.qr(torch.randn(columns, len(values)).numpy())[0]
    return torch.from_numpy(left * values.numpy() @ right.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_converged_vectors_give_the_largest_singular_value(shape, dtype):
    matrix = torch.randn(shape, dtype=dtype)
    assert sigma_of(matrix, leading_vectors(matrix)) == pytest.approx(truth(matrix), rel=1e-4)
    assert sigma_of(matrix, leading_vectors(matrix, rounds=2)) == pytest.approx(truth(matrix), rel=3e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_largest_singular_value_is_exact_at_any_scale(shape, scale):
    matrix = scale * torch.randn(shape, dtype=torch.float64)
    assert largest_singular_value(matrix) == pytest.approx(truth(matrix), rel=1e-13)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_vectors_converge_at_any_scale(scale):
    matrix = torch.randn(LARGE, LARGE)
    vectors = leading_vectors(scale * matrix)
    assert sigma_of(matrix, vectors) == pytest.approx(truth(matrix), rel=1e-4)


SPECTRA = {
    "all equal": torch.ones(LARGE),
    "rank one": torch.eye(LARGE)[0],
    "rank two": torch.eye(LARGE)[0] + 0.999 * torch.eye(LARGE)[1],
    "crowded top": torch.linspace(1, 0.9, LARGE),
    "two clusters": torch.cat((torch.ones(LARGE // 2), 0.99 * torch.ones(LARGE - LARGE // 2))),
    "fast decay": 10.0 ** -torch.arange(LARGE).float().clamp_max(30),
    "slow decay": torch.arange(1, LARGE + 1).float().rsqrt(),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_vectors_converge_whatever_the_spectrum(spectrum):
    matrix = with_values(SPECTRA[spectrum], 2 * LARGE)
    assert sigma_of(matrix, leading_vectors(matrix)) == pytest.approx(truth(matrix), rel=1e-3)


@pytest.mark.parametrize("index", [1, 7, LARGE - 1])
def test_a_start_at_another_singular_vector_does_not_mislead(index):
    values = torch.linspace(1, 0.5, LARGE)
    matrix = with_values(values, LARGE)
    wrong = torch.linalg.svd(matrix).Vh[index]
    assert sigma_of(matrix, leading_vectors(matrix, wrong)) == pytest.approx(1, rel=1e-3)


def test_identity_and_diagonal_matrices_do_not_break_down():
    for matrix in (torch.eye(LARGE), torch.diag(torch.cat((torch.tensor([1.0, 2.0]), torch.zeros(LARGE - 2))))):
        start = torch.eye(LARGE)[0]
        assert sigma_of(matrix, leading_vectors(matrix, start)) == pytest.approx(truth(matrix), rel=1e-5)


@pytest.mark.parametrize("shape", [(5, 7), (LARGE, LARGE)])
@pytest.mark.parametrize("number", [0.0, torch.nan, torch.inf])
def test_vectors_of_what_has_no_singular_values_are_unit_vectors(shape, number):
    for vector in leading_vectors(torch.full(shape, number)):
        assert float(vector.norm()) == pytest.approx(1, abs=1e-5)


def test_a_number_that_is_not_finite_is_seen():
    assert largest_singular_value(torch.tensor([[1.0, torch.nan]])) == float("inf")
    assert largest_singular_value(torch.tensor([[1.0, torch.inf]])) == float("inf")
    assert largest_singular_value(torch.zeros(2, 3)) == 0


@pytest.mark.parametrize("shape", [(5, 7), (LARGE, 2 * LARGE)])
def test_vectors_converge_under_vmap(shape):
    stack = torch.randn(3, *shape)
    for matrix, *vectors in zip(stack, *torch.vmap(leading_vectors)(stack), strict=True):
        assert sigma_of(matrix, tuple(vectors)) == pytest.approx(truth(matrix), rel=1e-4)


def test_power_steps_are_the_power_iteration():
    matrix = torch.randn(6, 9, dtype=torch.float64)
    u, v = torch.randn(6, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    found = power_steps(matrix, u, v, 3)
    w, y = matrix.numpy(), v.numpy()
    for _ in range(3):
        x = w @ y / np.linalg.norm(w @ y)
        y = w.T @ x / np.linalg.norm(w.T @ x)
    np.testing.assert_allclose(found[0].numpy(), x, atol=1e-14)
    np.testing.assert_allclose(found[1].numpy(), y, atol=1e-14)


@pytest.mark.parametrize("scale", [0.0, 1e-35, 1e35, torch.nan])
def test_power_steps_survive_any_matrix(scale):
    matrix = scale * torch.ones(4, 5)
    u, v = torch.full((4,), 0.5), torch.full((5,), 5**-0.5)
    for vector, start in zip(power_steps(matrix, u, v, 2), (u, v), strict=True):
        torch.testing.assert_close(vector, start)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_matrix_is_left_as_it_was_and_no_snapshot_is_copied(dtype: torch.dtype):
    matrix = (3 * torch.randn(9, 5)).to(dtype)
    before, kept = matrix.clone(), snapshot(matrix)
    address = address_of(matrix)
    assert largest_singular_value(matrix) == pytest.approx(truth(before), rel=1e-13)
    assert torch.equal(matrix, before)
    assert address_of(matrix) == address_of(kept) == address
