"""IA3: a fixed weight times a gain for each row or column."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.frozen_base import OnBase, added


class IA3(OnBase):
    """``value = diag(gains) W`` with ``W`` fixed: one trained gain for each row, or with ``inputs=True`` each column.

    The value starts as the weight itself, bit for bit: gains are one. For a convolution columns are input channels.
    Weight decay shrinks gains towards zero, not towards one.

    Args:
        inputs: scale columns, as the reference does for the second layer of a feed-forward block, not rows.
        dim: where rows run, if the host does not say.

    Reference: Liu et al., "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning",
    2022 (arXiv:2205.05638), section 3.3.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.ones(3, 4), IA3(inputs=True))
        >>> w.raws["gains"].shape
        torch.Size([4])
    """

    spec_name: ClassVar[str] = "ia3"
    roles: ClassVar[tuple[Role, ...]] = added("gains")

    def __init__(self, *, inputs: bool = False, dim: int | None = None) -> None:
        super().__init__(None, dim)
        self.inputs = bool(inputs)

    def own_settings(self) -> dict[str, object]:
        """Which side, where it is the columns'."""
        return {"inputs": True if self.inputs else None}

    def scaled_dim(self, count: int) -> int:
        """The dimension that gains run along: rows, or the first of the others."""
        rows = self.rows % count
        return rows if not self.inputs else (1 if rows == 0 else 0)

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base`` and the gains."""
        return shape, torch.Size((shape[self.scaled_dim(len(shape))],))

    def forward(self, base: Tensor, gains: Tensor) -> Tensor:
        """Scale."""
        dim = self.scaled_dim(base.dim())
        sizes = [1] * base.dim()
        sizes[dim] = base.shape[dim]
        return base * gains.reshape(sizes)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, and gains of one."""
        return Preimage((value, value.new_ones(self.raw_shapes(value.shape)[1])))
