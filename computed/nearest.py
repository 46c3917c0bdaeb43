"""Nearest points of sets that have no formula for it, found once, in float64: pure functions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# numbers beyond are taken as this: what is subtracted from them is rounded away
LARGEST = 1e9
ROUNDS = 200
ENOUGH = 1e-12
SHORTEST = 2.0**-30


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


def nearest_correlation(matrix: Tensor) -> Tensor:
    """The correlation matrix nearest to ``matrix`` (n, n) in the Frobenius norm, by Newton's method on the dual.

    With ``C = (X + Xᵀ) / 2`` it is the semidefinite part of ``C + diag(y)`` for the ``y`` that makes its diagonal one.

    Reference: Qi and Sun, "A quadratically convergent Newton method for computing the nearest correlation matrix",
    2006, algorithm 5.1.

    >>> nearest_correlation(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    flat = torch.nan_to_num(matrix, nan=0.0).reshape(-1, *matrix.shape[-2:])
    return torch.stack([_correlation(each) for each in flat]).reshape(matrix.shape)


def _correlation(matrix: Tensor) -> Tensor:
    symmetric = (0.5 * matrix + 0.5 * matrix.mT).clamp(-LARGEST, LARGEST)
    symmetric.fill_diagonal_(1.0)  # which differs from any other by a multiplier

    def parts(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eigenvalues, vectors = torch.linalg.eigh(symmetric + torch.diag(y))
        return eigenvalues, vectors, (vectors * eigenvalues.clamp_min(0.0)) @ vectors.mT

    def dual(y: Tensor) -> Tensor:
        return 0.5 * parts(y)[0].clamp_min(0.0).square().sum() - y.sum()

    def gradient(y: Tensor) -> Tensor:
        return parts(y)[2].diagonal() - 1.0

    def step(y: Tensor, slope: Tensor) -> Tensor:
        eigenvalues, vectors, _ = parts(y)
        positive = eigenvalues.clamp_min(0.0)
        gap = eigenvalues.unsqueeze(1) - eigenvalues
        ratio = (positive.unsqueeze(1) - positive) / torch.where(gap == 0, torch.ones_like(gap), gap)
        weights = torch.where(gap == 0, (eigenvalues > 0).to(gap.dtype).unsqueeze(1).expand_as(gap), ratio)
        error = float(torch.linalg.vector_norm(slope).clamp_max(1.0))

        def times(direction: Tensor) -> Tensor:
            inside = weights * ((vectors.mT * direction) @ vectors)
            return ((vectors @ inside) * vectors).sum(1) + (1e-10 + 1e-3 * error**2) * direction

        squares = vectors.square()
        return _conjugate(times, -slope, ((squares @ weights) * squares).sum(1).clamp_min(1e-8), 0.1 * error)

    found = parts(_minimum(torch.zeros_like(symmetric[0]), dual, gradient, step))[2]
    scale = found.diagonal().clamp_min(torch.finfo(found.dtype).tiny).rsqrt()  # what is left of the diagonal's error
    return found * scale * scale.unsqueeze(1)


def nearest_doubly_stochastic(matrix: Tensor) -> Tensor:
    """The doubly stochastic matrix nearest to ``matrix`` (n, n), by Newton's method on the dual.

    It is what is positive of ``X + a 1ᵀ + 1 bᵀ``, for the ``a`` and ``b`` that make all sums one.

    Reference: Li, Sun and Toh, "On the efficient computation of a generalized Jacobian of the projector over the
    Birkhoff polytope", 2020 (arXiv:1702.05934), section 4.

    >>> nearest_doubly_stochastic(torch.tensor([[3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    finite = torch.nan_to_num(matrix, nan=0.0).clamp(-LARGEST, LARGEST)
    # multipliers take any means of rows and columns away
    centred = finite - finite.mean(-1, keepdim=True)
    centred = centred - centred.mean(-2, keepdim=True)
    flat = centred.reshape(-1, *matrix.shape[-2:])
    return torch.stack([_doubly_stochastic(each) for each in flat]).reshape(matrix.shape)


def _doubly_stochastic(matrix: Tensor) -> Tensor:
    count = len(matrix)

    def shifted(y: Tensor) -> Tensor:
        return matrix + y[:count].unsqueeze(1) + y[count:]

    def dual(y: Tensor) -> Tensor:
        return 0.5 * shifted(y).clamp_min(0.0).square().sum() - y.sum()

    def gradient(y: Tensor) -> Tensor:
        positive = shifted(y).clamp_min(0.0)
        return torch.cat([positive.sum(1), positive.sum(0)]) - 1.0

    def step(y: Tensor, slope: Tensor) -> Tensor:
        support = (shifted(y) > 0).to(y.dtype)
        rows = torch.cat([torch.diag(support.sum(1)), support], 1)
        columns = torch.cat([support.mT, torch.diag(support.sum(0))], 1)
        return _solved(torch.cat([rows, columns]), slope)

    start = torch.cat([-matrix.amax(1), torch.zeros_like(matrix[0])]) + 1.0 / count
    return shifted(_minimum(start, dual, gradient, step)).clamp_min(0.0)


def _conjugate(times: Callable[[Tensor], Tensor], right: Tensor, diagonal: Tensor, enough: float) -> Tensor:
    """Where ``times`` gives ``right``, to ``enough`` relatively, by conjugate gradients with a diagonal before them."""
    found, rest = torch.zeros_like(right), right
    near = rest / diagonal
    direction, size = near, rest @ near
    stop = max(enough, 1e-8) * float(torch.linalg.vector_norm(right))
    for _ in range(2 * len(right)):
        moved = times(direction)
        length = size / (direction @ moved)
        found, rest = found + length * direction, rest - length * moved
        if float(torch.linalg.vector_norm(rest)) <= stop:
            break
        near = rest / diagonal
        before, size = size, rest @ near
        direction = near + (size / before) * direction
    return found


def _solved(matrix: Tensor, slope: Tensor) -> Tensor:
    """Newton's direction, a little towards steepest descent where the matrix is singular."""
    error = torch.linalg.vector_norm(slope).clamp_max(1.0)
    added = (1e-13 + 1e-7 * error) * torch.eye(len(slope), dtype=slope.dtype, device=slope.device)
    solution: Tensor = torch.linalg.solve(matrix + added, -slope)
    return solution


def _minimum(
    start: Tensor,
    dual: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor], Tensor],
    step: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Where a convex function is least: Newton's directions, each halved until the function falls enough."""
    y, best = start, start
    least = math.inf
    for _ in range(ROUNDS):
        slope = gradient(y)
        error = float(slope.abs().amax())
        if error < least:
            best, least = y, error
        if error <= ENOUGH:
            break
        direction, here = step(y, slope), dual(y)
        along, length = float(slope @ direction), 1.0
        if not along < 0:
            direction, along = -slope, -float(slope @ slope)
        while length > SHORTEST:
            there = y + length * direction
            # near the minimum the function is rounded, and only its slope tells
            falls = float(dual(there) - here) <= 1e-4 * length * along
            if falls or float(gradient(there).abs().amax()) < error:
                break
            length /= 2
        y = y + length * direction
    return best
