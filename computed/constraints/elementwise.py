"""Positive, GreaterThan, Interval: bounds on every entry, strict in the dtype that the weight is stored in."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.settings import Described, exempt, require
from computed.site import Site


def next_above(bound: float, dtype: torch.dtype) -> float:
    """The smallest number of ``dtype`` above ``bound`` that is not subnormal (float16, which has few: is)."""
    smallest = 2.0**-24 if dtype is torch.float16 else float(torch.finfo(dtype).tiny)
    if 0 <= bound < smallest:
        return smallest
    number = torch.tensor(bound, dtype=dtype)
    while float(number) <= bound:
        number = torch.nextafter(number, torch.full_like(number, math.inf))
    return float(number)


class StoredInDtype(Constraint):
    """Knows the dtype in which the value is stored, and keeps up with casts of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = torch.float32

    def bind(self, site: Site) -> None:
        self.store_in(site.dtype)

    def store_in(self, dtype: torch.dtype) -> None:
        self.stored = dtype

    def _apply(self, fn: Any, recurse: bool = True) -> "StoredInDtype":  # noqa: FBT001, FBT002 - torch's signature
        super()._apply(fn, recurse)
        self.store_in(fn(torch.empty(0, dtype=self.stored)).dtype)
        return self


class GreaterThan(Described, StoredInDtype):
    """Every entry above ``bound``."""

    spec_name: ClassVar[str] = "greater_than"

    def __init__(self, bound: float) -> None:
        super().__init__()
        require(math.isfinite(bound), f"{self.spec_name} needs a finite bound, got {bound!r}")
        self.bound = float(bound)
        self.store_in(self.stored)

    def settings(self) -> dict[str, object]:
        return {"bound": self.bound}

    def store_in(self, dtype: torch.dtype) -> None:
        super().store_in(dtype)
        self.floor = next_above(self.bound, dtype)

    def forward(self, raw: Tensor) -> Tensor:
        return self.floor + F.softplus(raw)

    def right_inverse(self, value: Tensor) -> Preimage:
        above = value - self.floor
        lowest = -700.0 if value.dtype is torch.float64 else -87.0
        raw = above + torch.log(-torch.expm1(-above.clamp_min(0)))
        return Preimage((raw.clamp(lowest, torch.finfo(value.dtype).max),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        if value.numel() == 0 or bool((value > self.bound).all()):
            return 0.0
        return max(self.bound - float(value.double().amin()), torch.finfo(torch.float64).tiny)

    def tolerance(self, dtype: torch.dtype) -> float:
        return 0.0


class Positive(GreaterThan):
    """Every entry above zero."""

    spec_name: ClassVar[str] = "positive"

    def __init__(self) -> None:
        super().__init__(0.0)

    def settings(self) -> dict[str, object]:
        return {}


class Interval(Described, StoredInDtype):
    """Every entry between ``low`` and ``high``."""

    spec_name: ClassVar[str] = "interval"

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        require(-math.inf < low < high < math.inf, f"interval needs finite low < high, got low={low!r}, high={high!r}")
        self.low = float(low)
        self.high = float(high)
        self.store_in(self.stored)

    def settings(self) -> dict[str, object]:
        return {"low": self.low, "high": self.high}

    def store_in(self, dtype: torch.dtype) -> None:
        super().store_in(dtype)
        self.lowest = next_above(self.low, dtype)
        self.highest = -next_above(-self.high, dtype)

    def why_not(self, site: Site) -> str | None:
        if next_above(self.low, site.dtype) <= -next_above(-self.high, site.dtype):
            return None
        return f"interval({self.low}, {self.high}) holds no number of {site.dtype}; {exempt(site)}"

    def forward(self, raw: Tensor) -> Tensor:
        width = self.highest - self.lowest
        return torch.where(
            raw < 0, self.lowest + width * torch.sigmoid(raw), self.highest - width * torch.sigmoid(-raw)
        )

    def right_inverse(self, value: Tensor) -> Preimage:
        inside = value.clamp(self.lowest, self.highest)
        limit = 700.0 if value.dtype is torch.float64 else 87.0
        raw = torch.log(inside - self.lowest) - torch.log(self.highest - inside)
        return Preimage((raw.clamp(-limit, limit),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        if value.numel() == 0 or bool(((value > self.low) & (value < self.high)).all()):
            return 0.0
        exact = value.double()
        outside = max(self.low - float(exact.amin()), float(exact.amax()) - self.high)
        return max(outside, torch.finfo(torch.float64).tiny)

    def tolerance(self, dtype: torch.dtype) -> float:
        return 0.0
