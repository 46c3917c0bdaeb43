"""Ordered: entries rise along a dimension, for thresholds, quantiles and bin edges."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, whole_number, why_not_dim
from computed.constraints.stored import Stored
from computed.linalg import in_double
from computed.nearest import nearest_rising
from computed.site import Site


class Ordered(Described, Stored):
    """Entries along ``dim`` never fall: ``value_0 = raw_0``, ``value_i = value_(i-1) + |raw_i|``.

    What rises already is kept to rounding of the sums; the projection is the nearest point, by isotonic regression.
    Equal neighbours go on training apart, since the slope of ``|raw|`` at zero is taken as 1. Weight decay moves
    neighbours together and the first entry towards zero.

    Errors:
        ValueError: ``dim`` is no whole number. A weight without that dimension is refused.

    Reference: Barlow, Bartholomew, Bremner and Brunk, "Statistical inference under order restrictions", 1972, for the
    projection by pooling adjacent violators.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([1.0, 4.0, 2.0, 5.0]), Ordered()).tolist()
        [1.0, 3.0, 3.0, 5.0]
    """

    spec_name: ClassVar[str] = "ordered"

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = whole_number("ordered: dim", dim)
        self.stored = torch.float32

    def settings(self) -> dict[str, object]:
        """The dimension, where it is not the last."""
        return {} if self.dim == -1 else {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what has the dimension."""
        if site.shape is not None and len(site.shape) == 0:
            return f"ordered needs 1 or more dimensions, got shape (); {exempt(site)}"
        return why_not_dim("ordered", site, self.dim)

    def forward(self, raw: Tensor) -> Tensor:
        """Sums of the first entry and of sizes."""
        rest = raw.shape[self.dim] - 1
        if rest < 1:
            return raw * 1
        steps = raw.narrow(self.dim, 1, rest)
        first = raw.narrow(self.dim, 0, 1)
        return torch.cat([first, torch.where(steps < 0, -steps, steps)], self.dim).cumsum(self.dim)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The first entry and the differences."""
        if value.shape[self.dim] == 0:
            return Preimage((value,))
        risen = nearest_rising(in_double(value), self.dim)
        first = risen.narrow(self.dim, 0, 1)
        raw = torch.cat([first, risen.diff(dim=self.dim)], self.dim)
        return Preimage((self.fitting(raw).to(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest fall between neighbours, relative to the largest entry."""
        exact = in_double(value)
        if bool(exact.isnan().any()):
            return math.inf
        falls = worst(-exact.diff(dim=self.dim))
        largest = worst(exact.abs())
        return 0.0 if falls <= 0 else falls / largest
