"""A largest singular value that is set, or capped: what constraints by a matrix's and by an operator's norm share."""

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, Preimage, State
from computed.constraints.describing import Described
from computed.constraints.refusing import require, whole_number
from computed.constraints.sigma_scaling import (
    SigmaScaling,
    scale_and_slope,
    scale_of,
    scales_and_slopes,
    sigma_along,
)
from computed.linalg import as_matrix, like_weight
from computed.memory_order import add_outer_
from computed.scaled import Number, Scaled, times

# Singular values from which float32 squares safely; a raw outside is scaled into it when it is made.
SAFE = (1e-15, 1e15)


class SigmaTarget(Described, IteratedConstraint, Scaled, abc.ABC):
    """``value = W * norm / s`` or ``W * min(1, bound / s)``, ``s = sigma_along(W, u, v)`` with the state's vectors.

    A subclass says which vectors, by the methods of an iterated constraint with ``u`` and ``v`` as the first two of its
    state, and measures its norm.
    """

    bound: float | None

    def __init__(self, norm: float | None, bound: float | None, n_power_iterations: int, eps: float) -> None:
        super().__init__()
        called = self.spec_name
        require(
            norm is None or bound is None,
            f"{called} takes norm or bound, got norm={norm!r} and bound={bound!r}",
        )
        for name, number in (("norm", norm), ("bound", bound), ("eps", eps)):
            positive = number is None or 0 < number < math.inf
            require(positive, f"{called} needs a positive finite {name}, got {number!r}")
        self.bound = None if bound is None else float(bound)
        self.norm = 1.0 if norm is None else float(norm)
        self.n_power_iterations = whole_number(f"{called}: n_power_iterations", n_power_iterations)
        require(self.n_power_iterations > 0, f"{called} needs n_power_iterations >= 1, got {n_power_iterations!r}")
        self.eps = float(eps)
        self.rows = 0

    @abc.abstractmethod
    def scale_in_graph(self, raw: Tensor) -> Tensor:
        """The scale in a graph: in training with state that a step commits, else with the settled one."""

    @abc.abstractmethod
    def stepped(self, raw: Tensor) -> tuple[State, Tensor]:
        """The state after one evaluation's step from the committed one, and the norm along it."""

    @abc.abstractmethod
    def measured(self, value: Tensor) -> float:
        """The norm of ``value``, in float64 and from nothing but the value; infinite where a number is not finite."""

    @abc.abstractmethod
    def certain(self, value: Tensor) -> float:
        """A number that the norm of ``value`` is certainly not above, to rounding in float64."""

    @abc.abstractmethod
    def cold_state(self, value: Tensor) -> tuple[Tensor, ...]:
        """The converged state of ``value``, without a start."""

    @abc.abstractmethod
    def described_beside(self) -> dict[str, object]:
        """The settings beside norm and bound that are not at their defaults."""

    def settings(self) -> dict[str, object]:
        """Norm or bound, and what is not at its default."""
        target: dict[str, object] = {"norm": self.norm} if self.bound is None else {"bound": self.bound}
        given = {"n_power_iterations": self.n_power_iterations, "eps": self.eps}
        defaults = {"n_power_iterations": 1, "eps": 1e-12}
        others = {name: number for name, number in given.items() if number != defaults[name]}
        return target | others | self.described_beside()

    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The value for given ``u`` and ``v``."""
        settings = (self.rows, self.target(), self.eps, self.bound is not None)
        if not torch.is_grad_enabled():  # to enter a function takes longer than all that a small one computes
            return SigmaScaling.forward(raw, state[0], state[1], *settings)[0]
        value: Tensor = SigmaScaling.apply(  # type: ignore[no-untyped-call] # torch annotates nothing of it
            raw, state[0], state[1], *settings
        )[0]
        return value

    def scale_for(self, raw: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The scale for given ``u`` and ``v`` in a graph."""
        sigma = sigma_along(as_matrix(raw, self.rows), u, v)
        bound = self.bound
        if bound is None:
            return scale_of(sigma, self.norm, self.eps, False)
        return scale_of(sigma, bound, self.eps, True)

    def scaled_dim(self) -> int | None:
        """One number."""
        return None

    def scale_traced(self, raws: Sequence[Tensor]) -> Tensor:
        """The scale in a graph."""
        return self.scale_in_graph(raws[0])

    def scale_stepped(self, raws: Sequence[Tensor]) -> tuple[State, Number, Number]:
        """The state, the scale and its derivative by sigma after one evaluation's step."""
        state, sigma = self.stepped(raws[0])
        scales, slopes = self.scales_for(sigma.reshape(1))
        return state, scales[0], slopes[0]

    def scales_for(self, sigmas: Tensor) -> tuple[Sequence[Number], Sequence[Number]]:
        """Scales and their derivatives by sigma; as numbers in main memory, where reading them waits for nothing."""
        settings = self.target(), self.eps, self.bound is not None
        if sigmas.is_cpu:
            return scales_and_slopes(sigmas, *settings)
        scales, slopes = scale_and_slope(sigmas, *settings)
        return scales.unbind(), slopes.unbind()

    def next_state(self, raw: Tensor) -> State:
        """The state after one evaluation's step."""
        return self.stepped(raw)[0]

    def scale_again(self, state: Sequence[Tensor], raws: Sequence[Tensor]) -> Tensor:
        """The scale as a function of the raw, for constant ``u`` and ``v``."""
        return self.scale_for(raws[0], state[0], state[1])

    def scale_gradients(
        self, of_weight: Tensor, of_scale: Tensor, state: Sequence[Tensor], kept: Any, raws: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """Add ``factor u vᵀ``, or as many as there are pairs, with what was ``kept``, the derivative by sigma."""
        factor = times(of_scale, kept)
        for u, v in [state[:2]] if state[0].dim() == 1 else zip(state[0], state[1], strict=True):
            add_outer_(of_weight, self.rows, u, v, factor)
        return (of_weight,)

    def target(self) -> float:
        """The norm or the bound."""
        return self.norm if self.bound is None else self.bound

    def sets_norm(self, norm: float) -> bool:
        """Whether the largest singular value is set to ``norm``, and not capped."""
        return self.bound is None and self.norm == norm

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself, with converged state; a zero weight whose norm is set gets one along ``u`` and ``v``.

        Only a weight whose numbers are so large or small that squares would not be numbers is scaled.
        """
        state = self.cold_state(value)
        u, v = state[:2]
        sigma = float(sigma_along(as_matrix(value, self.rows), u, v))
        low = 0.0 if self.bound is not None else max(SAFE[0], 1e3 * self.eps)
        if low <= sigma <= SAFE[1] or not math.isfinite(sigma):
            return Preimage((value,), state)
        if sigma > 0:
            return Preimage((value * (self.target() / sigma),), state)
        along = like_weight(torch.atleast_2d(u).t() @ torch.atleast_2d(v), value, self.rows)
        state = self.cold_state(along)
        sigma = float(sigma_along(as_matrix(along, self.rows), *state[:2]))
        return Preimage((along * (self.target() / sigma),), state)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How much the largest singular value differs from the norm, or exceeds the bound, relatively."""
        ratio = self.measured(value) / self.target()
        return abs(ratio - 1) if self.bound is None else max(0.0, ratio - 1)

    def tolerance(self, dtype: torch.dtype) -> float:
        """The accuracy of the settled state, or of the dtype."""
        return max(1e-3, float(torch.finfo(dtype).eps))

    def scales_up(self, value: Tensor, state: State) -> bool:
        """Whether the norm is set above the value's."""
        if self.bound is not None:
            return False
        u, v = state[:2]
        sigma = sigma_along(as_matrix(value, self.rows).to(u.dtype), u, v)
        return float(sigma) < self.target() * (1 - self.tolerance(value.dtype))
