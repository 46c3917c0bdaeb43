"""When a value is still true: a group of computed parameters, evaluated once and watched.

Each member keeps its value as a `Held` as long as everything that it was computed from is what it was: raws, buffers
and own parameters by a copy-on-write snapshot of their storage (any write moves the address, whoever writes), settings
and modes by the epoch or by comparison. A write *to a value* is seen in the same way.

In the autograd graph the values of a group are one node, `HeldValues`. Its backward asks the evaluation
(`computed.inner`), which knows what it needs of the raws: one that has moved since does not disturb it. Before an
optimizer steps, what no backward will need is let go, or it would copy every raw. With ``create_graph`` the chain is
evaluated again from the raws, with the same state.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from computed.constraint import State
from computed.evaluation import evaluate_given, full_precision
from computed.held import Held
from computed.inner import gradients_of, inner_of
from computed.member import Member
from computed.sources import Sources
from computed.torch_private import CAN_WATCH, alias
from computed.watching import UnwatchableError


class Hold:
    """The values of ``members``, evaluated together, as their node in the autograd graph knows them.

    It does not know the values that it gives to its members: they know the node, and in a circle snapshots would live
    on until a garbage collection, so that an optimizer that writes to raws would copy each of them.
    """

    __slots__ = ("inner", "members", "raws", "sources", "training", "with_graph")

    def __init__(self, members: Sequence[Member], *, training: bool, with_graph: bool) -> None:
        self.members = tuple(members)
        self.training = training
        self.sources = tuple([Sources(member, training=training) for member in members])
        self.raws = tuple([raw for sources in self.sources for raw in sources.raws])
        self.with_graph = with_graph or not any(raw.requires_grad for raw in self.raws)
        with full_precision(self.members[0].device):
            self.inner = inner_of(self.members, self.sources, training=training, with_graph=self.with_graph)

    @property
    def states(self) -> Sequence[Sequence[State]]:
        """The state of each link, for each member."""
        return self.inner.states

    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients of the raws, for those of the values that were used."""
        if torch.is_grad_enabled():
            used = [i for i, given in enumerate(cotangents) if given is not None]
            given = [cotangents[i] for i in used]
            return gradients_of(self._evaluated_again(used), self.raws, given, create_graph=True)
        return self.inner.gradients(cotangents)

    def values(self) -> list[Held]:
        """What each of the members keeps; to be asked once."""
        plain = self.inner.plain()
        outer = self._outer(plain)
        for value, needs_grad, sources in zip(plain, self.inner.needs_grad, self.sources, strict=True):
            if needs_grad or not self.with_graph:
                flag_as_parameter(value, sources.raws)
        return [
            Held(plain[i], outer[i], sources, self.inner, i, self.states[i], with_graph=self.with_graph)
            for i, sources in enumerate(self.sources)
        ]

    def _outer(self, plain: Sequence[Tensor]) -> Sequence[Tensor]:
        """The values as outputs of one autograd node over the raws, where some of them have a graph."""
        if not any(self.inner.needs_grad):
            return plain
        with torch.inference_mode(mode=False), torch.enable_grad():
            outer: Sequence[Tensor] = HeldValues.apply(self, plain, *self.raws)  # type: ignore[no-untyped-call] # torch's
            return outer

    def _evaluated_again(self, places: Sequence[int]) -> list[Tensor]:
        for i in places:
            self.sources[i].require_unmoved()
        with full_precision(self.members[0].device):
            return [
                evaluate_given(self.members[i].links, self.sources[i].raws, self.members[i].dtype, self.states[i])
                for i in places
            ]


class HeldValues(torch.autograd.Function):
    """The values of a hold as one autograd node over its raws.

    Nothing is saved on the node (a saved tensor is freed after one backward), gradients that nobody asked for stay
    None: zeros would make Adam decay a weight that was not used.
    """

    @staticmethod
    def forward(ctx: Any, hold: Hold, plain: Sequence[Tensor], *raws: Tensor) -> tuple[Tensor, ...]:
        """Views of the values: a view made in a custom function refuses in-place writes in grad mode, as leaves do."""
        ctx.set_materialize_grads(False)
        ctx.hold = hold
        return tuple(alias(value) for value in plain)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the raws through the graph of the evaluation."""
        return None, None, *ctx.hold.gradients(cotangents)


def flag_as_parameter(value: Tensor, raws: Sequence[Tensor]) -> None:
    """Let a value that is read without gradients require one, as a Parameter does: kernels are chosen by that.

    `at::matmul` folds a batch only where an operand requires a gradient, whatever the mode:
    https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/LinearAlgebra.cpp
    """
    if any(raw.requires_grad for raw in raws):
        value.requires_grad_()


def try_hold(members: Sequence[Member], *, training: bool, with_graph: bool) -> list[Held] | None:
    """What each of ``members`` keeps, or None where their values cannot be watched or depend on other leaves."""
    if not CAN_WATCH or not all(member.may_hold(training=training) for member in members):
        return None
    try:
        # a snapshot taken in inference mode could never be part of a graph
        with torch.inference_mode(mode=False):
            hold = Hold(members, training=training, with_graph=with_graph)
            if hold.inner.has_foreign_leaves():
                return None
            return hold.values()
    except UnwatchableError:
        return None
