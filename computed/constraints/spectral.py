"""Spectral: the largest singular value of a weight is set, or capped."""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import State
from computed.constraints.by_shape import in_places, places_by_shape, stacked
from computed.constraints.refusing import resolved_dim, whole_number, why_not_matrix
from computed.constraints.sigma_target import SigmaTarget
from computed.constraints.sigma_together import ScaledGroups, ScaledMany, ScaledOne
from computed.linalg import as_matrix
from computed.memory_order import columns_in_memory, matrix_by, vector_back, vector_by
from computed.power_iteration import is_small, power_step, power_step_of_large, power_step_of_small
from computed.singular_values import largest_singular_value, leading_vectors
from computed.site import Site
from computed.together import Evaluated, IteratedTogether
from computed.watching import as_it_is


class Spectral(SigmaTarget, IteratedTogether):
    """The largest singular value is set to ``norm``, or capped at ``bound``; 1.0 where nothing is said.

    ``value = W * norm / s`` or ``W * min(1, bound / s)``, where ``s = uᵀ W v`` and ``W`` (m, n) is the weight
    with its rows along ``dim``: (out, in * k) for a convolution. A weight that is under the bound already is
    kept bit for bit.

    In training ``u`` (m) and ``v`` (n) take ``n_power_iterations`` steps of the power iteration with each
    evaluation, from where the last optimizer step left them, and are constants of the derivative; ``s`` is
    then an estimate from below. In eval they are converged: the largest singular value holds to 1e-3, and to
    about 1e-6 as a rule. This is the matrix's norm, which is not that of a convolution as an operator, commonly 1.5
    to 2.5 times it: `OperatorScale` (``operator_norm``) is.

    Args:
        norm: what the largest singular value is set to.
        bound: what it is capped at; instead of ``norm``.
        n_power_iterations: steps with each evaluation in training.
        eps: a largest singular value below this counts as this, so that a raw of zeros gives zeros.
        dim: where rows run; by default 0, but 1 for transposed convolutions, as in torch.

    Weight decay shrinks the raw: a norm that is set stays, a value under its bound shrinks.

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
        super().__init__(norm, bound, n_power_iterations, eps)
        self.dim = None if dim is None else whole_number("spectral: dim", dim)
        self.rows = self.dim or 0

    def described_beside(self) -> dict[str, object]:
        """The dimension, where one was given or found."""
        return {} if self.dim is None else {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix("spectral", site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def forward(self, raw: Tensor) -> Tensor:
        """The value in a graph."""
        return raw * self.scale_in_graph(raw)

    def scale_in_graph(self, raw: Tensor) -> Tensor:
        """The scale in a graph: in training with state that a step commits, else with the settled one."""
        u, v = self.settled_u, self.settled_v
        if self.training:
            with torch.no_grad():
                matrix = as_matrix(raw.detach(), self.rows)
                u, v, _ = power_step(matrix, self.u, self.v, self.n_power_iterations)
                self.pending_u.copy_(u)
                self.pending_v.copy_(v)
                # a scripted module is told of no optimizer's step; torch does not say that it exports is_scripting, and
                # TorchScript takes no second comment behind that
                if torch.jit.is_scripting():  # type: ignore[attr-defined]
                    self.u.copy_(u)
                    self.v.copy_(v)
                    self.settled_u.copy_(u)
                    self.settled_v.copy_(v)
        return self.scale_for(raw, u, v)

    def stepped(self, raw: Tensor) -> tuple[State, Tensor]:
        """The committed vectors after one evaluation's power steps, and the length that the last one found."""
        weight = raw.detach()
        order = columns_in_memory(weight, self.rows)
        matrix, v = matrix_by(weight, self.rows, order), vector_by(self.v, weight, self.rows, order)
        if is_small(*matrix.shape):
            found = power_step_of_small(matrix[None], self.u[None], v[None], self.n_power_iterations)
            u, v, sigma = (each[0] for each in found)
        else:
            u, v, sigma = power_step_of_large(matrix, self.u, v, self.n_power_iterations)
        return (u, vector_back(v, weight, self.rows, order)), sigma

    def kind(self) -> Hashable:
        """The settings that scales depend on, how rows run, and the number of steps."""
        return self.target(), self.eps, self.bound is not None, self.rows, self.n_power_iterations

    def takes_many(self, raw: Tensor) -> bool:
        """Small weights whose matrices lie in memory as they are."""
        rows = raw.shape[self.rows]
        return is_small(rows, raw.numel() // rows) and columns_in_memory(raw, self.rows) is None

    def evaluate_together(self, those: Sequence["Spectral"], given: Sequence[Sequence[Tensor]]) -> Evaluated:
        """The scaled weights: one power step each, and what it finds is the norm."""
        raws = [raw for (raw,) in given]
        if not self.takes_many(raws[0]):
            state, scale, slope = self.scale_stepped(raws)
            value = raws[0] * scale
            one = ScaledOne(as_it_is(value), self.rows, scale, slope, *state)
            return Evaluated([value], [state], one)
        places = places_by_shape(raws)
        if len(places) == 1:
            return self._evaluate_many(those, raws)
        parts = [self._evaluate_many([those[i] for i in where], [raws[i] for i in where]) for where in places]
        values, states, kept = zip(*parts, strict=True)
        return Evaluated(in_places(places, values), in_places(places, states), ScaledGroups(places, kept))

    def _evaluate_many(self, those: Sequence["Spectral"], raws: Sequence[Tensor]) -> Evaluated:
        """Those of one shape."""
        matrices = stacked(raws, self.rows)
        u, v = map(torch.stack, zip(*[one.state() for one in those], strict=True))
        u, v, sigmas = power_step_of_small(matrices, u, v, self.n_power_iterations)
        many = ScaledMany(matrices, self.rows, *self.scales_for(sigmas), u, v)
        return Evaluated(many.values(raws), list(zip(u.unbind(), v.unbind(), strict=True)), many)

    def gradients_together(self, kept: Any, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """``s G + s' <G, W> u vᵀ`` of each."""
        found: Sequence[Tensor | None] = kept.gradients(cotangents)
        return found

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The converged vectors, from the committed ones as a start."""
        return leading_vectors(as_matrix(raw.detach(), self.rows), self.v)

    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """The numbers of rows and of columns."""
        return torch.Size((shape[self.rows],)), torch.Size((shape.numel() // shape[self.rows],))

    def cold_state(self, value: Tensor) -> tuple[Tensor, ...]:
        """The converged vectors, from a fixed start."""
        return leading_vectors(as_matrix(value, self.rows), rounds=2)

    def certain(self, value: Tensor) -> float:
        """What is measured: it is exact."""
        return self.measured(value)

    def measured(self, value: Tensor) -> float:
        """The largest singular value of the weight as a matrix."""
        return largest_singular_value(as_matrix(value, self.rows))
