"""VeRA, DeLoRA: a fixed weight plus a product of which the strength, or little more, is trained apart."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.frozen_base import BASE, OnBase, added, less, rank_of, sides
from computed.linalg import as_matrix
from computed.numbers import tiny_of


class VeRA(OnBase):
    """``value = W + diag(b) B diag(d) A`` with ``W``, ``A`` (rank, in) and ``B`` (out, rank) fixed.

    ``A`` and ``B`` are drawn; only ``b`` (out) and ``d`` (rank) train. Equal shapes share what is drawn in the
    reference; here each weight has its own. The value starts as the weight itself, bit for bit: ``b`` is zero, ``d``
    is 0.1. Weight decay shrinks the change.

    Args:
        rank: any from 1. seed: draws instead of `torch.initial_seed`. dim: where rows run, if the host does not say.

    Errors:
        ValueError: ``rank`` below 1.

    Reference: Kopiczko, Blankevoort and Asano, "VeRA: vector-based random matrix adaptation", 2024 (arXiv:2310.11454),
    equation 2.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.ones(3, 4), VeRA(2))
        >>> [role for role, raw in w.raws.items() if raw.requires_grad]
        ['d', 'b']
    """

    spec_name: ClassVar[str] = "vera"
    roles: ClassVar[tuple[Role, ...]] = (
        BASE,
        Role("A", trained=False),
        Role("B", trained=False),
        Role("d", added=True),
        Role("b", added=True),
    )

    def __init__(self, rank: int, *, seed: int | None = None, dim: int | None = None) -> None:
        super().__init__(seed, dim)
        self.rank = rank_of("vera", rank)

    def own_settings(self) -> dict[str, object]:
        """The rank."""
        return {"rank": self.rank}

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base``, the fixed factors and the vectors."""
        tall, wide = sides(shape, self.rows)
        rank = self.rank
        return shape, torch.Size((rank, wide)), torch.Size((tall, rank)), torch.Size((rank,)), torch.Size((tall,))

    def forward(self, base: Tensor, A: Tensor, B: Tensor, d: Tensor, b: Tensor) -> Tensor:
        """The base plus the scaled product."""
        negative = torch.mm(B * d, A) * -b.unsqueeze(1)
        return less(base, torch.where(negative == 0, torch.zeros_like(negative), negative), self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, ``A`` and ``B`` drawn, ``b`` zero."""
        _, thin, high, short, tall = self.raw_shapes(value.shape)
        drawn = self.drawn(value, "A", thin), self.drawn(value, "B", high)
        return Preimage((value, *drawn, value.new_full(short, 0.1), value.new_zeros(tall)))


class DeLoRA(OnBase):
    """``value = W + B diag(strength |W| / (rank |a_i| |b_i|)) A`` with ``W`` fixed: a change of bounded size.

    ``a_i`` are rows of ``A`` (rank, in), ``b_i`` columns of ``B`` (out, rank), ``|W|`` is the root mean square length
    of columns, as in the reference. Directions and the ``strength``, one number, train apart, and the change has a
    Frobenius norm of ``|strength| |W|`` at most. The value starts as the weight itself, bit for bit: ``strength`` is
    zero at first, so that it trains first. Weight decay shrinks the change.

    Args:
        rank: any from 1. seed: draws instead of `torch.initial_seed`. dim: where rows run, if the host does not say.

    Errors:
        ValueError: ``rank`` below 1.

    Reference: Bini, Girrbach and Akata, "Decoupling angles and strength in low-rank adaptation", 2025
    (arXiv:2503.18225), equation 8; there the start is a difference of two equal products instead.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.ones(3, 4)
        >>> torch.equal(ComputedParameter.from_value(weight, DeLoRA(2)).detach(), weight)
        True
    """

    spec_name: ClassVar[str] = "delora"
    roles: ClassVar[tuple[Role, ...]] = added("A", "B", "strength")

    def __init__(self, rank: int, *, seed: int | None = None, dim: int | None = None) -> None:
        super().__init__(seed, dim)
        self.rank = rank_of("delora", rank)

    def own_settings(self) -> dict[str, object]:
        """The rank."""
        return {"rank": self.rank}

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base``, the factors and the strength."""
        tall, wide = sides(shape, self.rows)
        return shape, torch.Size((self.rank, wide)), torch.Size((tall, self.rank)), torch.Size((1,))

    def forward(self, base: Tensor, A: Tensor, B: Tensor, strength: Tensor) -> Tensor:
        """The base plus unit directions, scaled."""
        matrix = as_matrix(base, self.rows)
        largest = matrix.abs().amax().clamp_min(tiny_of(matrix))
        size = torch.linalg.vector_norm(matrix / largest) * (largest / float(matrix.shape[1]) ** 0.5)
        lengths = torch.linalg.vector_norm(A, 2.0, [1]) * torch.linalg.vector_norm(B, 2.0, [0])
        apart = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        negative = torch.mm(B * (-strength * size / (self.rank * apart)), A)
        return less(base, torch.where(negative == 0, torch.zeros_like(negative), negative), self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, directions drawn, the strength zero."""
        _, thin, high, one = self.raw_shapes(value.shape)
        drawn = self.drawn(value, "A", thin), self.drawn(value, "B", high)
        return Preimage((value, *drawn, value.new_zeros(one)))
