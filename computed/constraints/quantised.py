"""FakeQuant: entries on a grid of few levels, as integers of some bits will hold them."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.grid import Grid, positive
from computed.constraints.refusing import require
from computed.constraints.slice_scaling import slice_dims
from computed.constraints.straight_through import straight_through
from computed.linalg import in_double

SCALES = ("absmax", "mse")
# shares of the largest entry at which a grid may end
SHRUNK = [1.0 - 0.01 * step for step in range(81)]


class FakeQuant(Grid):
    """Entries on a grid of ``2^bits - 1`` levels: ``value = scale clip(round(raw / scale), -levels, levels)``.

    ``levels = 2^(bits - 1) - 1``, symmetric about zero, which is a level; with ``narrow=False`` there is one more
    below, ``-levels - 1``. The scale is found at insertion and whenever the weight is written or loaded, and is not
    trained: with ``scale="absmax"`` it is the least whose grid holds all entries of the slice, with "mse" the one of
    81, from 20 to 100 % of that, whose squared error is least. The gradient is that of the raw where it is inside the
    grid (straight through), zero outside. The value at insertion is the nearest point for that scale, and a weight that
    is on such a grid is kept to rounding; one that was put there by this, bit for bit in float64, and in float32 for
    up to 11 bits.

    Weight decay moves raws towards zero and leaves the scale.

    Args:
        bits: from 2 to 16.
        dim: slices that share a scale, 0 for those of the outputs; None for one scale.
        group: so many neighbours along the last dimension share a scale instead.
        scale: "absmax" or "mse".
        narrow: as many levels below zero as above.

    Errors:
        ValueError: ``bits``, ``dim``, ``group``, ``scale`` or ``narrow`` is another. A group that does not divide is
            refused.

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

    def __init__(
        self,
        bits: int = 8,
        *,
        dim: int | None = 0,
        group: int | None = None,
        scale: str = "absmax",
        narrow: bool = True,
    ) -> None:
        super().__init__(bits, dim, group)
        require(scale in SCALES, f"fake_quant needs scale 'absmax' or 'mse', got {scale!r}")
        require(isinstance(narrow, bool), f"fake_quant: narrow is True or False, got {narrow!r}")
        self.chosen = scale
        self.narrow = narrow

    def settings(self) -> dict[str, object]:
        """The bits, and what is not at its default."""
        chosen: dict[str, object] = {} if self.chosen == "absmax" else {"scale": self.chosen}
        return super().settings() | chosen | ({} if self.narrow else {"narrow": False})

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number for each slice or group."""
        return shape, self.scale_shape(shape)

    def forward(self, raw: Tensor, scale: Tensor) -> Tensor:
        """Round, straight through."""
        step = self.spread(positive(scale), raw.shape[-1] if raw.dim() > 0 else 1)
        inside = (raw / step).clamp(float(self.lowest()), float(self.levels()))
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
            errors = (exact - (exact / step).round().clamp(self.lowest(), self.levels()) * step).square()
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
