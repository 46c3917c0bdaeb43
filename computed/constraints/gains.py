"""IA3: a fixed weight times a gain for each row or column, and a fixed bias times the very gains of its weight."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from computed.constraint import Constraint, Preimage, Role
from computed.constraints.frozen_base import BASE, OnBase, added
from computed.constraints.gain_ops import gained
from computed.scaled import DIMENSIONS


class IA3(OnBase):
    """``value = diag(gains) W`` with ``W`` fixed: one trained gain for each row, or with ``inputs=True`` each column.

    The value starts as the weight itself, bit for bit: gains are one. For a convolution columns are input channels.
    Weight decay shrinks gains towards zero, not towards one.

    In training, `F.linear` and convolutions are done with ``W`` and scale their channels, where each takes part in
    enough products (`computed.constraints.gain_ops.pays`): neither the value nor a gradient of it is made. Value and
    layer agree to rounding; eval takes the value.

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

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Any] | None:
        """The rules for `F.linear` and convolutions, transposed ones too."""
        if op not in DIMENSIONS or self.disabled:
            return None
        return partial(gained, op, self.scaled_dim(DIMENSIONS[op] + 2))

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, and gains of one."""
        return Preimage((value, value.new_ones(self.raw_shapes(value.shape)[1])))


class SharedGains(Constraint):
    """``value = gains * b`` with ``b`` (out,) fixed, for the bias of a layer whose weight is under `IA3`.

    ``gains`` (out,) is that weight's own raw, one Parameter in two places, as a layer whose outputs are scaled has it:
    ``diag(gains) (W x + b)``. What is written here changes ``b`` alone, so that the weight keeps its gains. It cannot
    be written as text: `surgery.load_peft` and `surgery.adopt` place it. Weight decay shrinks gains towards zero.

    Args:
        gains: the raw.

    Reference: as for `IA3`.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> gains = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> b = ComputedParameter.from_value(torch.tensor([1.0, 4.0]), SharedGains(gains))
        >>> b.tolist(), b.raws["base"].tolist()
        ([1.0, 4.0], [1.0, 2.0])
    """

    roles: ClassVar[tuple[Role, ...]] = (BASE,)
    gains: nn.Parameter

    def __init__(self, gains: nn.Parameter) -> None:
        super().__init__()
        self.gains = gains

    def forward(self, base: Tensor) -> Tensor:
        """Scale."""
        return base * self.gains

    def right_inverse(self, value: Tensor) -> Preimage:
        """What the gains make the value of; the value itself where a gain is zero."""
        gains = self.gains.detach().to(value)
        is_zero = gains == 0
        return Preimage((torch.where(is_zero, value, value / torch.where(is_zero, 1.0, gains)),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How large what is not zero is where a gain is: nothing else is outside."""
        outside = value.detach()[self.gains.detach() == 0].abs()
        return float(outside.amax()) if outside.numel() else 0.0
