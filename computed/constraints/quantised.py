"""FakeQuant: entries on a grid of few levels, as integers of some bits will hold them."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require, whole_number, why_not_dim
from computed.constraints.slice_scaling import largest_entries, one_each, slice_dims
from computed.constraints.stored import Stored
from computed.constraints.straight_through import straight_through
from computed.linalg import in_double
from computed.numbers import tiny_of
from computed.site import Site

SCALES = ("absmax", "mse")
# shares of the largest entry at which a grid may end
SHRUNK = [1.0 - 0.01 * step for step in range(81)]


class Grid(Described, Stored, abc.ABC):
    """``value = scale (clip(round(raw / scale), -levels, levels))`` with one scale for each slice, or group.

    ``dim`` says of which slices: 0 for those of a weight (out, in) or (out, in, k) by outputs, None for the whole
    tensor. With ``group`` there is a scale for every so many neighbours along the last dimension instead.
    """

    dim: int | None
    group: int | None

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
        """The largest integer of the grid; the smallest is minus that."""
        return int(2 ** (self.bits - 1)) - 1

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

    def rounded_up(self, scale: Tensor) -> Tensor:
        """``scale`` with so few digits that its multiples are exact in the stored dtype, where that has enough of them.

        A weight on the grid then gives the grid again, bit for bit.
        """
        digits = {torch.float32: 24, torch.float64: 42}.get(self.stored, 0) - self.bits
        if digits < 4:
            return scale
        mantissa, exponent = torch.frexp(scale)
        return torch.ldexp(torch.ceil(mantissa * 2.0**digits - 1e-3) / 2.0**digits, exponent)

    def scale_of(self, value: Tensor, share: float = 1.0) -> Tensor:
        """The scale whose grid ends at ``share`` of the largest entry; 1 where that is zero."""
        largest = self.largest_sizes(in_double(value)) * share
        step = largest / self.levels()
        # a step that the dtype cannot hold, or whose inverse it cannot
        finfo = torch.finfo(self.stored)
        least = float(finfo.tiny)
        step = torch.where(largest > 0, step.clamp_min(least), torch.ones_like(step))
        step = step.clamp_max(float(finfo.max) / self.levels())
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
        outside = steps.abs() - self.levels()
        return max(0.0, worst((steps - steps.round()).abs()), worst(outside)) / self.levels()

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of a level."""
        return 2 * float(torch.finfo(dtype).eps)


def positive(scale: Tensor) -> Tensor:
    """A scale that can be divided by, whatever an optimizer made of it."""
    return scale.abs().clamp_min(tiny_of(scale))


class FakeQuant(Grid):
    """Entries on a grid of ``2^bits - 1`` levels: ``value = scale clip(round(raw / scale), -levels, levels)``.

    ``levels = 2^(bits - 1) - 1``, symmetric about zero, which is a level. The scale is found at insertion and
    whenever the weight is written or loaded, and is not trained: with ``scale="absmax"`` the grid ends at the largest
    entry of the slice, with "mse" where the squared error is least, of 81 ends from 20 to 100 % of that. The gradient
    is that of the raw where it is inside the grid (straight through), zero outside. The value at insertion is the
    nearest point for that scale, and a weight that is on such a grid is kept to rounding; one that was put there by
    this, bit for bit in float32 and float64.

    Weight decay moves raws towards zero and leaves the scale.

    Args:
        bits: from 2 to 16.
        dim: slices that share a scale, 0 for those of the outputs; None for one scale.
        group: so many neighbours along the last dimension share a scale instead.
        scale: "absmax" or "mse".

    Errors:
        ValueError: ``bits``, ``dim``, ``group`` or ``scale`` is another. A group that does not divide is refused.

    Reference: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", 2018 (arXiv:1712.05877), section 3.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, -1.2, 0.4]]), FakeQuant(3)).tolist()
        [[3.0, -1.0, 0.0]]
    """

    spec_name: ClassVar[str] = "fake_quant"
    roles: ClassVar[tuple[Role, ...]] = (Role("raw"), Role("scale", trained=False))
    found_from_settings: ClassVar[tuple[str, ...]] = ("scale",)

    def __init__(self, bits: int = 8, *, dim: int | None = 0, group: int | None = None, scale: str = "absmax") -> None:
        super().__init__(bits, dim, group)
        require(scale in SCALES, f"fake_quant needs scale 'absmax' or 'mse', got {scale!r}")
        self.chosen = scale

    def settings(self) -> dict[str, object]:
        """The bits, and what is not at its default."""
        return super().settings() | ({} if self.chosen == "absmax" else {"scale": self.chosen})

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number for each slice or group."""
        return shape, self.scale_shape(shape)

    def forward(self, raw: Tensor, scale: Tensor) -> Tensor:
        """Round, straight through."""
        step = self.spread(positive(scale), raw.shape[-1] if raw.dim() > 0 else 1)
        end = float(self.levels())
        inside = (raw / step).clamp(-end, end)
        return straight_through(torch.round(inside) * step, inside * step)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself, and the scale."""
        best = self.scale_of(value)
        if self.chosen == "mse":
            best = self.least_error(value, best)
        return Preimage((value, best.to(value)))

    def least_error(self, value: Tensor, scale: Tensor) -> Tensor:
        """Of the scales whose grids end earlier, for each slice the one with the least squared error."""
        exact = in_double(value)
        best = scale
        least: Tensor | None = None
        for share in SHRUNK:
            tried = self.scale_of(value, share).to(self.stored).double()
            step = self.spread(tried, value.shape[-1] if value.dim() else 1)
            errors = (exact - (exact / step).round().clamp(-self.levels(), self.levels()) * step).square()
            dims = slice_dims(value.dim(), self.dim)
            if self.group is not None:
                error = errors.unflatten(-1, (value.shape[-1] // self.group, self.group)).sum(-1)
            else:
                error = errors.sum(dims, True) if dims else errors
            if least is None:
                least, best = error, tried
                continue
            is_better = error < least
            least, best = torch.where(is_better, error, least), torch.where(is_better, tried, best)
        return best
