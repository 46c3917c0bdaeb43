"""LessThan: an upper bound on every entry, strict in the dtype of the weight."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from computed.constraint import Preimage
from computed.constraints.elementwise import TINIEST, StrictlyBounded, next_below, saturated
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require
from computed.linalg import in_double
from computed.site import Site


class LessThan(StrictlyBounded):
    """Every entry below ``bound``: ``value = ceiling - softplus(-raw)``.

    Strictly, in the dtype that the weight is stored in: ``ceiling`` is its largest number below the bound. An entry
    that is below already is kept to rounding of the raw, any other starts at ``ceiling``, the nearest one, where
    softplus has no slope (see `Positive`). Weight decay moves an entry towards ``ceiling - log 2``.

    Errors:
        ValueError: ``bound`` is not finite.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([-2.0, 1.0]), LessThan(0.0))
        >>> (w < 0).all().item()
        True
    """

    spec_name: ClassVar[str] = "less_than"

    def __init__(self, bound: float) -> None:
        super().__init__()
        require(math.isfinite(bound), f"less_than needs a finite bound, got {bound!r}")
        self.bound = float(bound)
        self.stored = torch.float32

    def settings(self) -> dict[str, object]:
        """The bound."""
        return {"bound": self.bound}

    def find_limits(self) -> None:
        """Find the largest number below the bound."""
        self.ceiling = next_below(self.bound, self.stored)

    def why_not(self, site: Site) -> str | None:
        """It takes any float tensor, where its dtype has numbers below the bound."""
        if math.isfinite(next_below(self.bound, site.dtype)):
            return None
        return f"{self!r} leaves no number of {site.dtype}; {exempt(site)}"

    def forward(self, raw: Tensor) -> Tensor:
        """``ceiling - log(1 + exp(-raw))``; torch's own threshold of 20 is too low for float64."""
        return self.ceiling - functional.softplus(-raw, threshold=40.0)

    def right_inverse(self, value: Tensor) -> Preimage:
        """``-y - log(1 - exp(-y))`` for ``y = ceiling - value``, without cancellation; at the ceiling outside."""
        below = (self.ceiling - value).clamp(0.0, torch.finfo(value.dtype).max)
        raw = -below - torch.log(-torch.expm1(-below))
        return Preimage((raw.clamp_max(saturated(value.dtype)),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far the highest entry is above the bound; the tiniest number where it is at the bound."""
        exact = in_double(value)
        if bool((exact < self.bound).all()):
            return 0.0
        return max(worst(exact - self.bound), TINIEST)
