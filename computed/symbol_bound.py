"""A number that the norm of a convolution is certainly not above, from the norms of its symbol on a grid of angles.

For a unit vector ``v`` the square of ``|H(a) v|`` is a trigonometric polynomial in each angle, of degree ``q - 1`` for
``q`` taps. Between ``N`` equal steps such a polynomial is at most its largest value there over ``cos(pi (q - 1) / N)``.

Reference: Ehlich and Zeller, "Schwankung von Polynomen zwischen Gitterpunkten", 1964, theorem 1.
"""

import math

import torch
from torch import Tensor

from computed.symbol import half_grid, lattice, polyphase, waves

# points a dimension: with three taps the bound is 0.3 % a dimension above the largest value on the grid, or 1 %
FINE = 64
COARSE = 32
# up to which smaller side the fine grid is taken
SMALL_SIDE = 128
CHUNK = 1 << 24  # numbers that stand in memory as symbols at a time


def operator_norm_bound(weight: Tensor, groups: int, stride: list[int]) -> float:
    """What the norm of a convolution with ``weight`` (groups * out, in, *k), for inputs of any size, is not above.

    Up to rounding in float64. Infinite where a number is not finite.

    >>> round(operator_norm_bound(torch.tensor([[[1.0, 2.0, 1.0]]], dtype=torch.float64), 1, [1]), 2)
    4.01
    """
    if not bool(weight.isfinite().all()):
        return math.inf
    kernel = polyphase(weight, groups, stride)
    taps = list(kernel.shape[3:])
    points = [_points(size, min(kernel.shape[1:3])) for size in taps]
    flat = kernel.flatten(3)
    largest = _largest(flat, waves(half_grid(points, flat), lattice(taps, flat)))
    slack = math.prod(math.cos(math.pi * (size - 1) / count) for size, count in zip(taps, points, strict=True))
    return largest / math.sqrt(slack)


def _points(taps: int, side: int) -> int:
    """How many points a dimension of so many taps gets; one tap has one angle."""
    if taps == 1:
        return 1
    return max(FINE if side <= SMALL_SIDE else COARSE, 8 * taps)


def _largest(kernel: Tensor, grid: Tensor) -> float:
    """The largest norm of the symbols of a kernel (groups, out, in, q) at waves (2, angles, q)."""
    groups, out, width, _ = kernel.shape
    found = 0.0
    for few in grid.split(max(1, CHUNK // (groups * out * width)), dim=1):
        real, imaginary = (torch.einsum("goiq,fq->gfoi", kernel, part) for part in few)
        symbols = torch.complex(real, imaginary)
        gram = symbols @ symbols.mH if out <= width else symbols.mH @ symbols
        found = max(found, float(torch.linalg.eigvalsh(gram)[..., -1].amax().clamp_min(0).sqrt()))
    return found
