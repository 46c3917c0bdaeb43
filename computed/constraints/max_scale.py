"""MaxScale and ScaleRange: the length of every slice is at most, or between two numbers."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.measuring import worst
from computed.constraints.norms import Sliced
from computed.constraints.refusing import exempt, require
from computed.constraints.slice_scaling import lengths, slice_dims
from computed.linalg import in_double
from computed.site import Site


class MaxScale(Sliced):
    """Every slice along ``dim`` is no longer than ``bound``: ``value_i = x_i min(1, bound / |x_i|)``.

    For a weight (out, in) and ``dim=0`` slices are rows, for (out, in, k, k) filters; the whole tensor is one where
    ``dim`` is None. A slice that is inside is kept bit for bit, another is shortened to the nearest point. Computed in
    at least float32. Weight decay shortens slices; a slice far outside moves inside only when its raw does.

    Errors:
        ValueError: ``bound`` is not positive and finite, ``dim`` no whole number. A dimension that the weight does not
            have is refused.

    Reference: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014, section
    5.1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), MaxScale(2.5)).tolist()
        [[1.5, 2.0], [0.0, 2.0]]
    """

    spec_name: ClassVar[str] = "max_norm"

    def __init__(self, bound: float, *, dim: int | None = 0) -> None:
        super().__init__(dim)
        require(0 < bound < math.inf, f"max_norm needs a positive finite bound, got {bound!r}")
        self.bound = float(bound)

    def settings(self) -> dict[str, object]:
        """The bound, and the dimension where it is not the first."""
        given: dict[str, object] = {"bound": self.bound}
        return given | ({} if self.dim == 0 else {"dim": self.dim})

    def forward(self, raw: Tensor) -> Tensor:
        """Shorten what is too long."""
        length = lengths(raw, self.dim)
        is_long = length > self.bound
        factor = torch.where(is_long, self.bound / torch.where(is_long, length, 1.0), 1.0)
        return raw * factor

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself, or the nearest point where a slice is outside."""
        exact = in_double(value)
        length = lengths(exact, self.dim)
        shortened = exact * (self.bound / torch.where(length > 0, length, 1.0))
        return Preimage((torch.where(length > self.bound, shortened, exact).to(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """By how much the longest slice is longer than the bound, relatively."""
        return max(0.0, worst(lengths(in_double(value), self.dim) / self.bound - 1))


class ScaleRange(Sliced):
    """The length of every slice along ``dim`` is between ``low`` and ``high``: ``value_i = x_i clip(|x_i|) / |x_i|``.

    A slice that is inside is kept bit for bit, another is scaled to the nearest point; one that is zero gets the
    slice of equal entries and length ``low``. ``dim`` is as in `MaxScale`. Weight decay shortens slices to ``low``,
    and then only their raws.

    Errors:
        ValueError: not ``0 <= low <= high``, finite, with ``high`` above zero. As for `MaxScale`.

    Reference: the constraint ``MinMaxNorm`` of Keras.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), ScaleRange(2.0, 10.0)).tolist()
        [[3.0, 4.0], [0.0, 2.0]]
    """

    spec_name: ClassVar[str] = "min_max_norm"

    def __init__(self, low: float, high: float, *, dim: int | None = 0) -> None:
        super().__init__(dim)
        right = 0 <= low <= high < math.inf and high > 0
        require(right, f"min_max_norm needs finite 0 <= low <= high, got low={low!r} and high={high!r}")
        self.low = float(low)
        self.high = float(high)

    def settings(self) -> dict[str, object]:
        """Both bounds, and the dimension where it is not the first."""
        given: dict[str, object] = {"low": self.low, "high": self.high}
        return given | ({} if self.dim == 0 else {"dim": self.dim})

    def why_not(self, site: Site) -> str | None:
        """It takes what has slices with entries."""
        if site.shape is not None and site.shape.numel() == 0:
            return f"min_max_norm needs a weight with entries, got shape {tuple(site.shape)}; {exempt(site)}"
        return super().why_not(site)

    def forward(self, raw: Tensor) -> Tensor:
        """Scale what is too short or too long; a slice of zeros gets equal entries."""
        dims = slice_dims(raw.dim(), self.dim)
        is_zero = (raw == 0).all() if self.dim is None else raw == 0
        for each in dims:
            is_zero = is_zero.all(each, True)
        filled = raw + is_zero.to(raw.dtype)
        length = lengths(filled, self.dim)
        target = torch.where(is_zero, torch.full_like(length, self.low), length.detach().clamp(self.low, self.high))
        is_inside = (target == length) & ~is_zero
        factor = torch.where(is_inside, 1.0, target / torch.where(is_inside, 1.0, length))
        return filled * factor

    def right_inverse(self, value: Tensor) -> Preimage:
        """The nearest point."""
        exact = in_double(value)
        length = lengths(exact, self.dim)
        target = length.clamp(self.low, self.high)
        scaled = exact * (target / torch.where(length > 0, length, 1.0))
        filled = torch.where(length == 0, torch.ones_like(exact), scaled)
        filled = torch.where(length == 0, filled * (self.low / lengths(filled, self.dim)), filled)
        return Preimage((torch.where(target == length, exact, filled).to(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """By how much a length is outside, relative to ``high``."""
        length = lengths(in_double(value), self.dim)
        return max(0.0, worst(torch.maximum(length - self.high, self.low - length)) / self.high)
