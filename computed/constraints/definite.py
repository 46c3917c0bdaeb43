"""PositiveSemidefinite, PositiveDefinite: symmetric matrices by their roots."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.matrices import SquareMatrix, largest_in_each, symmetric_part
from computed.constraints.refusing import require
from computed.constraints.stored import Stored
from computed.linalg import in_double


def symmetric_root(matrix: Tensor, floor: float) -> Tensor:
    """``R``, symmetric, with ``R Rᵀ + floor`` the matrix nearest to ``matrix`` with eigenvalues of ``floor`` or more.

    Nearest in the Frobenius norm: the symmetric part with its eigenvalues raised. In float64.

    Reference: Higham, "Computing a nearest symmetric positive semidefinite matrix", 1988, theorem 2.1.
    """
    exact = torch.nan_to_num(in_double(matrix), nan=0.0)
    scale = largest_in_each(exact)
    eigenvalues, vectors = torch.linalg.eigh(symmetric_part(exact / scale))
    rest = (eigenvalues.unsqueeze(-2) - floor / scale).clamp_min(0.0)
    root: Tensor = (vectors * rest.sqrt()) @ vectors.mT * scale.sqrt()
    return root


def fitting_root(root: Tensor, dtype: torch.dtype) -> Tensor:
    """``root``, scaled down where its product is beyond ``dtype``."""
    limit = 0.99 * float(torch.finfo(dtype).max)
    largest = gram(root).abs().amax()
    return root * (limit / largest).sqrt() if bool(largest > limit) else root


def gram(root: Tensor) -> Tensor:
    """``R Rᵀ``, bit for bit symmetric."""
    product = root @ root.transpose(-1, -2)
    half = 0.5 * product
    return half + half.transpose(-1, -2)


def below(value: Tensor, floor: float) -> float:
    """How far the smallest eigenvalue is below ``floor``, or a matrix from symmetric, relative to its largest entry.

    Infinite where a number is not finite.
    """
    if not bool(value.isfinite().all()):
        return math.inf
    exact = in_double(value)
    scale = largest_in_each(exact).clamp_min(float(torch.finfo(value.dtype).tiny))
    skew = ((exact - exact.mT) / scale).abs().amax()
    smallest = torch.linalg.eigvalsh(symmetric_part(exact / scale))[..., :1].unsqueeze(-1)
    return max(0.0, float(skew), float((floor / scale - smallest).amax()))


class PositiveSemidefinite(SquareMatrix, Stored):
    """A symmetric matrix (n, n) without negative eigenvalues: ``value = R Rᵀ``, symmetric bit for bit.

    Further dimensions in front count matrices. The projection is the nearest point in the Frobenius norm: the
    symmetric part with negative eigenvalues set to zero. A matrix that is inside is kept to rounding; an eigenvalue
    that starts at zero stays there, since the map has no slope there. Weight decay shrinks the matrix towards zero.

    Reference: Higham, "Computing a nearest symmetric positive semidefinite matrix", 1988, theorem 2.1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, -3.0]]), PositiveSemidefinite())
        >>> [[round(entry, 5) for entry in row] for row in w.tolist()]
        [[2.0, 0.0], [0.0, 0.0]]
    """

    spec_name: ClassVar[str] = "psd"

    def __init__(self) -> None:
        super().__init__()
        self.stored = torch.float32

    def forward(self, raw: Tensor) -> Tensor:
        """The Gram matrix of the rows, with its halves added so that it is symmetric."""
        return gram(raw)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The symmetric root of the nearest point."""
        return Preimage((fitting_root(symmetric_root(value, 0.0), self.stored).to(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How negative the smallest eigenvalue is, relative to the largest entry."""
        return below(value, 0.0)

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of entries moves eigenvalues by up to as many times as much as there are rows."""
        return 64 * float(torch.finfo(dtype).eps)


class PositiveDefinite(SquareMatrix, Stored):
    """A symmetric matrix (n, n) whose eigenvalues are at least ``floor``: ``value = R Rᵀ + floor I``.

    As `PositiveSemidefinite`: symmetric bit for bit, and the nearest such matrix at insertion. Weight decay shrinks
    it towards ``floor I``. Rounding in the dtype of the weight may take more than ``floor`` from the smallest
    eigenvalue of a matrix whose entries are larger than ``floor / eps``.

    Errors:
        ValueError: ``floor`` is not positive and finite.

    Reference: as for `PositiveSemidefinite`.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, -3.0]]), PositiveDefinite(0.5))
        >>> [[round(entry, 5) for entry in row] for row in w.tolist()]
        [[2.0, 0.0], [0.0, 0.5]]
    """

    spec_name: ClassVar[str] = "positive_definite"

    def __init__(self, floor: float = 1e-6) -> None:
        super().__init__()
        require(0 < floor < math.inf, f"positive_definite needs a positive finite floor, got {floor!r}")
        self.floor = float(floor)
        self.stored = torch.float32

    def settings(self) -> dict[str, object]:
        """The smallest eigenvalue."""
        return {"floor": self.floor}

    def forward(self, raw: Tensor) -> Tensor:
        """The Gram matrix of the rows, and ``floor`` on the diagonal."""
        eye = torch.eye(raw.shape[-1], dtype=raw.dtype, device=raw.device)
        return gram(raw) + self.floor * eye

    def right_inverse(self, value: Tensor) -> Preimage:
        """The symmetric root of what the nearest point has above ``floor``."""
        return Preimage((fitting_root(symmetric_root(value, self.floor), self.stored).to(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far the smallest eigenvalue is below ``floor``, relative to the largest entry."""
        return below(value, self.floor)

    def tolerance(self, dtype: torch.dtype) -> float:
        """As for `PositiveSemidefinite`."""
        return 64 * float(torch.finfo(dtype).eps)
