"""Spectral: the largest singular value of a weight is set, or capped."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.refusing import require, resolved_dim, whole_number, why_not_matrix
from computed.constraints.sigma_scaling import SigmaScaling, scaled_by_sigma
from computed.linalg import as_matrix, like_weight
from computed.singular_values import largest_singular_value, leading_vectors, power_steps
from computed.site import Site

# Singular values from which float32 squares safely; a raw outside is scaled into it when it is made.
SAFE = (1e-15, 1e15)


class Spectral(Described, IteratedConstraint):
    """The largest singular value is set to ``norm``, or capped at ``bound``; 1.0 where nothing is said.

    ``value = W * norm / s`` or ``W * min(1, bound / s)``, where ``s = uᵀ W v`` and ``W`` (m, n) is the weight
    with its rows along ``dim``: (out, in * k) for a convolution. A weight that is under the bound already is
    kept bit for bit.

    In training ``u`` (m) and ``v`` (n) take ``n_power_iterations`` steps of the power iteration with each
    evaluation, from where the last optimizer step left them, and are constants of the derivative; ``s`` is
    then an estimate from below. In eval they are converged: the largest singular value holds to 1e-3, and to
    about 1e-6 as a rule. This is the matrix's norm, which is not the operator norm of a convolution.

    Args:
        norm: what the largest singular value is set to.
        bound: what it is capped at; instead of ``norm``.
        n_power_iterations: steps with each evaluation in training.
        eps: a largest singular value below this counts as this, so that a raw of zeros gives zeros.
        dim: where rows run; by default 0, but 1 for transposed convolutions, as in torch.

    The projection scales the weight, which no other admissible weight beats in the spectral norm. It is
    computed in at least float32; ``u`` and ``v`` stay there under casts.

    Errors:
        ValueError: both ``norm`` and ``bound``, or numbers that are not positive.

    Reference: Miyato et al., "Spectral normalization for generative adversarial networks", 2018
    (arXiv:1802.05957), equation 8 and algorithm 1; for the cap, Gouk et al., "Regularisation of neural
    networks by enforcing Lipschitz continuity", 2018 (arXiv:1804.04368).

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
        >>> ComputedParameter.from_value(weight, Spectral(bound=2.0)).tolist()
        [[2.0, 0.0], [0.0, 0.5]]
    """

    spec_name: ClassVar[str] = "spectral"
    state_names: ClassVar[tuple[str, ...]] = ("u", "v")
    settles_from: ClassVar[tuple[str, ...]] = ("v",)
    bound: float | None
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
        require(
            norm is None or bound is None,
            f"spectral takes norm or bound, got norm={norm!r} and bound={bound!r}",
        )
        for name, number in (("norm", norm), ("bound", bound), ("eps", eps)):
            positive = number is None or 0 < number < math.inf
            require(positive, f"spectral needs a positive finite {name}, got {number!r}")
        self.bound = None if bound is None else float(bound)
        self.norm = 1.0 if norm is None else float(norm)
        self.n_power_iterations = whole_number("spectral: n_power_iterations", n_power_iterations)
        require(self.n_power_iterations > 0, f"spectral needs n_power_iterations >= 1, got {n_power_iterations!r}")
        self.eps = float(eps)
        self.dim = None if dim is None else whole_number("spectral: dim", dim)
        self.rows = self.dim or 0

    def settings(self) -> dict[str, object]:
        """Norm or bound, and what is not at its default."""
        given: dict[str, object] = {
            "n_power_iterations": self.n_power_iterations,
            "eps": self.eps,
            "dim": self.dim,
        }
        defaults = {"n_power_iterations": 1, "eps": 1e-12, "dim": None}
        others = {name: value for name, value in given.items() if value != defaults[name]}
        return ({"norm": self.norm} if self.bound is None else {"bound": self.bound}) | others

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix("spectral", site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def forward(self, raw: Tensor) -> Tensor:
        """The value in a graph: in training with state that a step commits, else with the settled one."""
        u, v = self.settled_u, self.settled_v
        if self.training:
            with torch.no_grad():
                matrix = as_matrix(raw.detach(), self.rows)
                u, v = power_steps(matrix, self.u, self.v, self.n_power_iterations)
                self.pending_u.copy_(u)
                self.pending_v.copy_(v)
                # a scripted module is told of no optimizer's step
                if torch.jit.is_scripting():  # type: ignore[attr-defined]
                    self.u.copy_(u)
                    self.v.copy_(v)
                    self.settled_u.copy_(u)
                    self.settled_v.copy_(v)
        bound = self.bound
        if bound is None:
            return scaled_by_sigma(raw, u, v, self.rows, self.norm, self.eps, False)
        return scaled_by_sigma(raw, u, v, self.rows, bound, self.eps, True)

    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The value for given ``u`` and ``v``."""
        u, v = state
        settings = (self.rows, self.target(), self.eps, self.bound is not None)
        value: Tensor = SigmaScaling.apply(raw, u, v, *settings)[0]  # type: ignore[no-untyped-call]
        return value

    def target(self) -> float:
        """The norm or the bound."""
        return self.norm if self.bound is None else self.bound

    def sets_norm(self, norm: float) -> bool:
        """Whether the largest singular value is set to ``norm``, and not capped."""
        return self.bound is None and self.norm == norm

    def next_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The committed vectors after one evaluation's power steps."""
        return power_steps(as_matrix(raw.detach(), self.rows), self.u, self.v, self.n_power_iterations)

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The converged vectors, from the committed ones as a start."""
        return leading_vectors(as_matrix(raw.detach(), self.rows), self.v)

    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """The numbers of rows and of columns."""
        return torch.Size((shape[self.rows],)), torch.Size((shape.numel() // shape[self.rows],))

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself, with converged state; a zero weight whose norm is set gets one of rank one.

        Only a weight whose numbers are so large or small that squares would not be numbers is scaled.
        """
        matrix = as_matrix(value, self.rows)
        u, v = leading_vectors(matrix, rounds=2)
        sigma = float(torch.dot(u, torch.mv(matrix, v)))
        low = 0.0 if self.bound is not None else max(SAFE[0], 1e3 * self.eps)
        if low <= sigma <= SAFE[1] or not math.isfinite(sigma):
            return Preimage((value,), (u, v))
        if sigma > 0:
            return Preimage((value * (self.target() / sigma),), (u, v))
        return Preimage((like_weight(self.target() * torch.outer(u, v), value, self.rows),), (u, v))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How much the largest singular value differs from the norm, or exceeds the bound, relatively."""
        ratio = largest_singular_value(as_matrix(value, self.rows)) / self.target()
        return abs(ratio - 1) if self.bound is None else max(0.0, ratio - 1)

    def tolerance(self, dtype: torch.dtype) -> float:
        """The accuracy of the settled state, or of the dtype."""
        return max(1e-3, float(torch.finfo(dtype).eps))

    def scales_up(self, value: Tensor) -> bool:
        """Whether the norm is set above the value's."""
        if self.bound is not None:
            return False
        matrix = as_matrix(value, self.rows)
        u, v = leading_vectors(matrix, rounds=2)
        return float(torch.dot(u, torch.mv(matrix, v))) < self.target() * (1 - self.tolerance(value.dtype))
