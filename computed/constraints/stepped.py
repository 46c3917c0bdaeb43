"""What constraints on orthonormal columns share: a base, and a step from it."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, Preimage, state_dtype
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import require, resolved_dim, whole_number, why_not_matrix
from computed.exponential_map import exponential_retraction
from computed.linalg import as_matrix, in_double, like_weight, orthonormality_error, polar_factor
from computed.retractions import (
    at_base,
    cayley_retraction,
    drifts,
    polar_retraction,
    qr_retraction,
    taken_back,
    taken_back_whole,
)
from computed.site import Site

# How long a step may be, in units of the root of the number of columns. It lets all columns turn by 165
# degrees at once, and float32 still inverts what the retraction inverts.
REACH = 16.0
MAPS = ("cayley", "exp", "qr", "newton_schulz")


def map_of(name: str, given: object) -> str:
    """The name of a retraction; raises ValueError."""
    require(given in MAPS, f"{name} knows the maps {', '.join(map(repr, MAPS))}, got {given!r}")
    return str(given)


def retracted(base: Tensor, delta: Tensor, kind: str) -> Tensor:
    """From ``base`` along ``delta`` by the retraction of a name; for TorchScript too."""
    if kind == "exp":
        return exponential_retraction(base, delta)
    if kind == "qr":
        return qr_retraction(base, delta)
    if kind == "newton_schulz":
        return polar_retraction(base, delta)
    return cayley_retraction(base, delta)


class OnOrthonormal(Described, IteratedConstraint, abc.ABC):
    """Orthonormal columns, or rows where there are fewer: a step from a base, which is state.

    A subclass says how the step is taken, and where the base goes.
    """

    state_names: ClassVar[tuple[str, ...]] = ("base",)
    base: Tensor

    def __init__(self, dim: int | None, kind: str = "cayley", *, corrects: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.corrects = corrects
        self.dim = None if dim is None else whole_number(f"{self.spec_name}: dim", dim)
        self.rows = self.dim or 0
        self.reach = REACH

    @abc.abstractmethod
    def stepped(self, base: Tensor, delta: Tensor) -> Tensor:
        """From ``base`` (m, n; m >= n) along ``delta``."""

    @abc.abstractmethod
    def own_settings(self) -> dict[str, object]:
        """The settings beside the dimension that are not at their defaults."""

    @abc.abstractmethod
    def nearest(self, matrix: Tensor) -> Tensor:
        """The point of the set that is nearest to a matrix."""

    def settings(self) -> dict[str, object]:
        """What is not at its default, and where rows run, unless the weight is a matrix."""
        return self.own_settings() | ({} if self.dim is None else {"dim": self.dim})

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix(self.spec_name, site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def moved(self, raw: Tensor, base: Tensor, origin: Tensor) -> Tensor:
        """Step from ``base`` by ``raw - origin``, no further than `REACH`, and take errors back that grow with it."""
        start = as_matrix(base, self.rows)
        step = as_matrix(raw, self.rows) - as_matrix(origin, self.rows)
        wide = start.shape[0] < start.shape[1]
        if wide:
            start, step = start.t(), step.t()
        length = step.square().sum() / start.shape[1]
        step = step * torch.rsqrt(1 + length / self.reach**2)
        value = self.stepped(start, step)
        if self.kind != "cayley":
            value = at_base(value, start, length)  # the Cayley map is exact there
        if self.corrects:
            value = taken_back_whole(value, length)
        elif drifts(start, self.kind):
            value = taken_back(value, length)
        return like_weight(value.t() if wide else value, raw, self.rows)

    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight."""
        return tuple(shape for _ in self.state_names)

    def _apply(self, fn: Any, recurse: bool = True) -> "OnOrthonormal":
        before = self._buffers.get("base")
        super()._apply(fn, recurse)
        if before is not None and self.base.dtype != before.dtype:
            self._repair()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._repair()

    def _repair(self) -> None:
        """Make a base orthonormal again that came from a narrower dtype."""
        base = self._buffers.get("base")
        if base is None or base.is_meta:
            return
        matrix = as_matrix(base, self.rows)
        error = orthonormality_error(matrix)
        if 64 * torch.finfo(base.dtype).eps < error < 0.5:
            self._buffers["base"] = like_weight(polar_factor(matrix), base, self.rows)

    def point(self, value: Tensor) -> Tensor:
        """The nearest point as a weight; the value itself, bit for bit, where it is in the set."""
        matrix = as_matrix(value, self.rows)
        if self.excess(in_double(matrix)) <= 16 * torch.finfo(value.dtype).eps:
            return value
        return like_weight(self.nearest(matrix), value, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The nearest point as raw, and as every base; the value itself where it is in the set."""
        found = self.point(value)
        return Preimage((found,), tuple(found.clone() for _ in self.state_names))

    def excess(self, matrix: Tensor) -> float:
        """The largest entry of ``|QᵀQ - I|``."""
        return orthonormality_error(matrix)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest entry of ``|QᵀQ - I|``, in float64."""
        return worst(torch.tensor(self.excess(in_double(as_matrix(value, self.rows)))))

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of the entries, and of the retraction."""
        return 2 * float(torch.finfo(dtype).eps) + 64 * float(torch.finfo(state_dtype(dtype)).eps)


class FromBase(OnOrthonormal, abc.ABC):
    """``value = R(base, raw - base)`` with a base that stays where the weight was at insertion."""

    state_moves: ClassVar[bool] = False

    def forward(self, raw: Tensor) -> Tensor:
        """The value in a graph."""
        return self.moved(raw, self.base, self.base)

    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The value for a given base."""
        return self.moved(raw, state[0], state[0])

    def next_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The base: it stays."""
        return (self.base,)

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The base: it stays."""
        return (self.base,)

    def allocate_state(self, shape: torch.Size, like: Tensor) -> None:
        """Register one buffer: what does not move needs no pending and no settled copy."""
        self.register_buffer("base", torch.zeros(shape, dtype=state_dtype(like.dtype), device=like.device))

    def state(self, prefix: str = "") -> tuple[Tensor, ...]:
        """The base, whichever set is asked for."""
        return (self.base,)

    def writes(self, prefix: str, state: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The base, where it is another one: to commit it to itself would copy it at every step and end the hold."""
        return super().writes(prefix, state) if not prefix and state[0] is not self.base else []


class ByMap(FromBase, abc.ABC):
    """From the base by the retraction of a name."""

    def __init__(self, map: str, dim: int | None) -> None:
        super().__init__(dim, map_of(self.spec_name, map))
        self.map = self.kind

    def own_settings(self) -> dict[str, object]:
        """The map."""
        return {} if self.map == "cayley" else {"map": self.map}

    def stepped(self, base: Tensor, delta: Tensor) -> Tensor:
        """By the map."""
        return retracted(base, delta, self.map)
