"""Correlation: positive semidefinite with ones on the diagonal."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.definite import below, gram, symmetric_root
from computed.constraints.matrices import SquareMatrix
from computed.constraints.measuring import worst
from computed.constraints.norms import UnitScale
from computed.linalg import in_double
from computed.nearest import nearest_correlation


class Correlation(SquareMatrix):
    """A correlation matrix (n, n): symmetric, positive semidefinite, ones on the diagonal, all three bit for bit.

    ``value_ij = r_i · r_j / (|r_i| |r_j|)`` for the rows of the raw ``R``. Further dimensions in front count
    matrices. The projection is the nearest point in the Frobenius norm; a matrix that is inside is kept to rounding.
    A variable that starts with a correlation of 1 or -1 to others keeps it. Weight decay changes the raw and not the
    value.

    Reference: Higham, "Computing the nearest correlation matrix: a problem from finance", 2002, algorithm 3.3.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), Correlation())
        >>> [[round(entry, 5) for entry in row] for row in w.tolist()]
        [[1.0, 0.5], [0.5, 1.0]]
    """

    spec_name: ClassVar[str] = "correlation"

    def __init__(self) -> None:
        super().__init__()
        self.rows = UnitScale(0)

    def forward(self, raw: Tensor) -> Tensor:
        """The Gram matrix of the directions of the rows; its diagonal is one, whatever rounding says."""
        directions = self.rows(raw.reshape(-1, raw.shape[-1])).reshape(raw.shape)
        eye = torch.eye(raw.shape[-1], dtype=raw.dtype, device=raw.device)
        return gram(directions).clamp(-1.0, 1.0) * (1.0 - eye) + eye

    def right_inverse(self, value: Tensor) -> Preimage:
        """The symmetric root of the nearest point, whose rows have length one."""
        return Preimage((symmetric_root(nearest_correlation(in_double(value)), 0.0).to(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How negative the smallest eigenvalue is, and how far the diagonal from one."""
        if not bool(value.isfinite().all()):
            return math.inf
        return max(below(value, 0.0), worst((value.diagonal(0, -2, -1) - 1).abs()))

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of entries moves eigenvalues by up to as many times as much as there are rows."""
        return 64 * float(torch.finfo(dtype).eps)
