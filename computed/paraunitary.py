"""Kernels of convolutions that keep lengths: products of projections and shifts, and the way back.

A kernel (N, n, *k), N >= n, is ``F_m ... F_1 Q`` with ``Q`` (N, n) of orthonormal columns as its one tap, and ``F = P +
(I - P) x`` for a projection ``P`` and the shift ``x`` along an axis: each adds one tap. For any image ``K`` then keeps
lengths, since ``F`` and ``Q`` do. ``P = U Uᵀ`` for ``U`` (N, r), with r by turns the larger and the smaller half of N,
so that two factors may be one shift: the identity is such a kernel.

Reference: Li et al., "Preventing gradient attenuation in Lipschitz constrained convolutional networks", 2019
(arXiv:1911.00937), section 4; Kautsky and Turcajová, "A matrix approach to discrete wavelets", 1994, for factors.
"""

import torch
from torch import Tensor

from computed.linalg import polar_factor


def order_of(taps: list[int]) -> list[int]:
    """The axis of each factor, from the inside out: axes by turns."""
    axes: list[int] = []
    for turn in range(max(taps) - 1):
        for axis in range(len(taps)):
            if turn < taps[axis] - 1:
                axes.append(axis)
    return axes


def ranks_of(axes: list[int], rows: int) -> list[int]:
    """The rank of each factor's projection: the larger half of the rows and the smaller one by turns on each axis."""
    ranks: list[int] = []
    for place, axis in enumerate(axes):
        before = axes[:place].count(axis)
        ranks.append((rows + 1 - before % 2) // 2)
    return ranks


def projected(kernel: Tensor, frame: Tensor) -> Tensor:
    """``U Uᵀ K`` for each tap."""
    return (frame @ (frame.t() @ kernel.flatten(1))).reshape(kernel.shape)


def with_factor(kernel: Tensor, frame: Tensor, axis: int) -> Tensor:
    """``(P + (I - P) x) K``: one tap more along an axis of the image."""
    kept = projected(kernel, frame)
    none = torch.zeros_like(kernel.narrow(axis + 2, 0, 1))
    return torch.cat([kept, none], axis + 2) + torch.cat([none, kernel - kept], axis + 2)


def without_factor(kernel: Tensor, rank: int, axis: int) -> tuple[Tensor, Tensor]:
    """The frame of the outermost factor, and the kernel without it: one tap less along an axis.

    A kernel that has such a factor is ``P K`` in its first tap and ``(I - P) K`` in its last; in another the frame
    keeps as much of the first and as little of the last as a projection can, and what sticks out is cut off.
    """
    count = kernel.shape[axis + 2]
    first = kernel.narrow(axis + 2, 0, 1).flatten(1)
    last = kernel.narrow(axis + 2, count - 1, 1).flatten(1)
    frame = torch.linalg.eigh(first @ first.t() - last @ last.t())[1][:, kernel.shape[0] - rank :].flip(1)
    kept = projected(kernel, frame)
    inner = kept.narrow(axis + 2, 0, count - 1) + (kernel - kept).narrow(axis + 2, 1, count - 1)
    return frame, inner


def factors_of(kernel: Tensor) -> tuple[Tensor, list[Tensor]]:
    """``Q`` and the frames of all factors, from the inside out, of a kernel (N, n, *k) with N >= n.

    A kernel that is such a product is given back; any other is cut down factor by factor, and ``Q`` is the polar factor
    of what is left.
    """
    axes = order_of(list(kernel.shape[2:]))
    frames: list[Tensor] = []
    for axis, rank in reversed(list(zip(axes, ranks_of(axes, kernel.shape[0]), strict=True))):
        frame, kernel = without_factor(kernel, rank, axis)
        frames.append(frame)
    return polar_factor(kernel.flatten(1)), frames[::-1]


def loss_of_length(kernel: Tensor) -> float:
    """The largest entry of ``sum_t K_tᵀ K_{t+s} - [s = 0] I`` over all shifts ``s``, for a kernel (N, n, *k), N >= n.

    Zero exactly where the convolution keeps the length of every image.
    """
    axes = list(range(2, kernel.dim()))
    sizes = [2 * kernel.shape[axis] - 1 for axis in axes]
    spectrum = torch.fft.fftn(kernel, s=sizes, dim=axes)
    moved = spectrum.movedim((0, 1), (-2, -1))
    gram = torch.fft.ifftn(moved.mH @ moved, dim=tuple(range(len(axes)))).real
    gram[(0,) * len(axes)] -= torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
    return float(gram.abs().amax())
