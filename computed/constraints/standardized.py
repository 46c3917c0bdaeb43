"""Centred, Standardized, ScaledStandardized: slices of mean zero, of variance one, or with a trained length."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.measuring import worst
from computed.constraints.norms import Sliced
from computed.constraints.refusing import exempt
from computed.constraints.slice_scaling import largest_entries, lengths, one_each, scaled_to, slice_dims
from computed.constraints.stored import Stored
from computed.linalg import in_double
from computed.numbers import eps_of
from computed.site import Site


def centred(tensor: Tensor, axis: int | None) -> Tensor:
    """``tensor`` minus the mean of each slice."""
    dims = slice_dims(tensor.dim(), axis)
    return tensor - tensor.mean(dims, True) if len(dims) > 0 else tensor * 0.0


def alternating(like: Tensor, axis: int | None) -> Tensor:
    """A slice of mean zero for each of ``like``: ones and minus ones in turn, centred."""
    dims = slice_dims(like.dim(), axis)
    count = 1
    for dim in dims:
        count *= like.shape[dim]
    turns = 1.0 - 2.0 * (torch.arange(count, device=like.device) % 2).to(like.dtype)
    turns = turns - turns.mean()
    if axis is None:
        return turns.reshape(like.shape)
    rest = [like.shape[dim] for dim in dims]
    return turns.reshape(rest).unsqueeze(axis).expand(like.shape)


def standardized(raw: Tensor, axis: int | None, length: Tensor) -> Tensor:
    """The deviations of each slice from its mean, scaled to ``length``; alternating ones where there are none."""
    # a constant as the result does not depend on it, and it keeps squares finite
    largest = largest_entries(raw.detach(), axis)
    moderate = raw / torch.where(largest > 0, largest, torch.ones_like(largest))
    deviations = centred(centred(moderate, axis), axis)  # the first mean is rounded as its numbers are
    is_flat = largest_entries(deviations.detach(), axis) <= 4 * eps_of(raw)
    filled = torch.where(is_flat, deviations * 0.0 + alternating(raw, axis), deviations)
    return scaled_to(filled, length, axis)


class Slices(Sliced):
    """A constraint on slices of two or more entries."""

    def why_not(self, site: Site) -> str | None:
        """It takes what has slices of two or more numbers."""
        shape = site.shape
        reason = super().why_not(site)
        if shape is None or reason is not None:
            return reason
        size = shape.numel() if self.dim is None else shape.numel() // max(1, shape[self.dim])
        if size >= 2 and shape.numel() > 0:
            return None
        return f"{self.spec_name} needs slices of 2 or more numbers, got shape {tuple(shape)}; {exempt(site)}"

    def entries(self, shape: torch.Size) -> int:
        """How many entries a slice has."""
        return shape.numel() if self.dim is None else shape.numel() // shape[self.dim]


class Centred(Slices, Stored):
    """Every slice along ``dim`` has mean zero: ``value_i = x_i - mean(x_i)``, the nearest point.

    For a weight (out, in) and ``dim=0`` slices are rows, for (out, in, k, k) filters; the whole tensor where ``dim`` is
    None. Computed in at least float32. Weight decay moves entries towards zero.

    Errors:
        ValueError: ``dim`` is no whole number. Slices of fewer than two entries are refused.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, 5.0], [0.0, 2.0]]), Centred()).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """

    spec_name: ClassVar[str] = "centred"

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__(dim)
        self.stored = torch.float32

    def forward(self, raw: Tensor) -> Tensor:
        """Take the means away."""
        return centred(raw, self.dim)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The deviations."""
        return Preimage((self.fitting(centred(in_double(value), self.dim)).to(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest mean, relative to the largest entry of its slice."""
        return off_centre(value, self.dim)


class Standardized(Slices):
    """Weight standardization: every slice along ``dim`` has mean zero and variance one.

    ``value_i = (x_i - mean(x_i)) / std(x_i)``, with the variance of all ``n`` entries, as in the reference: the
    nearest such point. A slice without deviations gets ones and minus ones in turn, standardized. To keep a
    pretrained weight whose slices have another length, take ``scaled_weight_standardization``. Weight decay changes
    raws and no value.

    Errors:
        ValueError: ``dim`` is no whole number. Slices of fewer than two entries are refused.

    Reference: Qiao et al., "Micro-batch training with batch-channel normalization and weight standardization", 2019
    (arXiv:1903.10520), equation 3.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, 5.0], [0.0, 2.0]]), Standardized()).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """

    spec_name: ClassVar[str] = "weight_standardization"

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__(dim)

    def forward(self, raw: Tensor) -> Tensor:
        """Centre and scale."""
        count = raw.numel() if self.dim is None else raw.numel() // raw.shape[self.dim]
        length = torch.full_like(largest_entries(raw.detach(), self.dim), float(count) ** 0.5)
        return standardized(raw, self.dim, length)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself."""
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest mean, and the largest difference of a deviation from one."""
        exact = in_double(value)
        spread = lengths(exact, self.dim) / self.entries(value.shape) ** 0.5
        return max(off_centre(value, self.dim), worst((spread - 1).abs()))


class ScaledStandardized(Slices, Stored):
    """Scaled weight standardization: every slice along ``dim`` has mean zero, and a length that is trained apart.

    ``value_i = g_i (v_i - mean(v_i)) / (std(v_i) sqrt(n))`` for ``n`` entries a slice, with one gain ``g`` a slice: as
    `WeightScale` is to `UnitScale`. At insertion ``g`` is the length of the weight's deviations, so that a weight with
    slices of mean zero is kept to rounding; of another its means are taken away, which gives the nearest point. Weight
    decay shortens ``g``.

    Errors:
        ValueError: ``dim`` is no whole number. Slices of fewer than two entries are refused.

    Reference: Brock et al., "High-performance large-scale image recognition without normalization", 2021
    (arXiv:2102.06171), equation 1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[-3.0, 3.0], [0.0, 2.0]]), ScaledStandardized())
        >>> [[round(entry, 5) for entry in row] for row in w.tolist()]
        [[-3.0, 3.0], [-1.0, 1.0]]
    """

    spec_name: ClassVar[str] = "scaled_weight_standardization"
    roles: ClassVar[tuple[Role, ...]] = (Role("v"), Role("g"))

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__(dim)
        self.stored = torch.float32

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number a slice."""
        return shape, one_each(shape, self.dim)

    def forward(self, v: Tensor, g: Tensor) -> Tensor:
        """Centre, and scale to the gain."""
        return standardized(v, self.dim, g)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The deviations, and their lengths."""
        exact = in_double(value)
        length = lengths(centred(exact, self.dim), self.dim)
        # the mean of equal numbers is rounded, and what is left of them is none of theirs
        is_flat = length <= 16 * torch.finfo(torch.float64).eps * lengths(exact, self.dim)
        gain = torch.where(is_flat, torch.zeros_like(length), length).to(value)
        deviations = self.fitting(centred(exact, self.dim))
        return Preimage((deviations.to(value), gain.clamp_max(torch.finfo(self.stored).max)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest mean, relative to the largest entry of its slice."""
        return off_centre(value, self.dim)


def off_centre(value: Tensor, axis: int | None) -> float:
    """The largest mean of a slice, relative to the largest entry of that."""
    exact = in_double(value)
    largest = largest_entries(exact, axis).clamp_min(float(torch.finfo(value.dtype).tiny))
    means = exact.mean(slice_dims(exact.dim(), axis), True).abs()
    return worst(means / largest)
