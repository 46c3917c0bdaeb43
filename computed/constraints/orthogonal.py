"""Orthogonal: the columns of a weight are orthonormal, or its rows where there are fewer of them."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, Preimage, state_dtype
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import resolved_dim, whole_number, why_not_matrix
from computed.linalg import (
    as_matrix,
    cayley_retraction,
    in_double,
    like_weight,
    newton_schulz_correction,
    orthonormality_error,
    polar_factor,
)
from computed.site import Site

# How long a step may be, in units of the root of the number of columns. It lets all columns turn by 165
# degrees at once, and float32 still inverts what the retraction inverts.
REACH = 16.0


class Orthogonal(Described, IteratedConstraint):
    """Orthonormal columns, or rows where there are fewer of them: ``QᵀQ = I`` for ``Q`` (m, n), m >= n.

    ``value = Q(raw - base)``: a step from a fixed orthonormal ``base`` along the tangent part of the
    difference, by the Cayley retraction (`computed.linalg.cayley_retraction`). To first order the value moves
    as the raw does. At insertion both are the weight's polar factor, which is the nearest orthonormal matrix;
    a weight that is orthonormal already is kept bit for bit. Every raw gives an orthonormal value, zero and
    singular ones too, and the map is smooth. Without a base there is no such map: orthonormal matrices cannot
    be contracted to one of them.

    The matrix is (out, in * k) for a convolution; ``dim`` says where rows run where the host does not.
    Computed in at least float32, accurate to about ``2e-6`` there; ``base`` stays in float32 under casts.

    Weight decay turns the value back towards ``base``, and leaves it orthonormal.

    Reference: Wen and Yin, "A feasible method for optimization with orthogonality constraints", 2013, lemma 4;
    for the fixed base, Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds", 2019
    (arXiv:1909.09501).

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> q = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, -3.0]]), Orthogonal())
        >>> (q.detach() + 0.0).tolist()
        [[1.0, 0.0], [0.0, -1.0]]
    """

    spec_name: ClassVar[str] = "orthogonal"
    state_names: ClassVar[tuple[str, ...]] = ("base",)
    base: Tensor

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__()
        self.dim = None if dim is None else whole_number("orthogonal: dim", dim)
        self.rows = self.dim or 0
        self.reach = REACH

    def settings(self) -> dict[str, object]:
        """Where rows run, unless the weight is a matrix."""
        return {} if self.dim is None else {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix("orthogonal", site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def forward(self, raw: Tensor) -> Tensor:
        """The value in a graph."""
        return self.from_base(raw, self.base)

    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The value for a given base."""
        return self.from_base(raw, state[0])

    def from_base(self, raw: Tensor, base: Tensor) -> Tensor:
        """Step from ``base`` towards ``raw``, no further than `REACH`, and take rounding errors back."""
        start = as_matrix(base, self.rows)
        step = as_matrix(raw, self.rows) - start
        wide = start.shape[0] < start.shape[1]
        if wide:
            start, step = start.t(), step.t()
        length = step.square().sum() / start.shape[1]
        step = step * torch.rsqrt(1 + length / self.reach**2)
        value = cayley_retraction(start, step)
        # errors grow with the step; without one the base is kept as it is (the length may be infinite)
        value = value + (newton_schulz_correction(value) * (1 - 0.01 / (0.01 + length))).detach()
        return like_weight(value.t() if wide else value, raw, self.rows)

    def next_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The base: it stays."""
        return (self.base,)

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The base: it stays."""
        return (self.base,)

    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight."""
        return (shape,)

    def allocate_state(self, shape: torch.Size, like: Tensor) -> None:
        """Register one buffer: what does not move needs no pending and no settled copy."""
        self.register_buffer("base", torch.zeros(shape, dtype=state_dtype(like.dtype), device=like.device))

    def state(self, prefix: str = "") -> tuple[Tensor, ...]:
        """The base, whichever set is asked for."""
        return (self.base,)

    def _write(self, prefix: str, state: Sequence[Tensor]) -> None:
        # committing the base to itself would copy it at every step and end the hold
        if not prefix and state[0] is not self.base:
            super()._write(prefix, state)

    def _apply(self, fn: Any, recurse: bool = True) -> "Orthogonal":
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

    def right_inverse(self, value: Tensor) -> Preimage:
        """The polar factor as raw and base; the value itself where it is orthonormal."""
        matrix = as_matrix(value, self.rows)
        if not self._is_orthonormal(matrix):
            value = like_weight(polar_factor(matrix), value, self.rows)
        return Preimage((value,), (value.clone(),))

    def _is_orthonormal(self, matrix: Tensor) -> bool:
        return orthonormality_error(in_double(matrix)) <= 16 * torch.finfo(matrix.dtype).eps

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest entry of ``|QᵀQ - I|``, in float64."""
        return worst(torch.tensor(orthonormality_error(in_double(as_matrix(value, self.rows)))))

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of the entries, and of the retraction."""
        return 2 * float(torch.finfo(dtype).eps) + 64 * float(torch.finfo(state_dtype(dtype)).eps)
