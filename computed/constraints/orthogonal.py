"""Orthogonal: the columns of a weight are orthonormal, or its rows where there are fewer of them."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, Preimage, state_dtype
from computed.constraints.settings import Described, resolved_dim, why_not_matrix
from computed.linalg import as_matrix, cayley_retraction, like_weight, orthonormality_error, polar_factor
from computed.site import Site


class Orthogonal(Described, IteratedConstraint):
    """Orthonormal columns, or rows where there are fewer of them."""

    spec_name: ClassVar[str] = "orthogonal"
    state_names: ClassVar[tuple[str, ...]] = ("base",)
    base: Tensor

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def settings(self) -> dict[str, object]:
        return {} if self.dim is None else {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        return why_not_matrix("orthogonal", site, self.dim)

    def bind(self, site: Site) -> None:
        self.dim = resolved_dim(site, self.dim)

    def forward(self, raw: Tensor) -> Tensor:
        return self.moved(raw, self.base)

    def moved(self, raw: Tensor, base: Tensor) -> Tensor:
        dim = self.dim
        rows = 0 if dim is None else dim
        start = as_matrix(base, rows)
        delta = as_matrix(raw, rows) - start
        delta = delta * torch.rsqrt(1 + delta.square().sum() / (1024 * min(start.shape[0], start.shape[1])))
        if start.shape[0] < start.shape[1]:
            return like_weight(cayley_retraction(start.t(), delta.t()).t(), raw, rows)
        return like_weight(cayley_retraction(start, delta), raw, rows)

    def next_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (self.base,)

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (self.base,)

    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        return self.moved(raw, state[0])

    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        return (shape,)

    def allocate_state(self, shape: torch.Size, like: Tensor) -> None:
        self.register_buffer("base", torch.zeros(shape, dtype=state_dtype(like.dtype), device=like.device))

    def state(self, prefix: str = "") -> tuple[Tensor, ...]:
        return (self.base,)

    def _write(self, prefix: str, state: Sequence[Tensor]) -> None:
        if not prefix and state[0] is not self.base:
            super()._write(prefix, state)

    def right_inverse(self, value: Tensor) -> Preimage:
        rows = self.dim or 0
        matrix = as_matrix(value, rows)
        if orthonormality_error(matrix) > 8 * torch.finfo(value.dtype).eps:
            value = like_weight(polar_factor(matrix), value, rows).contiguous()
        return Preimage((value,), (value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return orthonormality_error(as_matrix(value, self.dim or 0))

    def tolerance(self, dtype: torch.dtype) -> float:
        return 2 * float(torch.finfo(dtype).eps) + 64 * float(torch.finfo(state_dtype(dtype)).eps)
