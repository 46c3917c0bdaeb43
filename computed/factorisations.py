"""Tensors as products of small ones: Tucker, canonical polyadic and tensor-train decompositions, in float64.

Found once, when a weight is replaced. A tensor (out, in, k...) is decomposed along its first two dimensions and what
follows; ranks are numbers, or the share of the entries that the factors may have together.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SWEEPS = 50
ENOUGH = 1e-10
# tensors of so few entries are decomposed from several starts
SMALL = 4096
STARTS = 8


def unfolded(tensor: Tensor, mode: int) -> Tensor:
    """The matrix whose rows run along ``mode``."""
    return tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1)


def leading(matrix: Tensor, rank: int) -> Tensor:
    """The left singular vectors of the ``rank`` largest singular values."""
    vectors: Tensor = torch.linalg.svd(matrix, full_matrices=False).U[:, :rank]
    return vectors


def tucker(tensor: Tensor, first: int, second: int) -> tuple[Tensor, Tensor, Tensor]:
    """``core`` (first, second, k...), ``U`` (out, first), ``V`` (in, second), of least squared error or close to it.

    By higher-order orthogonal iteration from the higher-order singular value decomposition, on the first two modes.

    Reference: De Lathauwer, De Moor and Vandewalle, "On the best rank-1 and rank-(R1, ..., RN) approximation of
    higher-order tensors", 2000.
    """
    u, v = leading(unfolded(tensor, 0), first), leading(unfolded(tensor, 1), second)
    kept = -1.0
    for _ in range(SWEEPS):
        u = leading(unfolded(torch.einsum("oi...,ij->oj...", tensor, v), 0), first)
        v = leading(unfolded(torch.einsum("oi...,oj->ji...", tensor, u), 1), second)
        core = torch.einsum("oi...,oa,ib->ab...", tensor, u, v)
        size = float(torch.linalg.vector_norm(core))
        if size <= kept * (1 + ENOUGH):
            break
        kept = size
    return core, u, v


def polyadic(tensor: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """``A`` (out, rank), ``B`` (in, rank), ``C`` (rest, rank) with ``sum_r a_r b_r c_r`` near a tensor (out, in, rest).

    By alternating least squares from leading singular vectors, and for small tensors from other starts too; columns
    share their lengths evenly.

    Reference: Kolda and Bader, "Tensor decompositions and applications", 2009, figure 3.3.
    """
    size = float(torch.linalg.vector_norm(tensor))
    best, least = _alternated(tensor, [_start(unfolded(tensor, mode), rank) for mode in range(3)])
    for start in range(1, STARTS if tensor.numel() <= SMALL else 1):
        if least <= 1e-12 * size:
            break
        factors = [_generic(side, rank, tensor, start + mode / 3) for mode, side in enumerate(tensor.shape)]
        found, error = _alternated(tensor, factors)
        best, least = (found, error) if error < least else (best, least)
    lengths = [factor.norm(dim=0) for factor in best]
    share = torch.stack(lengths).prod(0) ** (1 / 3)
    evened = [
        factor * torch.where(length > 0, share / torch.where(length > 0, length, 1.0), 0.0)
        for factor, length in zip(best, lengths, strict=True)
    ]
    return evened[0], evened[1], evened[2]


def _alternated(tensor: Tensor, factors: list[Tensor]) -> tuple[list[Tensor], float]:
    """Factors of least squares, each in turn, and the error that is left."""
    size = float(torch.linalg.vector_norm(tensor))
    before = math.inf
    for _ in range(4 * SWEEPS):
        for mode in range(3):
            one, two = (factors[other] for other in range(3) if other != mode)
            gram = (one.T @ one) * (two.T @ two)
            mixed = _mixed(tensor, mode, one, two)
            factors[mode] = torch.linalg.lstsq(gram, mixed.T, driver="gelsd").solution.T
        error = float(torch.linalg.vector_norm(tensor - torch.einsum("or,ir,kr->oik", *factors)))
        if before - error <= ENOUGH * max(size, torch.finfo(tensor.dtype).tiny):
            break
        before = error
    return factors, error


def _mixed(tensor: Tensor, mode: int, one: Tensor, two: Tensor) -> Tensor:
    return torch.einsum(("oik,ir,kr->or", "oik,or,kr->ir", "oik,or,ir->kr")[mode], tensor, one, two)


def _start(matrix: Tensor, rank: int) -> Tensor:
    """Leading singular vectors; where there are too few, others beside them."""
    vectors = leading(matrix, rank)
    missing = rank - vectors.shape[1]
    return torch.cat([vectors, _generic(len(matrix), missing, matrix, 0.0)], 1) if missing > 0 else vectors


def _generic(rows: int, columns: int, like: Tensor, start: float) -> Tensor:
    """A fixed matrix without structure: parts of golden multiples."""
    numbers = torch.arange(rows * columns, dtype=like.dtype, device=like.device) + 1000.0 * start
    return (numbers * 0.6180339887498949 % 1 - 0.5).reshape(rows, columns)


def train(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Cores (r_(i-1), n_i, r_i) whose product is near ``tensor``, with ``r_0 = r_n = 1``.

    By singular value decompositions from the left, which is within ``sqrt(n - 1)`` of the best.

    Reference: Oseledets, "Tensor-train decomposition", 2011, algorithm 1.
    """
    cores: list[Tensor] = []
    rest, before = tensor.reshape(tensor.shape[0], -1), 1
    for size, rank in zip(tensor.shape, ranks, strict=False):
        u, s, vh = torch.linalg.svd(rest.reshape(before * size, -1), full_matrices=False)
        kept = min(rank, len(s))
        cores.append(_widened(u[:, :kept], rank, 1).reshape(before, size, rank))
        rest, before = _widened(s[:kept].unsqueeze(1) * vh[:kept], rank, 0), rank
    return [*cores, rest.reshape(before, tensor.shape[-1], 1)]


def _widened(matrix: Tensor, rank: int, dim: int) -> Tensor:
    """``matrix`` with zeros behind, up to ``rank`` along ``dim``."""
    shape = list(matrix.shape)
    shape[dim] = rank - shape[dim]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim) if shape[dim] else matrix


def scaled_rank(share: float, entries: int, count: Callable[[float], int]) -> float:
    """The largest scale from 0 to 1 at which ``count(scale)`` entries are no more than ``share`` of ``entries``."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) <= share * entries else (low, middle)
    return high if count(high) <= share * entries else low
