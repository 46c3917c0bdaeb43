"""Cholesky: lower triangular with a positive diagonal."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from computed.constraint import Preimage
from computed.constraints.elementwise import TINIEST, StrictlyBounded, next_above, saturated
from computed.constraints.matrices import SquareMatrix
from computed.constraints.measuring import worst


class Cholesky(SquareMatrix, StrictlyBounded):
    """A lower triangular matrix (n, n) with a positive diagonal: what ``L`` is in ``L Lᵀ``.

    ``value = tril(raw, -1) + diag(tiny + softplus(diag(raw)))``, with zeros bit for bit and a diagonal that is
    strictly positive in the dtype that the weight is stored in. Further dimensions in front count matrices. The
    projection is the nearest point: entries above the diagonal are dropped, those on it that are not positive start
    at ``2 tiny``. Weight decay moves the diagonal towards ``log 2`` and the rest towards zero.

    Reference: Pinheiro and Bates, "Unconstrained parametrizations for variance-covariance matrices", 1996, section 2.1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[2.0, 5.0], [-1.0, 3.0]]), Cholesky()).tolist()
        [[2.0, 0.0], [-1.0, 3.0]]
    """

    spec_name: ClassVar[str] = "cholesky"

    def __init__(self) -> None:
        super().__init__()
        self.stored = torch.float32

    def find_limits(self) -> None:
        """Find the smallest number above zero."""
        self.floor = next_above(0.0, self.stored)

    def forward(self, raw: Tensor) -> Tensor:
        """The lower part, and a positive diagonal."""
        diagonal = self.floor + functional.softplus(raw.diagonal(0, -2, -1), threshold=40.0)
        return torch.tril(raw, -1) + torch.diag_embed(diagonal)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The lower part, and the inverse of softplus on the diagonal."""
        above = (value.diagonal(0, -2, -1) - self.floor).clamp(0.0, torch.finfo(value.dtype).max)
        diagonal = (above + torch.log(-torch.expm1(-above))).clamp_min(-saturated(value.dtype))
        return Preimage((torch.tril(value, -1) + torch.diag_embed(diagonal),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest entry above the diagonal, and how far one on it is below zero."""
        outside = worst(torch.triu(value, 1).abs())
        diagonal = value.diagonal(0, -2, -1)
        if bool((diagonal > 0).all()):
            return outside
        return max(outside, worst(-diagonal), TINIEST)
