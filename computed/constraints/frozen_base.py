"""What adapters share: the weight as it is, fixed, read as a matrix."""

import abc
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Role
from computed.constraints.describing import Described
from computed.constraints.refusing import require, resolved_dim, whole_number, why_not_matrix
from computed.linalg import like_weight
from computed.randomness import generator_for, kaiming_uniform
from computed.site import Site

BASE = Role("base", trained=False)


def added(*names: str) -> tuple[Role, ...]:
    """The base, and raws that train even where the weight was frozen."""
    return (BASE, *(Role(name, added=True) for name in names))


class OnBase(Described, Constraint, abc.ABC):
    """A change of a fixed base, which is read as a matrix with rows along ``dim``; it starts at the base itself."""

    roles: ClassVar[tuple[Role, ...]] = (BASE,)

    def __init__(self, seed: int | None, dim: int | None) -> None:
        super().__init__()
        self.seed = None if seed is None else whole_number(f"{self.spec_name}: seed", seed)
        self.dim = None if dim is None else whole_number(f"{self.spec_name}: dim", dim)
        self.rows = self.dim or 0

    @abc.abstractmethod
    def own_settings(self) -> dict[str, object]:
        """The arguments beside ``seed`` and ``dim``; None stands for one that was not given."""

    def settings(self) -> dict[str, object]:
        """What was given."""
        given = self.own_settings() | {"seed": self.seed, "dim": self.dim}
        return {name: value for name, value in given.items() if value is not None}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix(self.spec_name, site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        super().bind(site)
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def keeps_weight(self) -> bool:
        """The base is the weight."""
        return True

    def drawn(self, value: Tensor, role: str, shape: torch.Size) -> Tensor:
        """Numbers of a role, in the dtype of ``value``."""
        return kaiming_uniform(shape, generator_for(value, role, self.seed), value)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every value is a base without a change."""
        return 0.0


def rank_of(name: str, rank: object) -> int:
    """``rank`` as a number of 1 or more; raises ValueError."""
    found = whole_number(f"{name}: rank", rank)
    require(found >= 1, f"{name} needs a rank of 1 or more, got {rank!r}")
    return found


class Scaled(OnBase):
    """An adapter of some rank with the scale ``alpha / rank``, or ``alpha / sqrt(rank)`` with ``rslora``."""

    alpha: float | None

    def __init__(
        self, rank: int, alpha: float | None, seed: int | None, dim: int | None, *, rslora: bool = False
    ) -> None:
        super().__init__(seed, dim)
        self.rank = rank_of(self.spec_name, rank)
        require(alpha is None or math.isfinite(alpha), f"{self.spec_name} needs a finite alpha, got {alpha!r}")
        require(alpha is not None or not rslora, f"{self.spec_name} with rslora=True scales alpha, and needs one")
        self.alpha = None if alpha is None else float(alpha)
        self.rslora = bool(rslora)

    def own_settings(self) -> dict[str, object]:
        """Rank, alpha, and how it is scaled where that is not by default."""
        return {"rank": self.rank, "alpha": self.alpha, "rslora": self.rslora or None}

    def scale(self) -> float:
        """``alpha / rank`` or ``alpha / sqrt(rank)``, 1 where no alpha was given."""
        alpha = self.alpha
        if alpha is None:
            return 1.0
        return alpha / math.sqrt(self.rank) if self.rslora else alpha / self.rank


def sides(shape: torch.Size, rows: int) -> tuple[int, int]:
    """The sides of the matrix that a weight is read as."""
    count = shape[rows % len(shape)]
    return count, shape.numel() // count


def less(base: Tensor, negative: Tensor, rows: int) -> Tensor:
    """``base - negative`` for a matrix: adding a zero would clear the sign of a negative zero."""
    return base - like_weight(negative, base, rows)


def plus(matrix: Tensor, change: Tensor) -> Tensor:
    """The sum, with zeros of the matrix keeping their signs where the change is zero."""
    return matrix - torch.where(change == 0, torch.zeros_like(change), -change)
