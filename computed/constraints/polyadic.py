"""Polyadic: a weight as a sum of products of vectors."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.factored import Factored, Rank, rank_or_share
from computed.constraints.factored_ops import CP
from computed.factorisations import polyadic, unfolded
from computed.linalg import in_double, scaled_to_one


class Polyadic(Factored):
    """A weight of rank ``R`` as a tensor: ``value_oik = sum_r A_or B_ir C_rk``, the canonical polyadic form (CP).

    ``A`` (out, R), ``B`` (in, R), ``C`` (R, k...). ``rank`` is a number, or the share of the weight's entries that
    the factors may have together. The projection is found by alternating least squares: near the least squared error,
    which need not exist; a weight of that rank need not be kept, since they may end in another valley. Weight
    decay acts on the factors.

    `F.linear` and convolutions (with one group) are done without making the value, in eval too: a 1 x 1 convolution,
    one for each channel by itself, and a 1 x 1 convolution; both agree to rounding.

    Errors:
        ValueError: a rank below 1, or a share that is not between 0 and 1. Weights without inputs are refused.

    Reference: Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", 2015
    (arXiv:1412.6553), which decomposes the two directions of the filter too.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.randn(8, 6, 3, 3), Polyadic(5))
        >>> {role: tuple(raw.shape) for role, raw in w.raws.items()}
        {'A': (8, 5), 'B': (6, 5), 'C': (5, 3, 3)}
    """

    spec_name: ClassVar[str] = "cp"
    roles: ClassVar[tuple[Role, ...]] = (Role("A"), Role("B"), Role("C"))

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self.stored = torch.float32
        self.given = rank_or_share("cp", rank)

    def settings(self) -> dict[str, object]:
        """The rank."""
        return {"rank": self.given}

    def rank(self, shape: torch.Size) -> int:
        """How many products are summed."""
        if isinstance(self.given, int):
            return self.given
        return max(1, int(self.given * shape.numel() / (shape[0] + shape[1] + math.prod(shape[2:]))))

    def ranks(self, shape: torch.Size) -> tuple[int, ...]:
        """The same for all."""
        return (self.rank(shape),) * 3

    def unfoldings(self, value: Tensor) -> list[Tensor]:
        """Along each of three directions."""
        joined = value.flatten(2) if value.dim() > 2 else value.unsqueeze(2)
        return [unfolded(joined, mode) for mode in range(3)]

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of the factors."""
        rank = self.rank(shape)
        return torch.Size((shape[0], rank)), torch.Size((shape[1], rank)), torch.Size((rank, *shape[2:]))

    def forward(self, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """The sum of products."""
        rank = C.shape[0]
        pairs = A.unsqueeze(1) * B.unsqueeze(0)
        product = torch.mm(pairs.reshape(-1, rank), C.reshape(rank, -1))
        return product.reshape(A.shape[:1] + B.shape[:1] + C.shape[1:])

    def right_inverse(self, value: Tensor) -> Preimage:
        """The decomposition."""
        scaled, largest = scaled_to_one(in_double(value))
        joined = scaled.flatten(2) if value.dim() > 2 else scaled.unsqueeze(2)
        a, b, c = polyadic(joined, self.rank(value.shape))
        return Preimage(self.fitting_product((a, b, c.T.reshape(-1, *value.shape[2:])), largest, value))

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        """The rules for `F.linear` and convolutions."""
        return CP.get(op)
