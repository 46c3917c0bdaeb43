"""Matrices: a weight as a matrix, its polar factor, orthonormal columns."""

import torch
from torch import Tensor


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """``weight`` as a matrix whose rows run along ``dim``: (out, in * k) of a convolution (out, in, k)."""
    rows_first = weight.movedim(dim, 0)
    return rows_first.reshape(rows_first.shape[0], -1)  # flatten has no rule for batched cotangents


def like_weight(matrix: Tensor, weight: Tensor, dim: int) -> Tensor:
    """The inverse of `as_matrix`: ``matrix`` in the shape of ``weight``, contiguous."""
    return matrix.reshape(weight.movedim(dim, 0).shape).movedim(0, dim).contiguous()


def in_double(tensor: Tensor) -> Tensor:
    """``tensor`` in float64, in main memory where its device has none (MPS)."""
    device = "cpu" if tensor.device.type == "mps" else tensor.device
    return tensor.detach().to(device=device, dtype=torch.float64)


def scaled_to_one(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``matrix`` divided by its largest entry, and that entry; numbers that are not finite count as zero."""
    finite = torch.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0)
    largest = finite.abs().amax()
    return finite / torch.where(largest > 0, largest, 1.0), largest


def polar_factor(matrix: Tensor) -> Tensor:
    """The matrix with orthonormal columns (rows, where these are fewer) nearest to ``matrix`` (m, n).

    ``U Vᵀ`` of the singular value decomposition, taken in float64 and returned in the dtype of ``matrix``.
    Where ``matrix`` has not full rank, several are nearest and one of them is given. Numbers that are not
    finite count as zero.

    Reference: Fan and Hoffman, "Some metric inequalities in the space of matrices", 1955.
    """
    u, _, vh = torch.linalg.svd(scaled_to_one(in_double(matrix))[0], full_matrices=False)
    nearest: Tensor = u @ vh
    return nearest.to(matrix)


def orthonormality_error(matrix: Tensor) -> float:
    """``max |QᵀQ - I|`` over the smaller side of ``matrix``, in its own dtype."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = tall.T @ tall
    return float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().amax())


def newton_schulz_correction(matrix: Tensor) -> Tensor:
    """What one Newton-Schulz step adds to ``Q`` (m, n; m >= n): an error ``e`` of ``QᵀQ - I`` becomes ``e²``.

    Reference: Björck and Bowie, "An iterative algorithm for computing the best estimate of an orthogonal
    matrix", 1971.
    """
    gram = matrix.t() @ matrix
    return 0.5 * (matrix @ (torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device) - gram))
