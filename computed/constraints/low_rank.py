"""LowRank: a weight that is the product of two thin matrices."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.describing import Described
from computed.constraints.factored_ops import LOW_RANK
from computed.constraints.refusing import require, resolved_dim, whole_number, why_not_matrix
from computed.constraints.stored import Stored
from computed.linalg import as_matrix, in_double, scaled_to_one
from computed.site import Site


class LowRank(Described, Stored):
    """A weight of rank ``rank`` or less: ``value = B A`` with ``A`` (rank, in), ``B`` (out, rank).

    For a convolution (out, in, k): ``A`` (rank, in, k). The projection is the nearest point, by the largest singular
    values, which both factors share evenly; a weight whose rank is no larger is kept to rounding. Weight decay acts on
    both factors, and so lowers all singular values by one amount.

    `F.linear`, `F.conv1d`, `F.conv2d` and `F.conv3d` (with one group) are done without making the value, in eval too:
    ``(x Aᵀ) Bᵀ``, with ``rank (out + in)`` instead of ``out in`` products; both agree to rounding.

    Args:
        rank: any from 1; above the smaller side of the weight it counts as that.
        dim: where rows run, for a weight of three or more dimensions whose host is no convolution.

    Errors:
        ValueError: ``rank`` below 1.

    Reference: Eckart and Young, "The approximation of one matrix by another of lower rank", 1936.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), LowRank(1))
        >>> {role: tuple(raw.shape) for role, raw in w.raws.items()}
        {'A': (1, 2), 'B': (2, 1)}
    """

    spec_name: ClassVar[str] = "low_rank"
    roles: ClassVar[tuple[Role, ...]] = (Role("A"), Role("B"))
    factored_in_eval: ClassVar[bool] = True

    def __init__(self, rank: int, *, dim: int | None = None) -> None:
        super().__init__()
        self.stored = torch.float32
        self.rank = whole_number("low_rank: rank", rank)
        require(self.rank >= 1, f"low_rank needs a rank of 1 or more, got {rank!r}")
        self.dim = None if dim is None else whole_number("low_rank: dim", dim)
        self.rows = self.dim or 0

    def settings(self) -> dict[str, object]:
        """The rank, and where rows run if that was given or found."""
        given: dict[str, object] = {"rank": self.rank}
        return given if self.dim is None else given | {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix("low_rank", site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        super().bind(site)
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``A`` and ``B``."""
        rows = self.rows % len(shape)
        rest = [size for dim, size in enumerate(shape) if dim != rows]
        rank = min(self.rank, shape[rows], math.prod(rest))
        return torch.Size((rank, *rest)), torch.Size((shape[rows], rank))

    def forward(self, A: Tensor, B: Tensor) -> Tensor:
        """The product."""
        product = torch.mm(B, A.flatten(1))
        sizes = list(A.shape)
        sizes[0] = B.shape[0]
        return product.reshape(sizes).movedim(0, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The largest singular values, and their vectors."""
        thin, tall = self.raw_shapes(value.shape)
        scaled, largest = scaled_to_one(in_double(as_matrix(value, self.rows)))
        u, s, vh = torch.linalg.svd(scaled, full_matrices=False)
        root = (s[: tall[1]] * largest).sqrt()
        right, left = root.unsqueeze(1) * vh[: tall[1]], u[:, : tall[1]] * root
        fitting = self.fitting(right, (left @ right).abs().amax()).reshape(thin)
        return Preimage((fitting.to(value).contiguous(), left.to(value).contiguous()))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The first singular value beyond the rank, relative to the largest."""
        if not bool(value.isfinite().all()):
            return math.inf
        scaled, largest = scaled_to_one(in_double(as_matrix(value, self.rows)))
        s = largest * torch.linalg.svdvals(scaled)
        return 0.0 if len(s) <= self.rank else float(s[self.rank] / s[0].clamp_min(torch.finfo(value.dtype).tiny))

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        """The rules for `F.linear` and convolutions, whose rows run along the first dimension."""
        return LOW_RANK.get(op) if self.rows == 0 else None
