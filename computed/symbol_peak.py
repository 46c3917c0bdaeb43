"""Where the symbol of a convolution is largest: found anew for eval, followed on a grid of waves in training."""

import math

import torch
from torch import Tensor

from computed.linalg import scaled_to_one
from computed.singular_values import MIXED_IN, even, generic, leading_vectors, power_steps, unit
from computed.symbol import lattice, on_taps, polyphase, real_form, response, waves, weight_order

# Points of the grid of angles in each dimension: three a tap. A squared norm is a trigonometric polynomial of degree
# k - 1, whose peaks are no narrower than pi / (k - 1), so that a point of the grid lies on the slope of each.
LEAST_POINTS = 8
# How many of the grid's largest are followed towards their peaks, through how many windows, and then the largest of
# them through how many; each is so much narrower than the last, and has so many points a dimension. On 400 random
# kernels of up to 7 x 7 taps, strides to 3 and 4 groups, no peak was missed, and sigma was off by 8e-5 at most (by 4e-4
# with 8 windows that halve: vectors and angle move each other slowly).
FOLLOWED = 4
APPROACH = 4
WINDOWS = 20
NARROWER = 1.3
WINDOW_POINTS = 9
# Up to this side the grid's norms are exact; above they are ranked after so many power steps.
EXACT_SIDE = 64
RANKING_STEPS = 16
# How many numbers may stand in memory as symbols at a time.
CHUNK = 1 << 24


def points_of(taps: list[int], stride: list[int], least: int = LEAST_POINTS) -> list[int]:
    """How many points the grid of angles has in each dimension, for a weight with ``taps`` and ``stride``."""
    points: list[int] = []
    for size, step in zip(taps, stride):  # noqa: B905 - TorchScript knows no strict
        lags = (size + step - 1) // step
        points.append(1 if lags == 1 else max(least, 3 * lags))
    return points


def grid_shape(taps: list[int], width: int, groups: int, stride: list[int]) -> list[int]:
    """Groups, inputs and points of the waves that `follow` takes, for a weight (groups * out, width, *taps)."""
    phases = math.prod(stride)
    return [groups, width * phases, math.prod(points_of(taps, stride))]


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
    lags = [(size + step - 1) // step for size, step in zip(taps, stride)]  # noqa: B905
    return rows, weight_order(on_taps(v, wave).unflatten(2, lags), taps, stride)


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


def shifts(points: list[int], lags: list[int], sign: int, like: Tensor) -> Tensor:
    """Where each point of a periodic grid is after each lag: indices (lags * points)."""
    at = lattice(points, like).unsqueeze(0) + sign * lattice(lags, like).unsqueeze(1)
    index = torch.zeros_like(at[:, :, 0])
    for dim, size in enumerate(points):
        index = index * size + at[:, :, dim].remainder(size)
    return index.flatten().long()


def grid_steps(kernel: Tensor, grid: Tensor, points: list[int], steps: int) -> Tensor:
    """Steps of the power iteration of the periodic operator of a kernel (groups, out, in, *q) on a grid of waves."""
    lags = list(kernel.shape[3:])
    forth, back = shifts(points, lags, 1, kernel), shifts(points, lags, -1, kernel)
    size = len(forth) // grid.shape[2]
    there = kernel.flatten(2)
    again = kernel.flatten(3).transpose(1, 2).flatten(2)
    for _ in range(steps):
        seen = grid.index_select(2, forth).unflatten(2, [size, -1]).flatten(1, 2)
        back_seen = (there @ seen).index_select(2, back).unflatten(2, [size, -1]).flatten(1, 2)
        grid = unit((again @ back_seen).flatten(), grid.flatten()).view_as(grid)
    return grid


def follow(
    weight: Tensor, u: Tensor, v: Tensor, angle: Tensor, grid: Tensor, groups: int, stride: list[int], steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``u``, ``v``, angle and waves (groups, in, points) after some steps of the power iteration from these.

    The larger is taken of two peaks: the one beside ``angle``, and the one beside the angle that most of the waves'
    energy has gone to, which finds others when they grow.
    """
    taps = list(weight.shape[2:])
    kernel, points = polyphase(weight, groups, stride), points_of(taps, stride)
    grid = grid_steps(kernel, grid, points, steps)
    places = lattice(list(kernel.shape[3:]), kernel)
    kernel = kernel.flatten(3)
    width = torch.tensor([math.pi / size for size in points], dtype=weight.dtype, device=weight.device)
    group = u.unflatten(1, [groups, -1]).square().sum((0, 2)).argmax().reshape(1)
    along = polyphase(v.unflatten(1, weight.shape[1:]), 1, stride).flatten(3)[0, :, :, 0].flatten()
    kept = step_at(kernel, group, along, angle, places, width / 8, steps)
    group, along, angle = loudest(grid, points)
    found = step_at(kernel, group, along, angle, places, width, steps)
    best = torch.stack([kept[0], found[0]]).argmax().reshape(1)
    group, u, v, wave, angle = [
        torch.stack([here, there]).index_select(0, best).squeeze(0)
        for here, there in zip(kept[1:], found[1:])  # noqa: B905 - TorchScript knows no strict
    ]
    rows, columns = in_weight(kernel, group, u, v, wave, taps, stride)
    return rows, columns, angle, grid


def loudest(grid: Tensor, points: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The group (1) and the angle (dims) with most energy in a grid of waves, and what is there as a vector (2 in)."""
    angles = half_grid(points, grid)
    spectrum = grid @ waves(angles, lattice(points, grid)).transpose(1, 2).unsqueeze(1)
    largest = spectrum.square().sum((0, 2)).argmax()
    group, which = (largest // angles.shape[0]).reshape(1), (largest % angles.shape[0]).reshape(1)
    there = spectrum.index_select(1, group).index_select(3, which).flatten(1)
    return group, torch.cat([there[0], -there[1]]), angles.index_select(0, which).squeeze(0)


def step_at(
    kernel: Tensor, group: Tensor, v: Tensor, angle: Tensor, places: Tensor, width: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Power steps from ``v`` at ``angle`` and at the peak beside it: norm, group, vectors, wave and angle there."""
    part = kernel.index_select(0, group).squeeze(0)
    symbol = at_angle(part, angle, places)[1]
    u, v = power_steps(symbol, even(symbol[:, 0]), unit(v, even(v)), steps)
    angle = nearby_peak(response(part, u, v), angle, places, width)
    wave, symbol = at_angle(part, angle, places)
    u, v = power_steps(symbol, u, v, steps)
    return torch.dot(u, torch.mv(symbol, v)), group, u, v, wave, angle
