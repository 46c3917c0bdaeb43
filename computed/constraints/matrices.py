"""SquareMatrix: what constraints on square matrices share, the last two dimensions; others count matrices."""

import abc

import torch
from torch import Tensor

from computed.constraint import Constraint
from computed.constraints.describing import Described
from computed.constraints.refusing import exempt
from computed.site import Site


class SquareMatrix(Described, Constraint, abc.ABC):
    """A constraint on square matrices: the last two dimensions; others count matrices."""

    def why_not(self, site: Site) -> str | None:
        """It takes square matrices with entries."""
        shape = site.shape
        if shape is None or (len(shape) >= 2 and shape[-1] == shape[-2] and shape.numel() > 0):
            return None
        return f"{self.spec_name} needs square matrices with entries, got shape {tuple(shape)}; {exempt(site)}"


def symmetric_part(matrix: Tensor) -> Tensor:
    """``(X + Xᵀ) / 2``, bit for bit symmetric, without overflow."""
    half = 0.5 * matrix
    return half + half.transpose(-1, -2)


def largest_in_each(matrix: Tensor) -> Tensor:
    """The largest absolute entry of each matrix, with its dimensions; 1 where that is zero or no number."""
    found = matrix.abs().amax((-2, -1), keepdim=True)
    return torch.where((found > 0) & found.isfinite(), found, torch.ones_like(found))
