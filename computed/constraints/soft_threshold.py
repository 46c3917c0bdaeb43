"""SoftThreshold: small entries are zero, others are drawn towards zero."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.refusing import require


class SoftThreshold(Described, Constraint):
    """``value = sign(raw) max(|raw| - threshold, 0)``: raws up to ``threshold`` in size give zero.

    Every tensor is admissible, and kept to rounding: entries that are not zero start beyond the threshold, zeros at
    zero, where the map has no slope. Weight decay pulls raws below the threshold, and so makes the weight sparse.

    Errors:
        ValueError: ``threshold`` is negative, or not finite.

    Reference: Kusupati et al., "Soft threshold weight reparameterization for learnable sparsity", 2020
    (arXiv:2002.03231), equation 2.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([2.0, 0.0, -1.0]), SoftThreshold(0.5))
        >>> w.raws["raw"].tolist(), w.tolist()
        ([2.5, 0.0, -1.5], [2.0, 0.0, -1.0])
    """

    spec_name: ClassVar[str] = "soft_threshold"

    def __init__(self, threshold: float) -> None:
        super().__init__()
        require(0 <= threshold < math.inf, f"soft_threshold needs a finite threshold from 0, got {threshold!r}")
        self.threshold = float(threshold)

    def settings(self) -> dict[str, object]:
        """The threshold."""
        return {"threshold": self.threshold}

    def forward(self, raw: Tensor) -> Tensor:
        """Towards zero by the threshold."""
        return torch.where(raw.abs() > self.threshold, raw - self.threshold * raw.sign(), torch.zeros_like(raw))

    def right_inverse(self, value: Tensor) -> Preimage:
        """Away from zero by the threshold."""
        return Preimage((value + self.threshold * value.sign(),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is admissible."""
        return 0.0
