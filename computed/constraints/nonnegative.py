"""NonNegative: no entry below zero; zero itself is in the set."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import require

MAPS = ("abs", "relu", "square")


class NonNegative(Described, Constraint):
    """No entry below zero: ``value = |raw|``, or with ``map=`` ``max(raw, 0)`` or ``raw²``.

    An entry that is not negative is kept, bit for bit with "abs" and "relu"; a negative one starts at zero, the nearest
    one. From there "abs" goes on training, since its slope at zero is taken as 1; "relu" and "square" have none there.
    Weight decay moves entries towards zero, and never past it.

    Errors:
        ValueError: another ``map``.

    Reference: Amos, Xu and Kolter, "Input convex neural networks", 2017 (arXiv:1609.07152), for what it is used for.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([2.0, -1.0, 0.0]), NonNegative()).tolist()
        [2.0, 0.0, 0.0]
    """

    spec_name: ClassVar[str] = "nonnegative"

    def __init__(self, *, map: str = "abs") -> None:
        super().__init__()
        require(map in MAPS, f"nonnegative needs map 'abs', 'relu' or 'square', got {map!r}")
        self.map = map

    def settings(self) -> dict[str, object]:
        """The map, where it is another one."""
        return {} if self.map == "abs" else {"map": self.map}

    def forward(self, raw: Tensor) -> Tensor:
        """The map; without the branch that torch takes at zero, which has no slope."""
        if self.map == "relu":
            return torch.relu(raw)
        if self.map == "square":
            return raw.square()
        return torch.where(raw < 0, -raw, raw)

    def right_inverse(self, value: Tensor) -> Preimage:
        """What is not negative, or its root."""
        inside = value.clamp_min(0.0)
        return Preimage((inside.sqrt() if self.map == "square" else inside,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far the lowest entry is below zero."""
        return max(0.0, worst(-value))

    def tolerance(self, dtype: torch.dtype) -> float:
        """None."""
        return 0.0
