"""Small weights whose rows are scaled to lengths of their own, many at once, with the derivative.

For the cotangent ``G`` of a row and ``a = <G, v>`` the gradient of ``g`` is ``a / |v|`` and that of ``v`` is
``(g / |v|) (G - a v / |v|²)``, as in `SliceScaling`, whose values these are, bit for bit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from computed.constraints.by_shape import apart, in_places, places_by_shape, stacked, with_zeros
from computed.torch_private import foreach_mul


class ScaledRows(NamedTuple):
    """Matrices (k, m, n), the lengths (k, m) that their rows get, those that they have, and shapes of both raws."""

    v: Tensor
    g: Tensor
    divisors: Tensor
    shapes: tuple[torch.Size, torch.Size]

    def gradients(self, cotangents: Sequence[Tensor | None]) -> list[tuple[Tensor | None, Tensor | None]]:
        """Those of both raws of each; None for a weight that was not used."""
        given = with_zeros(cotangents)
        if not given:
            return [(None, None)] * len(cotangents)
        cotangent = stacked(given, 0)
        along = (cotangent * self.v).sum(2)
        ratio = self.g / self.divisors
        turned = -along * ratio / self.divisors.square()
        of_v = torch.addcmul(cotangent * ratio.unsqueeze(2), self.v, turned.unsqueeze(2))
        of_g = (along / self.divisors).view(-1, *self.shapes[1]).unbind()
        pairs = zip(cotangents, apart(of_v, given[0], 0), of_g, strict=True)
        return [(None, None) if one is None else (first, second) for one, first, second in pairs]


class RowGroups(NamedTuple):
    """Matrices of several shapes: which of all weights belong to each group."""

    places: Sequence[Sequence[int]]
    groups: Sequence[ScaledRows]

    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Those of the groups, in the order of all raws."""
        parts = [
            group.gradients([cotangents[i] for i in places])
            for places, group in zip(self.places, self.groups, strict=True)
        ]
        return [gradient for pair in in_places(self.places, parts) for gradient in pair]


def scaled_rows(given: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], RowGroups]:
    """The values for pairs of ``v`` and ``g``, and what their gradients need."""
    places = places_by_shape([v for v, _ in given])
    values, groups = zip(*[_of_one_shape([given[i] for i in where]) for where in places], strict=True)
    return in_places(places, values), RowGroups(places, groups)


def _of_one_shape(given: Sequence[Sequence[Tensor]]) -> tuple[Sequence[Tensor], ScaledRows]:
    v = stacked([each[0] for each in given], 0)
    rows = given[0][1].shape
    g = torch.stack([each[1] for each in given])
    lengths = torch.linalg.vector_norm(v, dim=2)
    divisors = torch.where(lengths > 0, lengths, 1.0)
    ratios = g / divisors.view(g.shape)
    values = foreach_mul([each[0] for each in given], ratios.unbind())
    return values, ScaledRows(v, g.view(divisors.shape), divisors, (given[0][0].shape, rows))
