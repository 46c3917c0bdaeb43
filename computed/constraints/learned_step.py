"""LearnedStep: entries on a grid whose scale is trained."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.grid import Grid, positive
from computed.constraints.slice_scaling import slice_dims
from computed.constraints.straight_through import straight_through
from computed.linalg import in_double

# how large an integer the largest entry of a weight may be that is on a grid already
MOST_TRIED = 255


class LearnedStep(Grid):
    """As `FakeQuant`, with a scale that is trained (LSQ).

    The gradient of the scale is ``round(raw / scale) - raw / scale`` inside the grid and its end outside, times ``1 /
    sqrt(n levels)`` for the ``n`` entries that share it. At insertion the scale is ``2 mean|raw| / sqrt(levels)``, as
    in the reference, or that of `FakeQuant` where the weight is on its grid. Weight decay shrinks the scale too: give
    it a group of its own without.

    Errors:
        ValueError: ``bits``, ``dim`` or ``group`` is another. A group that does not divide is refused.

    Reference: Esser et al., "Learned step size quantization", 2020 (arXiv:1902.08153), equations 1 to 3 and section
    2.2.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[3.0, -1.0, 2.0]]), LearnedStep(3))
        >>> w.tolist(), w.raws["scale"].tolist()
        ([[3.0, -1.0, 2.0]], [[1.0]])
    """

    spec_name: ClassVar[str] = "lsq"
    roles: ClassVar[tuple[Role, ...]] = (Role("raw"), Role("scale"))
    found_from_settings: ClassVar[tuple[str, ...]] = ("scale",)

    def __init__(self, bits: int = 8, *, dim: int | None = 0, group: int | None = None) -> None:
        super().__init__(bits, dim, group)

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number for each slice or group."""
        return shape, self.scale_shape(shape)

    def forward(self, raw: Tensor, scale: Tensor) -> Tensor:
        """Round, straight through, with the gradient of the scale made smaller."""
        end = float(self.levels())
        share = float(max(1, raw.numel() // max(1, scale.numel())))
        slowed = scale / (share * end) ** 0.5
        step = self.spread(positive(straight_through(scale, slowed)), raw.shape[-1] if raw.dim() > 0 else 1)
        inside = (raw / step).clamp(-end, end)
        return straight_through(torch.round(inside), inside) * step

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself, and the scale."""
        exact = in_double(value)
        largest = self.largest_sizes(exact)
        scale, found = self.scale_of(value), torch.zeros_like(largest, dtype=torch.bool)
        for level in range(min(self.levels(), MOST_TRIED), 0, -1):  # which the largest entry may be
            tried = torch.where(largest > 0, largest / level, torch.ones_like(largest))
            new = self.fits(value, tried, level) & ~found
            scale, found = torch.where(new, tried, scale), found | new
        if self.group is not None:
            sizes = exact.unflatten(-1, (value.shape[-1] // self.group, self.group)).abs().mean(-1)
        else:
            dims = slice_dims(value.dim(), self.dim)
            sizes = exact.abs().mean(dims, True) if dims else exact.abs()
        start = torch.where(found, scale, self.rounded_up(2 * sizes / self.levels() ** 0.5))
        return Preimage((value, start.to(value)))
