"""TensorTrain: the weight of a convolution as a train of four cores."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.factored import Factored, Rank, rank_or_share
from computed.constraints.factored_ops import TRAIN
from computed.constraints.refusing import exempt, require
from computed.factorisations import scaled_rank, train
from computed.linalg import in_double, scaled_to_one
from computed.site import Site


class TensorTrain(Factored):
    """A weight of a two-dimensional convolution (out, in, h, w) as a train of four cores of ranks ``r``, ``s``, ``t``.

    ``value_oihw = sum_abc first_ia down_ahb across_bwc last_co``. ``rank`` is one number for all three, three of
    them, or the share of the weight's entries that the cores may have together. The projection is within ``sqrt(3)``
    of the least error; a weight of no larger ranks is kept to rounding. Weight decay acts on the cores.

    `F.conv2d` with one group is done without making the value, in eval too: a 1 x 1 convolution, one along each of both
    directions, and a 1 x 1 convolution; both agree to rounding.

    Errors:
        ValueError: a rank below 1, or a share that is not between 0 and 1. Weights of other than four dimensions are
            refused.

    Reference: Oseledets, "Tensor-train decomposition", 2011 (SIAM J. Sci. Comput. 33); Garipov et al., "Ultimate
    tensorization: compressing convolutional and FC layers alike", 2016 (arXiv:1611.03214).

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.randn(8, 6, 3, 3), TensorTrain(4))
        >>> {role: tuple(raw.shape) for role, raw in w.raws.items()}
        {'first': (6, 4), 'down': (4, 3, 4), 'across': (4, 3, 4), 'last': (4, 8)}
    """

    spec_name: ClassVar[str] = "tensor_train"
    roles: ClassVar[tuple[Role, ...]] = (Role("first"), Role("down"), Role("across"), Role("last"))

    def __init__(self, rank: Rank | Sequence[int]) -> None:
        super().__init__()
        self.stored = torch.float32
        if isinstance(rank, Sequence):
            require(len(rank) == 3, f"tensor_train needs one rank or three, got {rank!r}")
            self.given: tuple[Rank, ...] = tuple(rank_or_share("tensor_train", each) for each in rank)
            require(all(isinstance(each, int) for each in self.given), f"tensor_train needs three ranks, got {rank!r}")
        else:
            self.given = (rank_or_share("tensor_train", rank),)

    def settings(self) -> dict[str, object]:
        """The rank, or all three."""
        return {"rank": self.given if len(self.given) == 3 else self.given[0]}

    def why_not(self, site: Site) -> str | None:
        """It takes weights of four dimensions."""
        if site.shape is not None and (len(site.shape) != 4 or site.shape.numel() == 0):
            return (
                f"tensor_train needs a weight (out, in, h, w) with entries, got shape {tuple(site.shape)}; take "
                f"low_rank or tucker for others, or {exempt(site)}"
            )
        return None

    def ranks(self, shape: torch.Size) -> tuple[int, ...]:
        """Between the cores; no larger than what they could join."""
        out, into, high, wide = shape
        largest = (into, into * high, out)
        if isinstance(self.given[0], float):

            def at(scale: float) -> tuple[int, int, int]:
                side = max(1, round(scale * max(out, into)))
                return min(side, largest[0]), min(side, largest[1]), min(side, largest[2])

            def count(scale: float) -> int:
                r, s, t = at(scale)
                return into * r + r * high * s + s * wide * t + t * out

            return at(scaled_rank(self.given[0], shape.numel(), count))
        ranks = self.given if len(self.given) == 3 else self.given * 3
        return tuple(min(int(rank), most) for rank, most in zip(ranks, largest, strict=True))

    def unfoldings(self, value: Tensor) -> list[Tensor]:
        """Cut between each two cores."""
        ordered = value.movedim(0, -1)
        return [ordered.flatten(0, cut).flatten(1) for cut in range(3)]

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of the cores."""
        out, into, high, wide = shape
        r, s, t = self.ranks(shape)
        return torch.Size((into, r)), torch.Size((r, high, s)), torch.Size((s, wide, t)), torch.Size((t, out))

    def forward(self, first: Tensor, down: Tensor, across: Tensor, last: Tensor) -> Tensor:
        """The product of the cores."""
        product = torch.mm(first, down.flatten(1))
        product = torch.mm(product.reshape(-1, across.shape[0]), across.flatten(1))
        product = torch.mm(product.reshape(-1, last.shape[0]), last)
        sizes = [first.shape[0], down.shape[1], across.shape[1], last.shape[1]]
        return product.reshape(sizes).movedim(-1, 0).contiguous()

    def right_inverse(self, value: Tensor) -> Preimage:
        """The decomposition."""
        scaled, largest = scaled_to_one(in_double(value))
        cores = train(scaled.movedim(0, -1), self.ranks(value.shape))
        flat = (cores[0].squeeze(0), cores[1], cores[2], cores[3].squeeze(-1))
        return Preimage(self.fitting_product(flat, largest, value))

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        """The rule for `F.conv2d`."""
        return TRAIN.get(op)
