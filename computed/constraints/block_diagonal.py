"""BlockDiagonal: a matrix of blocks, zero between them."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require, whole_number
from computed.site import Site


class BlockDiagonal(Described, Constraint):
    """A matrix (m, n) of ``blocks`` equal blocks along its diagonal and zeros beside them, bit for bit.

    The raw (blocks, m / blocks, n / blocks) has the blocks alone. Further dimensions in front count matrices. The
    projection drops what is beside the blocks, which gives the nearest point; blocks are kept bit for bit. Weight decay
    acts on the blocks.

    Errors:
        ValueError: ``blocks`` is no whole number of 1 or more. Sides that it does not divide are refused.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.ones(2, 4), BlockDiagonal(2)).tolist()
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    """

    spec_name: ClassVar[str] = "block_diagonal"

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = whole_number("block_diagonal: blocks", blocks)
        require(self.blocks >= 1, f"block_diagonal needs blocks of 1 or more, got {blocks!r}")

    def settings(self) -> dict[str, object]:
        """How many blocks."""
        return {"blocks": self.blocks}

    def why_not(self, site: Site) -> str | None:
        """It takes matrices whose sides its number of blocks divides."""
        shape = site.shape
        if shape is None:
            return None
        if len(shape) < 2:
            return f"block_diagonal needs matrices, got shape {tuple(shape)}; {exempt(site)}"
        if shape[-1] % self.blocks == 0 and shape[-2] % self.blocks == 0:
            return None
        return f"{self.blocks} blocks do not divide the sides of shape {tuple(shape)}; give others or {exempt(site)}"

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """The blocks."""
        return (torch.Size((*shape[:-2], self.blocks, shape[-2] // self.blocks, shape[-1] // self.blocks)),)

    def forward(self, raw: Tensor) -> Tensor:
        """Blocks at their places: the third dimension is the block of the column."""
        spread = torch.diag_embed(raw.movedim(-3, -1))  # (..., rows, columns, block of row, block of column)
        ordered = spread.movedim(-2, -4).movedim(-1, -2)  # (..., block of row, rows, block of column, columns)
        return ordered.flatten(-4, -3).flatten(-2, -1)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The blocks."""
        rows, columns = value.shape[-2] // self.blocks, value.shape[-1] // self.blocks
        cut = value.unflatten(-1, (self.blocks, columns)).unflatten(-3, (self.blocks, rows))
        return Preimage((cut.diagonal(0, -4, -2).movedim(-1, -3).contiguous(),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest entry beside the blocks."""
        return worst((value - self(self.right_inverse(value).raws[0])).abs())

    def tolerance(self, dtype: torch.dtype) -> float:
        """None: zeros are zeros."""
        return 0.0
