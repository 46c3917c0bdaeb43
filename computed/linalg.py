"""Matrices: a weight as a matrix, its polar factor, and a retraction onto matrices with orthonormal columns."""

import torch
from torch import Tensor


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """``weight`` as a matrix whose rows run along ``dim``: (out, in * k) of a convolution (out, in, k)."""
    return weight.movedim(dim, 0).flatten(1)


def like_weight(matrix: Tensor, weight: Tensor, dim: int) -> Tensor:
    """The inverse of `as_matrix`: ``matrix`` in the shape of ``weight``."""
    return matrix.view(weight.movedim(dim, 0).shape).movedim(0, dim)


def in_double(tensor: Tensor) -> Tensor:
    """``tensor`` in float64, in main memory where its device has none (MPS)."""
    return tensor.detach().to(device="cpu" if tensor.device.type == "mps" else tensor.device, dtype=torch.float64)


def polar_factor(matrix: Tensor) -> Tensor:
    """The matrix with orthonormal columns (rows, where these are fewer) nearest to ``matrix`` (m, n).

    ``U Vᵀ`` of the singular value decomposition, taken in float64 and returned in the dtype of ``matrix``. Where
    ``matrix`` has not full rank, several are nearest and one of them is given. Numbers that are not finite count as
    zero.

    Reference: Fan and Hoffman, "Some metric inequalities in the space of matrices", 1955.
    """
    exact = torch.nan_to_num(in_double(matrix), nan=0.0, posinf=0.0, neginf=0.0)
    largest = exact.abs().amax() if exact.numel() else exact.new_ones(())
    u, _, vh = torch.linalg.svd(exact / torch.where(largest > 0, largest, 1.0), full_matrices=False)
    return (u @ vh).to(matrix)


def orthonormality_error(matrix: Tensor) -> float:
    """``max |QᵀQ - I|`` over the smaller side of ``matrix``, in float64."""
    exact = in_double(matrix)
    tall = exact if exact.shape[0] >= exact.shape[1] else exact.T
    gram = tall.T @ tall
    return float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().amax())


def cayley_retraction(base: Tensor, delta: Tensor) -> Tensor:
    """From ``base`` (m, n; m >= n, orthonormal columns) along ``delta`` (m, n), staying orthonormal.

    With ``C = baseᵀ delta``, ``S = (C - Cᵀ) / 2``, ``P = delta - base C``::

        Q = (2 base + P) (I - S/2 + PᵀP/4)⁻¹ - base

    This is ``(I - A/2)⁻¹ (I + A/2) base`` for ``A = P baseᵀ - base Pᵀ + base S baseᵀ`` with the inverse brought from
    size m to size n. The symmetric part of what is inverted is at least I, so it is defined for every ``delta``;
    to first order it moves as ``delta`` does, projected to the tangent space at ``base``, which it equals for 0.

    Reference: Wen and Yin, "A feasible method for optimization with orthogonality constraints", 2013, section 2.2.
    """
    inside = base.t() @ delta
    skew = 0.5 * (inside - inside.t())
    middle = torch.eye(base.shape[1], dtype=base.dtype, device=base.device) - 0.5 * skew
    if base.shape[0] == base.shape[1]:
        return (2 * base) @ torch.linalg.inv(middle) - base
    normal = delta - base @ inside
    return (2 * base + normal) @ torch.linalg.inv(middle + 0.25 * (normal.t() @ normal)) - base
