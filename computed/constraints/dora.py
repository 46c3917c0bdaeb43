"""DoRA: lengths of rows trained apart, directions by a low-rank adapter."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.frozen_base import Scaled, added
from computed.constraints.stored import Stored
from computed.linalg import as_matrix, like_weight


def row_lengths(matrix: Tensor) -> Tensor:
    """The length of each row, 1 where it is zero, in units of its largest entry, since squares of some are none."""
    largest = matrix.detach().abs().amax(1, True)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    found = torch.linalg.vector_norm(matrix / unit, 2.0, [1], True)
    return torch.where(found > 0, found, torch.ones_like(found)) * unit


class DoRA(Scaled, Stored):
    """Weight-decomposed low-rank adaptation: ``value_i = m_i (W + s B A)_i / |(W + s B A)_i|`` with ``W`` fixed.

    ``m`` has one length for each row of the weight (out, in), ``A`` (rank, in), ``B`` (out, rank), ``s = alpha /
    rank``; for a convolution rows are filters. The value starts as the weight itself, bit for bit. As in the
    reference, section 4.3, the length in the denominator is a constant of the derivative. Weight decay shortens rows.

    Args:
        rank: any from 1.
        alpha: the scale is ``alpha / rank``; where it is not given, the scale is 1.
        rslora: the scale is ``alpha / sqrt(rank)``.
        seed: draws ``A`` instead of `torch.initial_seed`.
        dim: where rows run, for a weight of three or more dimensions whose host is no convolution.

    Errors:
        ValueError: ``rank`` below 1, ``alpha`` not finite, none for ``rslora``.

    Reference: Liu et al., "DoRA: weight-decomposed low-rank adaptation", 2024 (arXiv:2402.09353), equation 5.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.ones(3, 4)
        >>> torch.equal(ComputedParameter.from_value(weight, DoRA(2)).detach(), weight)
        True
    """

    spec_name: ClassVar[str] = "dora"
    roles: ClassVar[tuple[Role, ...]] = added("A", "B", "m")

    def __init__(
        self,
        rank: int,
        *,
        alpha: float | None = None,
        rslora: bool = False,
        seed: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(rank, alpha, seed, dim, rslora=rslora)
        self.stored = torch.float32

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base``, ``A``, ``B`` and ``m``."""
        rows = self.rows % len(shape)
        rest = [size for dim, size in enumerate(shape) if dim != rows]
        count = shape[rows]
        return shape, torch.Size((self.rank, *rest)), torch.Size((count, self.rank)), torch.Size((count, 1))

    def forward(self, base: Tensor, A: Tensor, B: Tensor, m: Tensor) -> Tensor:
        """The adapted weight, its rows at their lengths."""
        # subtract the negative product: adding a zero would clear the sign of a negative zero
        adapted = as_matrix(base, self.rows) - torch.mm(B * -self.scale(), A.flatten(1))
        return like_weight(adapted * (m / row_lengths(adapted).detach()), base, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, ``A`` drawn, ``B`` zero, and the lengths of the rows."""
        _, thin, tall, _ = self.raw_shapes(value.shape)
        lengths = row_lengths(as_matrix(value, self.rows)).clamp_max(torch.finfo(self.stored).max)
        drawn = self.drawn(value, "A", thin)
        return Preimage((value, drawn, value.new_zeros(tall), lengths))
