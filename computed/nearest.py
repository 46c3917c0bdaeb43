"""Nearest points of sets that have no formula for it, found once, in float64: pure functions."""

import torch
from torch import Tensor


def nearest_rising(tensor: Tensor, dim: int) -> Tensor:
    """The tensor nearest to ``tensor`` whose entries do not fall along ``dim``, by pooling adjacent violators.

    Reference: Barlow et al., "Statistical inference under order restrictions", 1972.

    >>> nearest_rising(torch.tensor([3.0, 1.0, 2.0]), 0).tolist()
    [2.0, 2.0, 2.0]
    """
    lines = tensor.movedim(dim, -1)
    falling = (lines.diff(dim=-1) < 0).any(-1)
    found = lines.clone()
    flat, wrong = found.reshape(-1, lines.shape[-1]), falling.reshape(-1)
    for index in wrong.nonzero().flatten().tolist():
        flat[index] = torch.tensor(_pooled(flat[index].tolist()), dtype=tensor.dtype, device=tensor.device)
    return flat.reshape(lines.shape).movedim(-1, dim)


def _pooled(numbers: list[float]) -> list[float]:
    """The isotonic regression of one line: means of runs, each larger than the one before."""
    means: list[float] = []
    counts: list[int] = []
    for number in numbers:
        means.append(number)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            count = counts[-2] + counts[-1]
            share = counts[-1] / count
            means[-2:] = [means[-2] + (means[-1] - means[-2]) * share]
            counts[-2:] = [count]
    return [mean for mean, count in zip(means, counts, strict=True) for _ in range(count)]


def nearest_probabilities(tensor: Tensor, dim: int) -> Tensor:
    """The tensor nearest to ``tensor`` whose entries along ``dim`` are not negative and have sum one.

    Reference: Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", 2008, figure 1.

    >>> nearest_probabilities(torch.tensor([2.0, 1.5, -1.0]), 0).tolist()
    [0.75, 0.25, 0.0]
    """
    moved = tensor.movedim(dim, -1)
    # only differences matter, and those of large numbers are rounded less
    lines = moved - moved.amax(-1, keepdim=True)
    falling = lines.sort(-1, descending=True).values
    counts = torch.arange(1, lines.shape[-1] + 1, dtype=lines.dtype, device=lines.device)
    excess = (falling.cumsum(-1) - 1) / counts
    last = (falling > excess).sum(-1, keepdim=True) - 1
    return (lines - excess.gather(-1, last)).clamp_min(0.0).movedim(-1, dim)


def nearest_correlation(matrix: Tensor, rounds: int = 200, enough: float = 1e-12) -> Tensor:
    """The correlation matrix nearest to ``matrix`` (n, n) in the Frobenius norm, by Dykstra's alternating projections.

    Reference: Higham, "Computing the nearest correlation matrix: a problem from finance", 2002, algorithm 3.3.

    >>> nearest_correlation(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    # what is far outside comes to the same as what is at the bounds of entries
    start = torch.nan_to_num(0.5 * matrix + 0.5 * matrix.mT, nan=0.0).clamp(-1e6, 1e6)
    found, correction = start.clone(), torch.zeros_like(start)
    for _ in range(rounds):
        before = found
        shifted = found - correction
        eigenvalues, vectors = torch.linalg.eigh(shifted)
        semidefinite = (vectors * eigenvalues.clamp_min(0.0).unsqueeze(-2)) @ vectors.mT
        correction = semidefinite - shifted
        found = semidefinite.clone()
        found.diagonal(0, -2, -1).fill_(1.0)
        if float((found - before).abs().amax()) <= enough:
            break
    return found


def nearest_doubly_stochastic(matrix: Tensor, rounds: int = 2000, enough: float = 1e-12) -> Tensor:
    """The doubly stochastic matrix nearest to ``matrix`` (n, n), by Dykstra's alternating projections.

    Reference: Boyle and Dykstra, "A method for finding projections onto the intersection of convex sets", 1986.

    >>> nearest_doubly_stochastic(torch.tensor([[3.0, 0.0], [0.0, 3.0]])).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    found = torch.nan_to_num(matrix, nan=0.0).clamp(-1e6, 1e6)
    correction = torch.zeros_like(found)
    count = found.shape[-1]
    for _ in range(rounds):
        before = found
        rows, columns = found.sum(-1, keepdim=True), found.sum(-2, keepdim=True)
        total = rows.sum(-2, keepdim=True)
        balanced = found + (1 - rows) / count + (1 - columns) / count - (count - total) / count**2
        shifted = balanced + correction
        found = shifted.clamp_min(0.0)
        correction = shifted - found
        if float((found - before).abs().amax()) <= enough:
            break
    return found
