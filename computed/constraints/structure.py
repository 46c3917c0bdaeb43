"""Symmetric and Skew: a matrix that equals its transpose, or minus its transpose."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.settings import Described, exempt
from computed.site import Site


class Square(Described, Constraint):
    """A constraint on square matrices: the last two dimensions, the others count them."""

    def why_not(self, site: Site) -> str | None:
        shape = site.shape
        if shape is None or (len(shape) >= 2 and shape[-1] == shape[-2]):
            return None
        return f"{self.spec_name} needs square matrices, got shape {tuple(shape)}; {exempt(site)}"

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))


class Symmetric(Square):
    """A matrix that equals its transpose: ``(X + Xᵀ) / 2``."""

    spec_name: ClassVar[str] = "symmetric"

    def forward(self, raw: Tensor) -> Tensor:
        half = 0.5 * raw
        return half + half.transpose(-1, -2)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return float((value - value.mT).abs().amax()) if value.numel() else 0.0

    def tolerance(self, dtype: torch.dtype) -> float:
        return 0.0


class Skew(Square):
    """A matrix that equals minus its transpose: ``(X - Xᵀ) / 2``."""

    spec_name: ClassVar[str] = "skew"

    def forward(self, raw: Tensor) -> Tensor:
        half = 0.5 * raw
        return half - half.transpose(-1, -2)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return float((value + value.mT).abs().amax()) if value.numel() else 0.0

    def tolerance(self, dtype: torch.dtype) -> float:
        return 0.0
