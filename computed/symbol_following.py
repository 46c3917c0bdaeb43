"""The peak of a convolution's symbol in training: followed where it is, and on a grid of waves where others grow.

Only tensors and whole numbers come in, so that it is compiled, exported and scripted as part of a forward.
"""

import math

import torch
from torch import Tensor

from computed.singular_values import even, power_steps, unit
from computed.symbol import at_angle, half_grid, in_weight, lattice, nearby_peak, points_of, polyphase, response, waves


def grid_shape(taps: list[int], width: int, groups: int, stride: list[int]) -> list[int]:
    """Groups, inputs and points of the waves that `follow` takes, for a weight (groups * out, width, *taps)."""
    phases = math.prod(stride)
    return [groups, width * phases, math.prod(points_of(taps, stride))]


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
    weight: Tensor,
    u: Tensor,
    v: Tensor,
    angle: Tensor,
    grid: Tensor,
    groups: int,
    stride: list[int],
    steps: int,
    clearly: float = 1e-4,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``u``, ``v``, angle and waves (groups, in, points) after some steps of the power iteration from these.

    It is the peak beside ``angle``, or, where that is ``clearly`` larger, the one beside the angle that most of the
    waves' energy has gone to, which finds others when they grow.
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
    # where both are one peak, rounding must not decide whose vectors count
    best = (found[0] > kept[0] * (1 + clearly)).long().reshape(1)
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
