"""LowerTriangular, UpperTriangular: entries on one side of the diagonal are zero."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, whole_number
from computed.site import Site


class Triangular(Described, Constraint):
    """Matrices with a triangle of zeros, shifted by ``offset``."""

    def __init__(self, offset: int) -> None:
        super().__init__()
        self.offset = whole_number(f"{self.spec_name}: offset", offset)

    def settings(self) -> dict[str, object]:
        """The offset, where there is one."""
        return {"offset": self.offset} if self.offset else {}

    def why_not(self, site: Site) -> str | None:
        """It takes matrices."""
        shape = site.shape
        if shape is None or len(shape) >= 2:
            return None
        return f"{self.spec_name} needs matrices, got shape {tuple(shape)}; {exempt(site)}"

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value where it may have entries, so that nothing hidden is kept."""
        return Preimage((self(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest entry that should be zero."""
        return worst((value - self(value)).abs())

    def tolerance(self, dtype: torch.dtype) -> float:
        """None: zeros are zeros."""
        return 0.0


class LowerTriangular(Triangular):
    """Entries above the diagonal are zero, bit for bit: the nearest such matrix (m, n), others are kept.

    Those above the ``offset``-th diagonal: -1 makes the diagonal zero too. Further dimensions in front count matrices.
    What is zero has no gradient. Weight decay moves entries towards zero.

    Errors:
        ValueError: ``offset`` is no whole number.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.ones(2, 2), LowerTriangular()).tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """

    spec_name: ClassVar[str] = "lower_triangular"

    def __init__(self, offset: int = 0) -> None:
        super().__init__(offset)

    def forward(self, raw: Tensor) -> Tensor:
        """The lower triangle."""
        return torch.tril(raw, self.offset)


class UpperTriangular(Triangular):
    """Entries below the diagonal are zero, bit for bit: the nearest such matrix (m, n), others are kept.

    Those below the ``offset``-th diagonal: 1 makes the diagonal zero too. As `LowerTriangular`, under weight decay too.

    Errors:
        ValueError: ``offset`` is no whole number.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.ones(2, 2), UpperTriangular()).tolist()
        [[1.0, 1.0], [0.0, 1.0]]
    """

    spec_name: ClassVar[str] = "upper_triangular"

    def __init__(self, offset: int = 0) -> None:
        super().__init__(offset)

    def forward(self, raw: Tensor) -> Tensor:
        """The upper triangle."""
        return torch.triu(raw, self.offset)
