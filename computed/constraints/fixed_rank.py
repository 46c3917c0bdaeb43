"""FixedRank and Invertible: a rank that is neither exceeded nor lost."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraints.frames import Frames
from computed.constraints.refusing import require, whole_number, why_not_square
from computed.linalg import as_matrix, in_double, scaled_to_one
from computed.site import Site


class FixedRank(Frames):
    """A weight of rank ``rank``, no more and no less: ``value = U diag(s) Vᵀ``, ``s`` from ``size / cond`` to ``size``.

    ``U`` (out, rank) and ``V`` (in, rank) have orthonormal columns: those of the weight, turned by a Cayley retraction
    along the raws ``turn_left`` and ``turn_right``. Values and their common size train by a sigmoid and an exponential,
    so none of them can vanish, which the factors of `LowRank` (``low_rank``) can. At insertion the value is the
    nearest matrix of the rank; singular values of less than ``1 / cond`` of the largest are raised to that, at least
    64 eps of the dtype that the weight is stored in. A weight that is inside is kept to rounding.

    For a convolution the matrix is (out, in * k); ``dim`` says where rows run where the host does not. Weight decay
    turns the frames back, and moves values to the middle of their range.

    Errors:
        ValueError: ``rank`` below 1, ``cond`` not above 1.

    Reference: Eckart and Young, "The approximation of one matrix by another of lower rank", 1936; for the form,
    Lezcano-Casado's ``geotorch.FixedRank``.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), FixedRank(1))
        >>> [[round(entry, 4) for entry in row] for row in w.tolist()]
        [[2.0, 0.0], [0.0, 0.0]]
    """

    spec_name: ClassVar[str] = "fixed_rank"

    def __init__(self, rank: int, *, cond: float = 1e3, dim: int | None = None) -> None:
        super().__init__(cond, dim)
        self.rank = whole_number("fixed_rank: rank", rank)
        require(self.rank >= 1, f"fixed_rank needs a rank of 1 or more, got {rank!r}")

    def own_settings(self) -> dict[str, object]:
        """The rank."""
        return {"rank": self.rank}

    def rank_for(self, out: int, width: int) -> int:
        """The rank, or the smaller side."""
        return min(self.rank, out, width)

    def oriented(self, u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor]:
        """As they are."""
        return u, s


class Invertible(Frames):
    """A square weight with a positive determinant, and a condition number below ``cond``.

    ``value = U diag(s) Vᵀ`` as for `FixedRank`, with ``det U det V = 1``, which the Cayley retraction keeps, and ``s
    > 0``: so ``det > 0`` for every raw, by enough that rounding leaves it so. The set has one part: a weight with a
    negative determinant is moved to the nearest matrix at its border, whose smallest singular value is zero, and from
    there inside. A weight that is inside is kept to rounding. Weight decay as for `FixedRank`.

    Errors:
        ValueError: ``cond`` not above 1. A weight that is not square is refused.

    Reference: Lezcano-Casado's ``geotorch.GLp``, which says that determinants are positive and lets both signs pass.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), Invertible(cond=100.0))
        >>> [[round(entry, 4) + 0.0 for entry in row] for row in w.tolist()]
        [[2.0, 0.0], [0.0, 0.02]]
    """

    spec_name: ClassVar[str] = "invertible"

    def __init__(self, *, cond: float = 1e3, dim: int | None = None) -> None:
        super().__init__(cond, dim)

    def own_settings(self) -> dict[str, object]:
        """None."""
        return {}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a square matrix."""
        return why_not_square("invertible", site, self.dim)

    def rank_for(self, out: int, width: int) -> int:
        """Full."""
        return out

    def oriented(self, u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor]:
        """With a positive determinant: the smallest value, if need be, goes to zero with its vector turned round."""
        if bool(torch.linalg.det(u) * torch.linalg.det(vh) > 0):
            return u, s
        u, s = u.clone(), s.clone()
        u[:, -1].neg_()
        s[-1] = 0.0
        return u, s

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """2 where the determinant is not positive; else 1 where a singular value is too small."""
        if bool(value.isfinite().all()):
            sign = torch.linalg.slogdet(scaled_to_one(in_double(as_matrix(value, self.rows)))[0])[0]
            if bool(sign <= 0):
                return 2.0
        return super().violation(value, raws)
