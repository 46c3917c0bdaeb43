"""Constraints of which many are evaluated in one go: fewer calls, and one node in the autograd graph."""

import abc
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, State


class Evaluated(NamedTuple):
    """Values, the state that belongs to each, and what the gradients of the raws need of the evaluation."""

    values: Sequence[Tensor]
    states: Sequence[State]
    kept: Any


class Together(abc.ABC):
    """A constraint with its derivative written out, of which many can be evaluated in one go.

    Each value has the bits that it has where the constraint is evaluated alone.
    """

    @abc.abstractmethod
    def kind(self) -> Hashable:
        """What those must have in common that are evaluated in one go, beside dtype and device; shapes may differ."""

    @abc.abstractmethod
    def takes_many(self, raw: Tensor) -> bool:
        """Whether many such raws, the first of each, are evaluated at once with the bits of each alone."""

    def takes_one(self, raw: Tensor) -> bool:
        """Whether one such raw alone is evaluated so."""
        return True

    @abc.abstractmethod
    def evaluate_together(self, those: Sequence[Any], given: Sequence[Sequence[Tensor]]) -> Evaluated:
        """The values of ``those``, which are of this kind, for the raws of each, in train mode and without a graph."""

    @abc.abstractmethod
    def gradients_together(self, kept: Any, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients of all raws, one after the other; None for those whose value was not used."""


class IteratedTogether(IteratedConstraint, Together, abc.ABC):
    """An iterated one, of one raw."""


def evaluate_alone(constraint: IteratedTogether, raw: Tensor) -> tuple[Tensor, State]:
    """The value of one in train mode, differentiable in ``raw`` to any order, and the state that belongs to it."""
    value, *state = Alone.apply(raw, constraint)  # type: ignore[no-untyped-call] # torch annotates nothing of it
    return value, tuple(state)


class Alone(torch.autograd.Function):
    """The value of one constraint, and its state, which is a constant of the derivative."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, constraint: IteratedTogether) -> tuple[Tensor, ...]:
        """By the constraint."""
        found = constraint.evaluate_together([constraint], [(raw,)])
        (ctx.state,), ctx.kept, ctx.constraint = found.states, found.kept, constraint
        ctx.save_for_backward(raw)
        ctx.mark_non_differentiable(*ctx.state)
        ctx.set_materialize_grads(False)
        return found.values[0], *ctx.state

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """By the constraint; to be differentiated again, through the value for the same state."""
        given = cotangents[0]
        if given is None:
            return None, None
        (raw,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return ctx.constraint.gradients_together(ctx.kept, [given])[0], None
        value = ctx.constraint.value_given(raw, ctx.state)
        return torch.autograd.grad(value, raw, given, create_graph=True)[0], None
