"""Bounded: no entry is larger than a limit, up or down; the limit itself is in the set."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.elementwise import StrictlyBounded
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require
from computed.linalg import in_double
from computed.site import Site

MAPS = ("tanh", "sin", "clamp")
# where tanh is 1 in float64
REACHED = 20.0


def largest_up_to(bound: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above ``bound``, which is positive."""
    number = torch.tensor(bound, dtype=dtype, device="cpu")
    if float(number) > bound:
        number = torch.nextafter(number, torch.zeros_like(number))
    return float(number)


class Bounded(StrictlyBounded):
    """Every entry between ``-limit`` and ``limit``: ``value = limit tanh(raw / limit)``.

    Near zero the value is the raw. With ``map="sin"`` it is ``limit sin(raw / limit)``, with "clamp" the raw, cut
    off. In the dtype that the weight is stored in, ``limit`` is its largest number that is not above. An entry that
    is inside is kept to rounding of the raw, bit for bit with "clamp"; any other starts at the nearest end, where no
    map has a slope. Weight decay moves entries towards zero.

    Errors:
        ValueError: ``limit`` is not positive and finite, or ``map`` another one. A dtype without a number between zero
            and the limit is refused.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([0.0, -7.0]), Bounded(2.0)).tolist()
        [0.0, -2.0]
    """

    spec_name: ClassVar[str] = "bounded"

    def __init__(self, limit: float, *, map: str = "tanh") -> None:
        super().__init__()
        require(0 < limit < math.inf, f"bounded needs a positive finite limit, got {limit!r}")
        require(map in MAPS, f"bounded needs map 'tanh', 'sin' or 'clamp', got {map!r}")
        self.map = map
        self.bound = float(limit)
        self.stored = torch.float32

    def settings(self) -> dict[str, object]:
        """The limit, and the map where it is another one."""
        given: dict[str, object] = {"limit": self.bound}
        return given | ({} if self.map == "tanh" else {"map": self.map})

    def find_limits(self) -> None:
        """Find the largest number that is not above the limit."""
        self.top = largest_up_to(self.bound, self.stored)

    def why_not(self, site: Site) -> str | None:
        """It takes any float tensor, where its dtype has numbers between zero and the limit."""
        top = largest_up_to(self.bound, site.dtype)
        if float(torch.finfo(site.dtype).tiny) <= top < math.inf:
            return None
        return f"{self!r} leaves no range of numbers of {site.dtype}; {exempt(site)}"

    def forward(self, raw: Tensor) -> Tensor:
        """The map."""
        if self.map == "clamp":
            return raw.clamp(-self.top, self.top)
        ratio = raw / self.top
        return self.top * (torch.sin(ratio) if self.map == "sin" else torch.tanh(ratio))

    def right_inverse(self, value: Tensor) -> Preimage:
        """The inverse of the map, after clamping."""
        inside = value.clamp(-self.top, self.top)
        if self.map == "clamp":
            return Preimage((inside,))
        ratio = inside / self.top
        if self.map == "sin":
            return Preimage((self.top * torch.asin(ratio),))
        reached = torch.full_like(ratio, REACHED).copysign(ratio)
        return Preimage((self.top * torch.where(ratio.abs() < 1, torch.atanh(ratio), reached),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far the worst entry is outside."""
        return max(0.0, worst(in_double(value).abs() - self.bound))
