"""The symbol of a convolution: one complex matrix a frequency, the largest of which is the operator's norm.

A convolution with weight ``W`` (groups * out, in, *k) and stride ``s`` takes ``x`` to ``y[m] = sum_t W[t] x[s m + t]``.
On the whole lattice a plane wave of angle ``a`` goes to one, by the matrix ``H(a) = sum_q P[q] exp(i a q)``, where
``P`` is the weight with the phases of the stride among the channels (`polyphase`). The norm of the operator is the
largest singular value of ``H(a)`` over groups and angles. A convolution with zero padding, on inputs of any size, is a
block of that operator, and one with circular padding is the operator on periodic inputs; a transposed convolution is
its adjoint; a dilation prime to the stride leaves the norm as it is.

Complex numbers are pairs of real ones here, so that what trains can be compiled.

Reference: Sedghi, Gupta and Long, "The singular values of convolutional layers", 2019 (arXiv:1805.10408); Vaidyanathan,
"Multirate systems and filter banks", 1993, section 4.3, for the phases.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Points of the grid of angles in each dimension: three a tap. A squared norm is a trigonometric polynomial of degree
# k - 1, whose peaks are no narrower than pi / (k - 1), so that a point of the grid lies on the slope of each.
LEAST_POINTS = 8
WINDOW_POINTS = 9  # a dimension, where the peak beside an angle is sought


def polyphase(weight: Tensor, groups: int, stride: list[int]) -> Tensor:
    """The kernel (groups, out, in * phases, *q) of stride one that has the norm of ``weight`` with ``stride``."""
    kernel = weight
    for dim, step in enumerate(stride):
        axis = 2 + dim
        missing = -kernel.shape[axis] % step
        if missing:
            kernel = F.pad(kernel, [0, 0] * (kernel.dim() - 1 - axis) + [0, missing])
        kernel = kernel.unflatten(axis, [kernel.shape[axis] // step, step]).movedim(axis + 1, 2).flatten(1, 2)
    parts: Tensor = kernel.unflatten(0, [groups, kernel.shape[0] // groups])
    return parts


def weight_order(wave: Tensor, taps: list[int], stride: list[int]) -> Tensor:
    """A wave (2, in * phases, *q) on the taps of a `polyphase` kernel in the order of the weight's: (2, in * k)."""
    for dim in range(len(taps) - 1, -1, -1):
        apart = wave.unflatten(1, [wave.shape[1] // stride[dim], stride[dim]])
        wave = apart.movedim(2, 3 + dim).flatten(2 + dim, 3 + dim).narrow(2 + dim, 0, taps[dim])
    return wave.flatten(1)


def lattice(sizes: list[int], like: Tensor) -> Tensor:
    """All points of a box as rows (points, dims), the last dimension fastest."""
    axes = [torch.arange(size, dtype=like.dtype, device=like.device) for size in sizes]
    return torch.stack(torch.meshgrid(axes, indexing="ij"), -1).flatten(0, -2)


def waves(angles: Tensor, places: Tensor) -> Tensor:
    """Cosine and sine (2, angles, places) of plane waves: rows of ``angles`` times rows of ``places``."""
    turned = angles @ places.t()
    return torch.stack([turned.cos(), turned.sin()])


def real_form(kernel: Tensor, wave: Tensor) -> Tensor:
    """The symbol of a kernel (out, in, q) at one wave (2, q) as a real matrix (2 out, 2 in), of (re, im) vectors."""
    real, imaginary = kernel @ wave[0], kernel @ wave[1]
    return torch.cat([torch.cat([real, -imaginary], 1), torch.cat([imaginary, real], 1)])


def on_taps(v: Tensor, wave: Tensor) -> Tensor:
    """The product (2, in, q) of a vector (2 in) and a wave (2, q), both complex."""
    parts = v.unflatten(0, [2, -1]).unsqueeze(-1)
    return torch.stack([parts[0] * wave[0] - parts[1] * wave[1], parts[0] * wave[1] + parts[1] * wave[0]])


def response(kernel: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """``u* P[q] v`` (2, q) of a kernel (out, in, q): what the symbol does to ``v``, seen by ``u``, lag by lag."""
    width = kernel.shape[1]
    left = (u.unflatten(0, [2, -1]) @ kernel.flatten(1)).unflatten(1, [width, -1])
    right = v.unflatten(0, [2, -1])
    each = (left.unsqueeze(1) * right.unsqueeze(0).unsqueeze(-1)).sum(2)
    # (a - ib)(c + id) = ac + bd + i(ad - bc)
    return torch.stack([each[0, 0] + each[1, 1], each[0, 1] - each[1, 0]])


def points_of(taps: list[int], stride: list[int], least: int = LEAST_POINTS) -> list[int]:
    """How many points the grid of angles has in each dimension, for a weight with ``taps`` and ``stride``."""
    points: list[int] = []
    for size, step in zip(taps, stride):  # noqa: B905 - TorchScript knows no strict
        lags = (size + step - 1) // step
        points.append(1 if lags == 1 else max(least, 3 * lags))
    return points


def half_grid(points: list[int], like: Tensor) -> Tensor:
    """The angles (points, dims) of a grid, without those whose negatives are there: their symbols are conjugate."""
    sizes = points[:-1]
    sizes.append(points[-1] // 2 + 1)
    turn = torch.tensor([2 * math.pi / size for size in points], dtype=like.dtype, device=like.device)
    return lattice(sizes, like) * turn


def nearby_peak(lags: Tensor, angle: Tensor, places: Tensor, width: Tensor, half: int = WINDOW_POINTS // 2) -> Tensor:
    """The angle within ``width`` (dims) of ``angle`` at which the polynomial with coefficients ``lags`` is largest."""
    side = 2 * half + 1
    # the centre comes first, so that it is what ties leave
    steps = (lattice([side] * angle.shape[0], angle) + half).remainder(side) / half - 1.0
    around = angle + steps * width
    wave = waves(around, places)
    real = wave[0] @ lags[0] - wave[1] @ lags[1]
    imaginary = wave[0] @ lags[1] + wave[1] @ lags[0]
    best = (real.square() + imaginary.square()).argmax()
    return around.index_select(0, best.reshape(1)).squeeze(0)


def at_angle(kernel: Tensor, angle: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The wave (2, q) of an angle (dims) on the lags, and the symbol there in its real form."""
    wave = waves(angle.unsqueeze(0), places).squeeze(1)
    return wave, real_form(kernel, wave)


def in_weight(
    kernel: Tensor, group: Tensor, u: Tensor, v: Tensor, wave: Tensor, taps: list[int], stride: list[int]
) -> tuple[Tensor, Tensor]:
    """Vectors of one symbol as ``u`` (2, rows) and ``v`` (2, columns) of the weight: ``sigma = sum_j u_j W v_j``.

    ``W`` (groups * out, in * k) is the weight as a matrix; rows of other groups than ``group`` are zero in ``u``.
    """
    chosen = torch.arange(kernel.shape[0], device=u.device) == group
    rows = (u.unflatten(0, [2, -1]).unsqueeze(1) * chosen.to(u.dtype).unsqueeze(1)).flatten(1)
    lags = [(size + step - 1) // step for size, step in zip(taps, stride)]  # noqa: B905 - as above
    return rows, weight_order(on_taps(v, wave).unflatten(2, lags), taps, stride)
