"""Weights scaled by functions of their largest singular values, with the derivative: one, or many small ones at once.

With ``s`` the scale and ``s'`` its derivative by sigma, the gradient of ``W`` is ``s G + s' <G, W> u vᵀ``, as in
`SigmaScaling`, whose values these are, bit for bit.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from computed.constraints.by_shape import apart, in_places, stacked, with_zeros
from computed.memory_order import add_outer_, in_memory
from computed.scaled import Number, times
from computed.torch_private import foreach_mul


class ScaledOne(NamedTuple):
    """A scaled weight, its scale with the derivative, and the vectors along which sigma was taken.

    It knows nothing of the raw: an optimizer would copy what a graph shares with it.
    """

    value: Tensor
    rows: int
    scale: Number
    slope: Number
    u: Tensor
    v: Tensor

    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradient, in the memory layout of the weight; ``s' <G, W> = s' / s <G, value>``."""
        (given,) = cotangents
        if given is None:
            return [None]
        if given.stride() != self.value.stride():
            given = torch.empty_like(self.value).copy_(given)
        along = torch.dot(in_memory(given), in_memory(self.value))
        gradient = given * self.scale
        # a weight that is not finite has no scale, and no gradient either
        relative = self.slope / self.scale if isinstance(self.scale, Tensor) or self.scale else math.nan
        add_outer_(gradient, self.rows, self.u, self.v, times(along, relative))
        return [gradient]


class ScaledMany(NamedTuple):
    """Matrices (k, m, n), their scales (k) with derivatives (k), and vectors (k, m), (k, n)."""

    matrices: Tensor
    rows: int
    scales: Sequence[Number]
    slopes: Sequence[Number]
    u: Tensor
    v: Tensor

    def values(self, raws: Sequence[Tensor]) -> Sequence[Tensor]:
        """The weights times their scales, each in memory of its own."""
        return foreach_mul(raws, self.scales)

    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients; of a weight that was not used None, as if that of its value were zero."""
        given = with_zeros(cotangents)
        if not given:
            return cotangents
        g = stacked(given, self.rows)
        slopes, scales = as_tensor(self.slopes, g), as_tensor(self.scales, g)
        lefts = (self.u * (slopes * (g * self.matrices).sum(2).sum(1)).unsqueeze(1)).unsqueeze(2)
        whole = torch.addcmul(g * scales.view(-1, 1, 1), lefts, self.v.unsqueeze(1))
        parts = apart(whole, given[0], self.rows)
        return [None if one is None else part for one, part in zip(cotangents, parts, strict=True)]


class ScaledGroups(NamedTuple):
    """Matrices of several shapes: which of all weights belong to each group."""

    places: Sequence[Sequence[int]]
    groups: Sequence[ScaledMany]

    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Those of the groups, in the order of all."""
        return in_places(
            self.places,
            [
                group.gradients([cotangents[i] for i in places])
                for places, group in zip(self.places, self.groups, strict=True)
            ],
        )


def as_tensor(numbers: Sequence[Number], like: Tensor) -> Tensor:
    """Numbers as a tensor (k)."""
    if isinstance(numbers[0], Tensor):
        return torch.stack([number for number in numbers if isinstance(number, Tensor)])
    return torch.tensor(numbers, dtype=like.dtype)
