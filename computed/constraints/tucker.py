"""Tucker: a weight as a core between two matrices."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.factored import Factored, Rank, rank_or_share
from computed.constraints.factored_ops import TUCKER
from computed.constraints.refusing import require
from computed.factorisations import scaled_rank, tucker, unfolded
from computed.linalg import in_double, scaled_to_one


def possible(first: int, second: int, shape: torch.Size) -> tuple[int, int]:
    """The ranks, no larger than a weight of this shape can have."""
    rest = math.prod(shape[2:])
    first = min(first, shape[0], min(second, shape[1]) * rest)
    return first, min(second, shape[1], first * rest)


class Tucker(Factored):
    """A weight of multilinear rank (r, s): ``value_oik = sum_ab core_abk U_oa V_ib``, Tucker's form in two modes.

    ``core`` (r, s, k...), ``U`` (out, r), ``V`` (in, s). ``rank`` is one number for both, a pair, or the share of the
    weight's entries that the factors may have together, such as 0.25. The projection has the least squared error, or
    close to it; a weight of no larger ranks is kept to rounding. Weight decay acts on the factors.

    `F.linear` and convolutions (with one group) are done without making the value, in eval too: a 1 x 1 convolution to
    ``s`` channels, the core, and a 1 x 1 convolution from ``r``; both agree to rounding.

    Errors:
        ValueError: a rank below 1, or a share that is not between 0 and 1. Weights without inputs are refused.

    Reference: Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile
    applications", 2016 (arXiv:1511.06530), section 3.2; the decomposition in `computed.factorisations.tucker`.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.randn(8, 6, 3, 3), Tucker((4, 3)))
        >>> {role: tuple(raw.shape) for role, raw in w.raws.items()}
        {'core': (4, 3, 3, 3), 'U': (8, 4), 'V': (6, 3)}
    """

    spec_name: ClassVar[str] = "tucker"
    roles: ClassVar[tuple[Role, ...]] = (Role("core"), Role("U"), Role("V"))

    def __init__(self, rank: Rank | Sequence[int]) -> None:
        super().__init__()
        self.stored = torch.float32
        if isinstance(rank, Sequence):
            require(len(rank) == 2, f"tucker needs one rank or two, got {rank!r}")
            self.given: tuple[Rank, ...] = tuple(rank_or_share("tucker", each) for each in rank)
            require(all(isinstance(each, int) for each in self.given), f"tucker needs two ranks, got {rank!r}")
        else:
            self.given = (rank_or_share("tucker", rank),)

    def settings(self) -> dict[str, object]:
        """The rank, or both."""
        return {"rank": self.given if len(self.given) == 2 else self.given[0]}

    def ranks(self, shape: torch.Size) -> tuple[int, ...]:
        """Of outputs and inputs."""
        first, last = self.given[0], self.given[-1]
        if isinstance(first, float):
            rest = math.prod(shape[2:])

            def sides(scale: float) -> tuple[int, int]:
                return possible(max(1, round(scale * shape[0])), max(1, round(scale * shape[1])), shape)

            def count(scale: float) -> int:
                r, s = sides(scale)
                return r * s * rest + shape[0] * r + shape[1] * s

            return sides(scaled_rank(first, shape.numel(), count))
        return possible(int(first), int(last), shape)

    def unfoldings(self, value: Tensor) -> list[Tensor]:
        """Along outputs and along inputs."""
        return [unfolded(value, 0), unfolded(value, 1)]

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of the core and of both matrices."""
        r, s = self.ranks(shape)
        return torch.Size((r, s, *shape[2:])), torch.Size((shape[0], r)), torch.Size((shape[1], s))

    def forward(self, core: Tensor, U: Tensor, V: Tensor) -> Tensor:
        """The product."""
        wide = torch.mm(U, core.flatten(1)).unflatten(1, core.shape[1:])
        return torch.matmul(wide.movedim(1, -1), V.t()).movedim(-1, 1).contiguous()

    def right_inverse(self, value: Tensor) -> Preimage:
        """The decomposition."""
        scaled, largest = scaled_to_one(in_double(value))
        return Preimage(self.fitting_product(tucker(scaled, *self.ranks(value.shape)), largest, value))

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        """The rules for `F.linear` and convolutions."""
        return TUCKER.get(op)
