"""Spectral: the largest singular value of a weight is set, or capped."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, Preimage
from computed.constraints.settings import Described, require, resolved_dim, why_not_matrix
from computed.linalg import as_matrix
from computed.singular_values import largest_singular_value, leading_vectors, power_steps
from computed.site import Site


class Spectral(Described, IteratedConstraint):
    """The largest singular value ``s`` of a weight ``W`` is set to ``norm``, or capped at ``bound``.

    ``W * norm / s`` or ``W * min(1, bound / s)``.
    """

    spec_name: ClassVar[str] = "spectral"
    state_names: ClassVar[tuple[str, ...]] = ("u", "v")
    u: Tensor
    v: Tensor
    pending_u: Tensor
    pending_v: Tensor
    settled_u: Tensor
    settled_v: Tensor

    def __init__(
        self,
        norm: float | None = None,
        *,
        bound: float | None = None,
        n_power_iterations: int = 1,
        eps: float = 1e-12,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        require(norm is None or bound is None, f"spectral takes norm or bound, got norm={norm!r} and bound={bound!r}")
        target = bound if bound is not None else 1.0 if norm is None else norm
        require(0 < target < math.inf, f"spectral needs a positive finite number, got {target!r}")
        require(
            isinstance(n_power_iterations, int) and n_power_iterations > 0,
            f"spectral needs n_power_iterations of 1 or more, got {n_power_iterations!r}",
        )
        require(eps > 0, f"spectral needs a positive eps, got {eps!r}")
        self.target = float(target)
        self.caps = bound is not None
        self.n_power_iterations = n_power_iterations
        self.eps = float(eps)
        self.dim = dim

    def settings(self) -> dict[str, object]:
        found: dict[str, object] = {"bound" if self.caps else "norm": self.target}
        if self.n_power_iterations != 1:
            found["n_power_iterations"] = self.n_power_iterations
        if self.eps != 1e-12:
            found["eps"] = self.eps
        if self.dim is not None:
            found["dim"] = self.dim
        return found

    def why_not(self, site: Site) -> str | None:
        return why_not_matrix("spectral", site, self.dim)

    def bind(self, site: Site) -> None:
        self.dim = resolved_dim(site, self.dim)

    def matrix(self, raw: Tensor) -> Tensor:
        dim = self.dim
        return as_matrix(raw, 0 if dim is None else dim)

    def forward(self, raw: Tensor) -> Tensor:
        matrix = self.matrix(raw)
        u, v = self.settled_u, self.settled_v
        if self.training:
            with torch.no_grad():
                u, v = power_steps(matrix.detach(), self.u, self.v, self.n_power_iterations)
                self.pending_u.copy_(u)
                self.pending_v.copy_(v)
        return self.scaled(raw, u, v)

    def scaled(self, raw: Tensor, u: Tensor, v: Tensor) -> Tensor:
        sigma = torch.dot(u, torch.mv(self.matrix(raw), v))
        scale = self.target / sigma.clamp_min(self.eps)
        if self.caps:
            slack = 2e-6 if raw.dtype == torch.float32 else 4e-15
            scale = torch.where(sigma > self.target * (1 + slack), scale, 1.0)
        return raw * scale

    def next_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        return power_steps(self.matrix(raw.detach()), self.u, self.v, self.n_power_iterations)

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        return leading_vectors(self.matrix(raw.detach()))

    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        return self.scaled(raw, state[0], state[1])

    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        rows = shape[self.dim or 0]
        return torch.Size((rows,)), torch.Size((shape.numel() // rows,))

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,), leading_vectors(self.matrix(value)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        ratio = largest_singular_value(self.matrix(value)) / self.target
        return max(0.0, ratio - 1) if self.caps else abs(ratio - 1)

    def tolerance(self, dtype: torch.dtype) -> float:
        return max(1e-3, float(torch.finfo(dtype).eps))

    def scales_up(self, value: Tensor) -> bool:
        return not self.caps and largest_singular_value(self.matrix(value)) < self.target * (1 - 1e-3)
