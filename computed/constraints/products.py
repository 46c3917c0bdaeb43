"""LoHa, LoKr: a fixed weight plus a product entry by entry, or block by block."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.frozen_base import Scaled, added, less, sides
from computed.constraints.refusing import require, whole_number


class LoHa(Scaled):
    """``value = W - s (B1 A1) ∘ (-B2 A2)`` with ``W`` fixed: a product entry by entry, of rank up to ``rank²``.

    For a weight (out, in) both ``A`` are (rank, in), both ``B`` (out, rank); for a convolution ``in`` is in * k. The
    value starts as the weight itself, bit for bit: ``B2`` is zero, the others are drawn. Weight decay shrinks the
    change.

    Args:
        rank: any from 1. alpha: the scale ``s`` is ``alpha / rank``, 1 where it is not given.
        seed: draws instead of `torch.initial_seed`. dim: where rows run, if the host does not say.

    Errors:
        ValueError: ``rank`` below 1, ``alpha`` not finite.

    Reference: Hyeon-Woo, Ye-Bin and Oh, "FedPara: low-rank Hadamard product for communication-efficient federated
    learning", 2022 (arXiv:2108.06098), proposition 1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.ones(3, 4)
        >>> torch.equal(ComputedParameter.from_value(weight, LoHa(2)).detach(), weight)
        True
    """

    spec_name: ClassVar[str] = "loha"
    roles: ClassVar[tuple[Role, ...]] = added("A1", "B1", "A2", "B2")

    def __init__(
        self, rank: int, *, alpha: float | None = None, seed: int | None = None, dim: int | None = None
    ) -> None:
        super().__init__(rank, alpha, seed, dim)

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base`` and the four factors."""
        tall, wide = sides(shape, self.rows)
        thin, high = torch.Size((self.rank, wide)), torch.Size((tall, self.rank))
        return shape, thin, high, thin, high

    def forward(self, base: Tensor, A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
        """The base plus the product of products."""
        # products of zeros of both signs are summed, and come out positive
        negative = torch.mm(B1 * -self.scale(), A1) * torch.mm(B2, A2)
        return less(base, torch.where(negative == 0, torch.zeros_like(negative), negative), self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, and a second product of zeros."""
        _, thin, high, _, _ = self.raw_shapes(value.shape)
        first = self.drawn(value, "A1", thin), self.drawn(value, "B1", high)
        return Preimage((value, *first, self.drawn(value, "A2", thin), value.new_zeros(high)))


class LoKr(Scaled):
    """``value = W + s C ⊗ (B A)`` with ``W`` fixed: a Kronecker product with a factor of low rank.

    ``C`` (rows, columns) has the largest divisors of the weight's sides (out, in) up to ``factor``; ``B`` (out /
    rows, rank), ``A`` (rank, in / columns). For a convolution ``in`` is in * k. The value starts as the weight
    itself, bit for bit: ``B`` is zero. Weight decay shrinks the change.

    Args:
        rank: any from 1. alpha: the scale ``s`` is ``alpha / rank``, 1 where it is not given.
        factor: how large a side of ``C`` may be.
        seed: draws instead of `torch.initial_seed`. dim: where rows run, if the host does not say.

    Errors:
        ValueError: ``rank`` or ``factor`` below 1, ``alpha`` not finite.

    Reference: Yeh et al., "Navigating text-to-image customization: from LyCORIS fine-tuning to model evaluation", 2024
    (arXiv:2309.14859), section 3.3.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.ones(4, 6)
        >>> w = ComputedParameter.from_value(weight, LoKr(2, factor=3))
        >>> {role: tuple(raw.shape) for role, raw in w.raws.items()}
        {'base': (4, 6), 'C': (2, 3), 'A': (2, 2), 'B': (2, 2)}
        >>> torch.equal(w.detach(), weight)
        True
    """

    spec_name: ClassVar[str] = "lokr"
    roles: ClassVar[tuple[Role, ...]] = added("C", "A", "B")

    def __init__(
        self,
        rank: int,
        *,
        alpha: float | None = None,
        factor: int = 8,
        seed: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(rank, alpha, seed, dim)
        self.factor = whole_number("lokr: factor", factor)
        require(self.factor >= 1, f"lokr needs a factor of 1 or more, got {factor!r}")

    def own_settings(self) -> dict[str, object]:
        """Rank, alpha, and the factor where it is another one."""
        return super().own_settings() | {"factor": None if self.factor == 8 else self.factor}

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base`` and the three factors."""
        tall, wide = sides(shape, self.rows)
        rows, columns = (max(d for d in range(1, self.factor + 1) if side % d == 0) for side in (tall, wide))
        return (
            shape,
            torch.Size((rows, columns)),
            torch.Size((self.rank, wide // columns)),
            torch.Size((tall // rows, self.rank)),
        )

    def forward(self, base: Tensor, C: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """The base plus the Kronecker product."""
        product = torch.mm(B * -self.scale(), A)
        blocks = C.unsqueeze(1).unsqueeze(3) * product.unsqueeze(0).unsqueeze(2)
        negative = blocks.flatten(2, 3).flatten(0, 1)
        return less(base, torch.where(negative == 0, torch.zeros_like(negative), negative), self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, ``C`` and ``A`` drawn, ``B`` zero."""
        _, left, thin, high = self.raw_shapes(value.shape)
        return Preimage((value, self.drawn(value, "C", left), self.drawn(value, "A", thin), value.new_zeros(high)))
