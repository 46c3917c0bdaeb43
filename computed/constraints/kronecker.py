"""Kronecker: a matrix that is the product of two smaller ones, block by block."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.describing import Described
from computed.constraints.refusing import exempt, require, whole_number
from computed.constraints.stored import Stored
from computed.linalg import in_double, scaled_to_one
from computed.site import Site


def rearranged(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Each block (m / rows, n / columns) of ``matrix`` (m, n) as one row: of rank one for a Kronecker product."""
    tall, wide = matrix.shape[0] // rows, matrix.shape[1] // columns
    blocks = matrix.reshape(rows, tall, columns, wide).movedim(2, 1)
    return blocks.reshape(rows * columns, tall * wide)


class Kronecker(Described, Stored):
    """A matrix (m, n) that is ``A ⊗ B`` for ``A`` (rows, columns) and ``B`` (m / rows, n / columns).

    The projection is the nearest point in the Frobenius norm; a Kronecker product is kept to rounding. ``A`` and ``B``
    start with equal lengths. Weight decay acts on both.

    Errors:
        ValueError: ``rows`` or ``columns`` is no whole number of 1 or more. Sides that they do not divide are refused.

    Reference: Van Loan and Pitsianis, "Approximation with Kronecker products", 1993, theorem 2.1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.ones(4, 6), Kronecker(2, 3))
        >>> {role: tuple(raw.shape) for role, raw in w.raws.items()}
        {'A': (2, 3), 'B': (2, 2)}
    """

    spec_name: ClassVar[str] = "kronecker"
    roles: ClassVar[tuple[Role, ...]] = (Role("A"), Role("B"))

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.stored = torch.float32
        self.rows = whole_number("kronecker: rows", rows)
        self.columns = whole_number("kronecker: columns", columns)
        right = self.rows >= 1 and self.columns >= 1
        require(right, f"kronecker needs rows and columns of 1 or more, got {rows!r} and {columns!r}")

    def settings(self) -> dict[str, object]:
        """The shape of the first factor."""
        return {"rows": self.rows, "columns": self.columns}

    def why_not(self, site: Site) -> str | None:
        """It takes a matrix whose sides those of the first factor divide."""
        shape = site.shape
        if shape is None:
            return None
        if len(shape) != 2 or shape.numel() == 0:
            return f"kronecker needs a matrix with entries, got shape {tuple(shape)}; {exempt(site)}"
        if shape[0] % self.rows == 0 and shape[1] % self.columns == 0:
            return None
        return (
            f"a first factor of shape ({self.rows}, {self.columns}) does not divide shape {tuple(shape)}; "
            f"give another or {exempt(site)}"
        )

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of the factors."""
        return torch.Size((self.rows, self.columns)), torch.Size((shape[0] // self.rows, shape[1] // self.columns))

    def forward(self, A: Tensor, B: Tensor) -> Tensor:
        """All products of an entry of one and an entry of the other."""
        product = A.unsqueeze(1).unsqueeze(3) * B.unsqueeze(0).unsqueeze(2)
        return product.flatten(2, 3).flatten(0, 1)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The singular vectors of the rearranged matrix."""
        scaled, largest = scaled_to_one(in_double(value))
        u, s, vh = torch.linalg.svd(rearranged(scaled, self.rows, self.columns), full_matrices=False)
        scale = (s[0] * largest).sqrt()
        first, second = self.raw_shapes(value.shape)
        left, right = (u[:, 0] * scale).reshape(first), (vh[0] * scale).reshape(second)
        fitting = self.fitting(left, left.abs().amax() * right.abs().amax())
        return Preimage((fitting.to(value), right.to(value)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The second singular value of the rearranged matrix, relative to the first."""
        if not bool(value.isfinite().all()):
            return math.inf
        scaled, largest = scaled_to_one(in_double(value))
        s = largest * torch.linalg.svdvals(rearranged(scaled, self.rows, self.columns))
        return 0.0 if len(s) < 2 else float(s[1] / s[0].clamp_min(torch.finfo(value.dtype).tiny))
