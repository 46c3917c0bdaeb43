"""Positive, GreaterThan, Interval: bounds on every entry, strict in the dtype of the weight."""

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from computed.constraint import Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require
from computed.constraints.stored import Stored
from computed.linalg import in_double
from computed.site import Site

TINIEST = torch.finfo(torch.float64).tiny


def next_above(bound: float, dtype: torch.dtype) -> float:
    """The smallest number of ``dtype`` above ``bound``.

    Subnormal numbers, which devices may flush to zero, are left out but for float16, which has few others
    near zero.
    """
    smallest = 2.0**-24 if dtype is torch.float16 else float(torch.finfo(dtype).tiny)
    if -smallest < bound < smallest:
        return smallest if bound >= 0 else 0.0
    number = torch.tensor(bound, dtype=dtype, device="cpu")  # whatever the default device is
    if float(number) <= bound:
        number = torch.nextafter(number, torch.full_like(number, math.inf))
    return float(number)


def next_below(bound: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` below ``bound``; see `next_above`."""
    return -next_above(-bound, dtype)


def saturated(dtype: torch.dtype) -> float:
    """A raw at which ``exp(-raw)`` is about the smallest normal number."""
    return -math.log(torch.finfo(dtype).tiny)


class StrictlyBounded(Described, Stored):
    """Bounds on every entry that hold strictly in the stored dtype, whose outermost numbers it finds."""

    @abc.abstractmethod
    def find_limits(self) -> None:
        """Find the outermost admissible numbers of the dtype."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set as a Module does; limits follow the bounds and the dtype, which is set last."""
        super().__setattr__(name, value)
        if name in ("bound", "low", "high", "stored") and "stored" in vars(self):
            self.find_limits()

    def tolerance(self, dtype: torch.dtype) -> float:
        """None: bounds are strict."""
        return 0.0


class Above(StrictlyBounded):
    """Every entry above ``bound``: ``floor + softplus(raw)`` with the smallest floor above the bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        require(math.isfinite(bound), f"{self.spec_name} needs a finite bound, got {bound!r}")
        self.bound = float(bound)
        self.stored = torch.float32

    def find_limits(self) -> None:
        """Find the smallest number above the bound."""
        self.floor = next_above(self.bound, self.stored)

    def why_not(self, site: Site) -> str | None:
        """It takes any float tensor, where its dtype has numbers above the bound."""
        if math.isfinite(next_above(self.bound, site.dtype)):
            return None
        return f"{self!r} leaves no number of {site.dtype}; {exempt(site)}"

    def forward(self, raw: Tensor) -> Tensor:
        """``floor + log(1 + exp(raw))``; torch's own threshold of 20 is too low for float64."""
        return self.floor + functional.softplus(raw, threshold=40.0)

    def right_inverse(self, value: Tensor) -> Preimage:
        """``y + log(1 - exp(-y))`` for ``y = value - floor``, without cancellation; at the floor outside."""
        above = (value - self.floor).clamp(0.0, torch.finfo(value.dtype).max)
        raw = above + torch.log(-torch.expm1(-above))
        return Preimage((raw.clamp_min(-saturated(value.dtype)),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far the lowest entry is below the bound; the tiniest number where it is at the bound."""
        exact = in_double(value)  # a bound such as 0.1 lies beside the nearest number of a shorter dtype
        if bool((exact > self.bound).all()):
            return 0.0
        return max(worst(self.bound - exact), TINIEST)


class Positive(Above):
    """Every entry above zero: ``value = tiny + softplus(raw)``.

    Strictly, in the dtype that the weight is stored in: ``tiny`` is its smallest normal number (float16: its
    smallest number). An entry that is positive already is kept to rounding of the raw, ``|log value|`` ulp
    where it is small; any other starts at ``2 tiny``, next to the nearest one. There softplus has no slope, so such an
    entry does not train: where a weight of both signs shall become a trained positive one, write positive
    values to it first. Weight decay moves entries towards ``log 2``.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([2.0, -1.0]), Positive())
        >>> (w > 0).all().item()
        True
    """

    spec_name: ClassVar[str] = "positive"

    def __init__(self) -> None:
        super().__init__(0.0)


class GreaterThan(Above):
    """Every entry above ``bound``: ``value = floor + softplus(raw)``.

    Strictly, in the dtype that the weight is stored in: ``floor`` is its smallest number above the bound. An
    entry that is above already is kept to rounding of the raw, any other starts at ``floor``, the nearest
    one, where softplus has no slope (see `Positive`). Weight decay moves entries towards ``bound + log 2``.

    Errors:
        ValueError: ``bound`` is not finite.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([2.0, -1.0]), GreaterThan(1.0))
        >>> (w > 1).all().item()
        True
    """

    spec_name: ClassVar[str] = "greater_than"

    def __init__(self, bound: float) -> None:
        super().__init__(bound)

    def settings(self) -> dict[str, object]:
        """The bound."""
        return {"bound": self.bound}


class Interval(StrictlyBounded):
    """Every entry between ``low`` and ``high``: ``value = lowest + (highest - lowest) sigmoid(raw)``.

    Strictly, in the dtype that the weight is stored in: ``lowest`` and ``highest`` are its outermost numbers
    between the bounds. It is computed from the nearer end, so both are reached exactly. An entry that is
    inside already is kept to rounding of the raw, any other starts at the end that is nearest, where the
    sigmoid has no slope (see `Positive`). Weight decay moves entries towards the middle.

    Errors:
        ValueError: not ``low < high``, both finite. A dtype without a number between them is refused.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([0.5, -7.0]), Interval(-1.0, 1.0))
        >>> (w.abs() < 1).all().item()
        True
    """

    spec_name: ClassVar[str] = "interval"

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        require(
            -math.inf < low < high < math.inf,
            f"interval needs finite low < high, got low={low!r} and high={high!r}",
        )
        self.low = float(low)
        self.high = float(high)
        self.stored = torch.float32

    def settings(self) -> dict[str, object]:
        """Both bounds."""
        return {"low": self.low, "high": self.high}

    def find_limits(self) -> None:
        """Find the outermost numbers between the bounds."""
        self.lowest = next_above(self.low, self.stored)
        self.highest = next_below(self.high, self.stored)

    def why_not(self, site: Site) -> str | None:
        """It takes any float tensor, where its dtype has numbers between the bounds."""
        lowest, highest = next_above(self.low, site.dtype), next_below(self.high, site.dtype)
        if lowest <= highest and math.isfinite(highest - lowest):
            return None
        return f"{self!r} leaves no range of numbers of {site.dtype}; {exempt(site)}"

    def forward(self, raw: Tensor) -> Tensor:
        """From the end that is nearer."""
        width = self.highest - self.lowest
        from_below = self.lowest + width * torch.sigmoid(raw)
        from_above = self.highest - width * torch.sigmoid(-raw)
        return torch.where(raw < 0, from_below, from_above)

    def right_inverse(self, value: Tensor) -> Preimage:
        """``log(value - lowest) - log(highest - value)``, after clamping."""
        if self.lowest == self.highest:
            return Preimage((torch.zeros_like(value),))
        inside = value.clamp(self.lowest, self.highest)
        limit = saturated(value.dtype)
        raw = torch.log(inside - self.lowest) - torch.log(self.highest - inside)
        return Preimage((raw.clamp(-limit, limit),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far the worst entry is outside; the tiniest number where it is at a bound."""
        exact = in_double(value)
        if bool(((exact > self.low) & (exact < self.high)).all()):
            return 0.0
        return max(worst(torch.maximum(self.low - exact, exact - self.high)), TINIEST)
