"""The power iteration: of one matrix, and of many small ones at once, each with the bits that it has alone."""

import math

import torch
from torch import Tensor

# How much of a vector is kept beside the product: a matrix of zeros leaves it as it is, up to rounding, and no other
# one that float32 can square feels it. Its square is a float32.
KEPT = 1e-18
# Matrices with fewer entries are multiplied as sums of products, row by row: that gives the same bits for one and for
# many of them, as BLAS does not, and takes one call for all. Larger ones take twice as long so as by BLAS.
SMALL = 65536
# From as many entries torch splits a sum among threads, where it is one: then its bits depend on what is beside it.
# https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/TensorIteratorReduce.cpp
SPLIT = 32768


def is_small(rows: int, columns: int) -> bool:
    """Whether a matrix is multiplied as sums of products, with the bits that it has among others."""
    return rows * columns < (SMALL if min(rows, columns) > 1 else SPLIT)


def power_step(matrix: Tensor, u: Tensor, v: Tensor, steps: int, kept: float = KEPT) -> tuple[Tensor, Tensor, Tensor]:
    """``steps`` steps from ``v`` for a matrix (m, n): ``u`` (m), ``v`` (n) and ``s = |Wᵀ u| = uᵀ W v``.

    ``u = W v / |W v|``, ``v = Wᵀ u / |Wᵀ u|``: the length that the last step divides by is the estimate of the largest
    singular value, so that two products with ``W`` are all.

    Reference: Miyato et al., "Spectral normalization for generative adversarial networks", 2018 (arXiv:1802.05957),
    algorithm 1.
    """
    transposed, sigma = matrix.t(), v  # TorchScript wants a name before a loop that may not run
    for _ in range(steps):
        u = torch.addmv(u, matrix, v, beta=kept)
        u = u / torch.linalg.vector_norm(u)
        v = torch.addmv(v, transposed, u, beta=kept)
        sigma = torch.linalg.vector_norm(v)
        v = v / sigma
    return u, v, sigma


def power_step_of_large(matrix: Tensor, u: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """`power_step` with all threads: a product with a vector takes one in BLAS, those of several blocks take many."""
    parts = math.gcd(torch.get_num_threads(), matrix.shape[0]) if matrix.is_cpu and matrix.is_contiguous() else 1
    if parts == 1:
        return power_step(matrix, u, v, steps)
    blocks = matrix.view(parts, -1, matrix.shape[1])
    sigma = v
    for _ in range(steps):
        right = v.expand(parts, 1, -1)
        u = torch.add(torch.bmm(right, blocks.transpose(1, 2)).view(-1), u, alpha=KEPT)
        u = u / torch.linalg.vector_norm(u)
        v = torch.add(torch.bmm(u.view(parts, 1, -1), blocks).sum((0, 1)), v, alpha=KEPT)
        sigma = torch.linalg.vector_norm(v)
        v = v / sigma
    return u, v, sigma


def power_step_of_small(matrices: Tensor, u: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """`power_step` for small matrices (k, m, n): ``u`` (k, m), ``v`` (k, n) and ``s`` (k)."""
    sigma = v
    for _ in range(steps):
        u = torch.add((matrices * v.unsqueeze(1)).sum(2), u, alpha=KEPT)
        u = u / torch.linalg.vector_norm(u, dim=1, keepdim=True)
        v = torch.add((matrices * u.unsqueeze(2)).sum(1), v, alpha=KEPT)
        sigma = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        v = v / sigma
    return u, v, sigma.squeeze(1)
