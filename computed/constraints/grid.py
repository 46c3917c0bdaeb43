"""Grid: what weights share whose entries are integers times a scale."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from computed.constraints.describing import Described
from computed.constraints.integers import Integers, OnGrid
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require, whole_number, why_not_dim
from computed.constraints.slice_scaling import largest_entries, one_each
from computed.constraints.stored import Stored
from computed.linalg import in_double
from computed.numbers import tiny_of
from computed.site import Site


class Grid(Described, Stored, OnGrid, abc.ABC):
    """``value = scale clip(round(raw / scale), lowest, levels)`` with one scale for each slice, or group.

    ``dim`` says of which slices: 0 for those of a weight (out, in) or (out, in, k) by outputs, None for the whole
    tensor. With ``group`` there is a scale for every so many neighbours along the last dimension instead.
    """

    dim: int | None
    group: int | None
    narrow: bool = True

    def __init__(self, bits: int, dim: int | None, group: int | None) -> None:
        super().__init__()
        name = self.spec_name
        self.stored = torch.float32
        self.bits = whole_number(f"{name}: bits", bits)
        require(2 <= self.bits <= 16, f"{name} needs bits from 2 to 16, got {bits!r}")
        self.dim = None if dim is None else whole_number(f"{name}: dim", dim)
        self.group = None if group is None else whole_number(f"{name}: group", group)
        require(self.group is None or self.group >= 1, f"{name} needs a group of 1 or more, got {group!r}")

    def settings(self) -> dict[str, object]:
        """The bits, and what is not at its default."""
        given: dict[str, object] = {"bits": self.bits}
        if self.dim != 0:
            given["dim"] = self.dim
        return given if self.group is None else given | {"group": self.group}

    def why_not(self, site: Site) -> str | None:
        """It takes what has the slices, or groups."""
        shape = site.shape
        if shape is None:
            return None
        if shape.numel() == 0 or (len(shape) == 0 and (self.group is not None or self.dim is not None)):
            return f"{self.spec_name} needs a weight with slices, got shape {tuple(shape)}; {exempt(site)}"
        if self.group is not None:
            if shape[-1] % self.group == 0:
                return None
            return f"groups of {self.group} do not divide the last dimension of {tuple(shape)}; {exempt(site)}"
        return why_not_dim(self.spec_name, site, self.dim)

    def bind(self, site: Site) -> None:
        """Count the dimension from the front."""
        super().bind(site)
        if self.dim is not None and site.shape is not None and len(site.shape) > 0:
            self.dim = self.dim % len(site.shape)

    def levels(self) -> int:
        """The largest integer of the grid."""
        return int(2 ** (self.bits - 1)) - 1

    def lowest(self) -> int:
        """The smallest integer: minus the largest, or one less."""
        return -self.levels() - (0 if self.narrow else 1)

    def scale_shape(self, shape: torch.Size) -> torch.Size:
        """One number for each slice, or group."""
        if self.group is not None:
            return torch.Size((*shape[:-1], shape[-1] // self.group))
        return one_each(shape, self.dim)

    def spread(self, scale: Tensor, size: int) -> Tensor:
        """A scale for each entry; ``size`` is that of the last dimension."""
        group = self.group
        if group is None:
            return scale
        sizes = list(scale.shape)
        sizes[-1] = size
        return scale.unsqueeze(-1).repeat_interleave(group, -1).reshape(sizes)

    def largest_sizes(self, value: Tensor) -> Tensor:
        """The largest entry of each slice, or group."""
        if self.group is None:
            return largest_entries(value, self.dim)
        grouped: Tensor = value.unflatten(-1, (value.shape[-1] // self.group, self.group))
        return grouped.abs().amax(-1)

    def least_step(self, value: Tensor) -> Tensor:
        """The step of each slice, or group, whose grid just holds it."""
        if self.narrow:
            return self.largest_sizes(value) / self.levels()
        # each end has its own: the lower one lies further out
        upper, lower = (self.largest_sizes(side.clamp_min(0)) for side in (value, -value))
        return torch.maximum(upper / self.levels(), lower / -self.lowest())

    def rounded_up(self, scale: Tensor) -> Tensor:
        """``scale`` with so few digits that its multiples are exact in the stored dtype, where that has enough of them.

        A weight on the grid then gives the grid again, bit for bit.
        """
        digits = {torch.float32: 24, torch.float64: 42}.get(self.stored, 0) - self.bits
        if digits < self.bits + 2:  # the entry at the end would be nearer to the level before it
            return scale
        mantissa, exponent = torch.frexp(scale)
        return torch.ldexp(torch.ceil(mantissa * 2.0**digits - 1e-3) / 2.0**digits, exponent)

    def scale_of(self, value: Tensor, share: float = 1.0) -> Tensor:
        """The scale whose grid ends at ``share`` of the largest entry; 1 where that is zero."""
        found = self.least_step(in_double(value)) * share
        # a step that the dtype cannot hold, or whose inverse it cannot
        finfo = torch.finfo(self.stored)
        least = float(finfo.tiny)
        step = torch.where(found > 0, found.clamp_min(least), torch.ones_like(found))
        step = step.clamp_max(float(finfo.max) / -self.lowest())
        # multiples of a step with all its digits are kept to rounding, if that is what the entries are
        return torch.where(self.fits(value, step, self.levels()), step, self.rounded_up(step))

    def fits(self, value: Tensor, step: Tensor, level: int) -> Tensor:
        """Whether the entries of each slice, or group, are multiples of its step, as far as rounding tells."""
        held = step.to(self.stored).double()
        steps = in_double(value) / self.spread(held, value.shape[-1] if value.dim() else 1)
        return self.largest_sizes((steps - steps.round()).abs()) <= 2 * level * torch.finfo(self.stored).eps

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far an entry is from the grid, in shares of its end."""
        if len(raws) < 2:
            return worst(value * 0)
        scale = positive(in_double(raws[1]))
        steps = in_double(value) / self.spread(scale, value.shape[-1] if value.dim() else 1)
        outside = torch.maximum(steps - self.levels(), self.lowest() - steps)
        return max(0.0, worst((steps - steps.round()).abs()), worst(outside)) / self.levels()

    def why_no_integers(self) -> str | None:
        """More bits are none of eight."""
        return None if self.bits <= 8 else f"its integers have {self.bits} bits, and int8 holds 8"

    def integers(self, value: Tensor, raws: Sequence[Tensor]) -> Integers:
        """Steps of the scale, counted."""
        scale = positive(raws[1])
        steps = in_double(value) / self.spread(in_double(scale), value.shape[-1] if value.dim() else 1)
        return Integers(steps.round().to(torch.int8), scale, None if self.group else self.dim, self.group)

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of a level."""
        return 2 * float(torch.finfo(dtype).eps)


def positive(scale: Tensor) -> Tensor:
    """A scale that can be divided by, whatever an optimizer made of it."""
    return scale.abs().clamp_min(tiny_of(scale))
