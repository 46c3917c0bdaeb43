"""Where the symbol of a convolution is largest, found from the weight alone."""

import math

import torch
from torch import Tensor

from computed.linalg import scaled_to_one
from computed.singular_values import MIXED_IN, even, generic, leading_vectors, power_steps, unit
from computed.symbol import at_angle, half_grid, in_weight, lattice, nearby_peak, points_of, polyphase, response, waves

# How many of the grid's largest are followed towards their peaks, through how many windows, and then the largest of
# them through how many; each is so much narrower than the last, and has so many points a dimension. On 400 random
# kernels of up to 7 x 7 taps, strides to 3 and 4 groups, no peak was missed; sigma was off by 3e-7 at most in 397 of
# them, and by 4e-4 in one: where two singular values are near each other, vectors and angle move each other slowly.
FOLLOWED = 4
APPROACH = 4
WINDOWS = 20
NARROWER = 1.3
# Up to this side the grid's norms are exact; above they are ranked after so many power steps.
EXACT_SIDE = 64
RANKING_STEPS = 16
# How many numbers may stand in memory as symbols at a time.
CHUNK = 1 << 24


def leading_waves(weight: Tensor, groups: int, stride: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The vectors ``u`` (2, rows), ``v`` (2, columns) and the angle of a weight's operator norm; waves for `follow`.

    Nothing branches on numbers, so it runs under `torch.func` transforms. Numbers that are not finite count as zero.
    """
    taps = list(weight.shape[2:])
    kernel = polyphase(scaled_to_one(weight)[0], groups, stride)
    lags, points = list(kernel.shape[3:]), points_of(taps, stride)
    kernel, places = kernel.flatten(3), lattice(lags, kernel)
    angles = half_grid(points, kernel)
    norms = grid_norms(kernel, waves(angles, places)).flatten()
    largest = torch.topk(norms, min(FOLLOWED, norms.shape[0])).indices
    width = torch.tensor([math.pi / size for size in points], dtype=kernel.dtype, device=kernel.device)
    peaks = []
    for which in largest.unbind():
        part = kernel.index_select(0, (which // len(angles)).reshape(1)).squeeze(0)
        start = angles.index_select(0, (which % len(angles)).reshape(1)).squeeze(0)
        peaks.append(climb(part, start, places, width, APPROACH))
    best = torch.stack([sigma for sigma, _ in peaks]).argmax().reshape(1)
    group = largest.index_select(0, best) // len(angles)
    part = kernel.index_select(0, group).squeeze(0)
    angle = torch.stack([angle for _, angle in peaks]).index_select(0, best).squeeze(0)
    angle = climb(part, angle, places, width, WINDOWS)[1]
    wave, symbol = at_angle(part, angle, places)
    u, v = leading_vectors(symbol, rounds=2)
    return *in_weight(kernel, group, u, v, wave, taps, stride), angle, start_of(kernel, group, v, angle, points)


def operator_norm(weight: Tensor, groups: int, stride: list[int]) -> float:
    """The norm of a convolution with ``weight`` (groups * out, in, *k) over inputs of every size.

    Infinite where a number is not finite.

    Example:
        >>> operator_norm(torch.tensor([[[1.0, 2.0, 1.0]]]), 1, [1])
        4.0
    """
    if not bool(weight.isfinite().all()):
        return math.inf
    u, v, _, _ = leading_waves(weight, groups, stride)
    return float((u * (v @ weight.flatten(1).t())).sum())


def grid_norms(kernel: Tensor, grid: Tensor) -> Tensor:
    """The norm (groups, angles) of each symbol of a kernel (groups, out, in, q) at waves (2, angles, q)."""
    groups, out, width, _ = kernel.shape
    at_once = max(1, CHUNK // (groups * out * width))
    parts = []
    for few in grid.split(at_once, dim=1):
        real, imaginary = (torch.einsum("goiq,fq->gfoi", kernel, part) for part in few)
        parts.append(norms_of(torch.complex(real, imaginary)))
    return torch.cat(parts, dim=1)


def norms_of(symbols: Tensor) -> Tensor:
    """The largest singular values of matrices (..., out, in): exact where they are small, else from below."""
    wide = symbols.shape[-2] <= symbols.shape[-1]
    if min(symbols.shape[-2:]) <= EXACT_SIDE:
        gram = symbols @ symbols.mH if wide else symbols.mH @ symbols
        squared: Tensor = torch.linalg.eigvalsh(gram)[..., -1]
        return squared.clamp_min(0).sqrt()
    one = symbols.real.flatten(0, -3)[0, 0]
    vector = (even(one) + MIXED_IN * generic(one)).to(symbols.dtype).unsqueeze(-1)
    for _ in range(RANKING_STEPS):
        vector = vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True).clamp_min(1e-30)
        image = symbols @ vector
        vector = symbols.mH @ image
    norms: Tensor = torch.linalg.vector_norm(image, dim=(-2, -1))
    return norms


def climb(kernel: Tensor, angle: Tensor, places: Tensor, width: Tensor, windows: int) -> tuple[Tensor, Tensor]:
    """The norm of the symbol at the peak near ``angle``, and the angle there: by turns vectors, and angle.

    Each turn makes ``|u* H(a) v|`` larger or leaves it.
    """
    _, symbol = at_angle(kernel, angle, places)
    u, v = even(symbol[:, 0]), unit(symbol.sum(0), even(symbol[0]))
    u, v = power_steps(symbol, u, v, RANKING_STEPS)
    for _ in range(windows if len(places) > 1 else 0):
        angle = nearby_peak(response(kernel, u, v), angle, places, width)
        width = width / NARROWER
        _, symbol = at_angle(kernel, angle, places)
        u, v = power_steps(symbol, u, v, 4)
    return torch.dot(u, torch.mv(symbol, v)), angle


def start_of(kernel: Tensor, group: Tensor, v: Tensor, angle: Tensor, points: list[int]) -> Tensor:
    """Waves (groups, in, points) from which `follow` starts: the leading one, and a little of all others."""
    cosine, sine = waves(angle.unsqueeze(0), lattice(points, angle)).squeeze(1)
    real, imaginary = v.unflatten(0, [2, -1])
    leading = torch.outer(real, cosine) - torch.outer(imaginary, sine)
    chosen = (torch.arange(kernel.shape[0], device=v.device) == group).to(v.dtype)
    start = chosen[:, None, None] * leading
    others = generic(start.flatten()).unflatten(0, list(start.shape))
    return unit((start / len(cosine) ** 0.5 + MIXED_IN * others).flatten(), even(start.flatten())).view_as(start)
