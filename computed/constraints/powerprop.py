"""Powerpropagation: a power of the raw, so that small entries learn slowly and stay small."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.refusing import require
from computed.numbers import largest_of


class PowerPropagation(Described, Constraint):
    """``value = raw |raw|^(exponent - 1)``: gradients are scaled by the size of entries, and weights become sparse.

    Every tensor is admissible, and kept to rounding of the power; zero entries stay zero, since the map has no slope
    there. Weight decay moves entries towards zero.

    Errors:
        ValueError: ``exponent`` is below 1, or not finite.

    Reference: Schwarz et al., "Powerpropagation: a sparsity inducing weight reparameterisation", 2021
    (arXiv:2110.00296), equation 2.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([4.0, -9.0]), PowerPropagation(2.0))
        >>> w.raws["raw"].tolist(), w.tolist()
        ([2.0, -3.0], [4.0, -9.0])
    """

    spec_name: ClassVar[str] = "powerprop"

    def __init__(self, exponent: float = 2.0) -> None:
        super().__init__()
        require(1 <= exponent < math.inf, f"powerprop needs an exponent of 1 or more, got {exponent!r}")
        self.exponent = float(exponent)

    def settings(self) -> dict[str, object]:
        """The exponent."""
        return {"exponent": self.exponent}

    def forward(self, raw: Tensor) -> Tensor:
        """The power; where the raw is zero, another base is taken, whose derivative is a number."""
        is_zero = raw == 0
        size = torch.where(is_zero, torch.ones_like(raw), raw.abs())
        # no larger than what is finite
        largest = float(largest_of(raw) ** (1.0 / self.exponent)) * 0.999
        scale = size.clamp_max(largest).pow(self.exponent - 1.0)
        value = torch.where(is_zero, raw, raw.clamp(-largest, largest) * scale)
        return value

    def right_inverse(self, value: Tensor) -> Preimage:
        """The root, with the sign."""
        return Preimage((value.abs().pow(1.0 / self.exponent).copysign(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is admissible."""
        return 0.0
