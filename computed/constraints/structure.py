"""Symmetric and Skew: a matrix that equals its transpose, or minus its transpose."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt
from computed.site import Site


class Square(Described, Constraint):
    """A constraint on square matrices: the last two dimensions; others count matrices."""

    def why_not(self, site: Site) -> str | None:
        """It takes square matrices."""
        shape = site.shape
        if shape is None or (len(shape) >= 2 and shape[-1] == shape[-2]):
            return None
        return f"{self.spec_name} needs square matrices, got shape {tuple(shape)}; {exempt(site)}"

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself: the map is the projection."""
        return Preimage((value,))

    def tolerance(self, dtype: torch.dtype) -> float:
        """None: the structure holds bit for bit."""
        return 0.0


class Symmetric(Square):
    """A matrix (n, n) that equals its transpose, bit for bit: ``value = (X + Xᵀ) / 2``, the nearest one.

    Further dimensions in front count matrices. A symmetric matrix is kept bit for bit, in every dtype. Weight decay
    moves entries towards zero.

    Reference: Higham, "Matrix nearness problems and applications", 1989, section 2.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), Symmetric()).tolist()
        [[1.0, 3.0], [3.0, 3.0]]
    """

    spec_name: ClassVar[str] = "symmetric"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, raw: Tensor) -> Tensor:
        """Halves are added, so that large numbers do not overflow."""
        half = 0.5 * raw
        return half + half.transpose(-1, -2)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference of two entries that should be equal."""
        return worst((value - value.mT).abs())


class Skew(Square):
    """A matrix (n, n) that equals minus its transpose, bit for bit: ``value = (X - Xᵀ) / 2``, the nearest.

    Further dimensions in front count matrices. A skew-symmetric matrix is kept bit for bit, in every dtype. Weight
    decay moves entries towards zero.

    Reference: as for `Symmetric`; the two parts of a matrix are orthogonal to each other.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), Skew()).tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """

    spec_name: ClassVar[str] = "skew"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, raw: Tensor) -> Tensor:
        """Halves are subtracted, so that large numbers do not overflow."""
        half = 0.5 * raw
        return half - half.transpose(-1, -2)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest sum of two entries that should cancel."""
        return worst((value + value.mT).abs())
