"""When a value is still true: a group of computed parameters, evaluated once and watched.

Each member keeps its value as a `Held` as long as everything that it was computed from is what it was: raws, buffers
and own parameters by a copy-on-write snapshot of their storage (any write moves the address, whoever writes), settings
and modes by the epoch or by comparison. A write *to a value* is seen in the same way.

In the autograd graph the values of a group are one node, `HeldValues`. Its backward runs through the graph of the
evaluation, which starts at copies of the snapshots: a raw that has moved since does not disturb it. With
``create_graph`` the chain is evaluated again from the raws, with the same state.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from computed.chain import State
from computed.evaluation import evaluate, evaluate_given, full_precision
from computed.held import Held
from computed.member import Member
from computed.sources import Sources
from computed.torch_private import CAN_WATCH, alias
from computed.watching import UnwatchableError, foreign_leaves, snapshot


class Hold:
    """The values of ``members``, evaluated together; ``values`` are what each of them keeps."""

    __slots__ = ("inner", "leaves", "members", "raws", "sources", "states", "training", "values", "with_graph")

    def __init__(self, members: Sequence[Member], *, training: bool, with_graph: bool) -> None:
        self.members = tuple(members)
        self.training = training
        self.sources = tuple(Sources(member, training=training) for member in members)
        self.raws = tuple(raw for sources in self.sources for raw in sources.raws)
        self.with_graph = with_graph or not any(raw.requires_grad for raw in self.raws)
        self._evaluate()

    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients of the raws, for those of the values that were used."""
        used = [i for i, g in enumerate(cotangents) if g is not None and self.inner[i].requires_grad]
        wanted = [i for i, leaf in enumerate(self.leaves) if leaf.requires_grad]
        found: list[Tensor | None] = [None] * len(self.leaves)
        if not used:
            return found
        again = torch.is_grad_enabled()
        outputs = self._evaluate_again() if again else self.inner
        inputs = self.raws if again else self.leaves
        gradients = torch.autograd.grad(
            [outputs[i] for i in used],
            [inputs[i] for i in wanted],
            [cotangents[i] for i in used],
            retain_graph=True,
            create_graph=again,
            allow_unused=True,
        )
        for i, gradient in zip(wanted, gradients, strict=True):
            found[i] = gradient
        return found

    def _evaluate(self) -> None:
        # not the snapshots themselves: a kernel that takes a tensor by a mutable pointer (torch's weight norm does)
        # makes it a copy, and a raw whose snapshot is no longer shared can be written to without a trace
        self.leaves = tuple(
            snapshot(before).requires_grad_(raw.requires_grad and self.with_graph)
            for sources in self.sources
            for raw, before in zip(sources.raws, sources.snapshots, strict=False)
        )
        self.inner: list[Tensor] = []
        self.states: list[list[State]] = []
        # hooks that change nothing: under activation checkpointing the evaluation's saved tensors are not the caller's
        with (
            full_precision(self.members[0].device),
            torch.set_grad_enabled(self.with_graph),
            torch.autograd.graph.saved_tensors_hooks(_same, _same),
        ):
            for member, leaves in self._by_member(self.leaves):
                value, states = evaluate(member.links, leaves, member.dtype, training=self.training)
                self.inner.append(value)
                self.states.append(states)
        plain = [value.detach() for value in self.inner]
        outer = self._outer(plain)
        for value, inner, sources in zip(plain, self.inner, self.sources, strict=True):
            if inner.requires_grad or not self.with_graph:
                flag_as_parameter(value, sources.raws)
        self.values = tuple(
            Held(value, in_graph, sources, with_graph=self.with_graph)
            for value, in_graph, sources in zip(plain, outer, self.sources, strict=True)
        )

    def _outer(self, plain: Sequence[Tensor]) -> Sequence[Tensor]:
        """The values as outputs of one autograd node over the raws, where some of them have a graph."""
        if not any(value.requires_grad for value in self.inner):
            return plain
        with torch.inference_mode(mode=False), torch.enable_grad():
            outer: Sequence[Tensor] = HeldValues.apply(self, plain, *self.raws)  # type: ignore[no-untyped-call] # torch's
            return outer

    def _by_member(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Member, Sequence[Tensor]]]:
        start = 0
        for member, sources in zip(self.members, self.sources, strict=True):
            stop = start + len(sources.raws)
            yield member, tensors[start:stop]
            start = stop

    def _evaluate_again(self) -> list[Tensor]:
        if any(sources.moved() for sources in self.sources):
            raise RuntimeError(
                "one of the raws of a computed parameter has been modified since its value was computed, so its "
                "second derivative cannot be taken; take it before the optimizer steps"
            )
        with full_precision(self.members[0].device):
            return [
                evaluate_given(member.links, raws, member.dtype, states)
                for (member, raws), states in zip(self._by_member(self.raws), self.states, strict=True)
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


def try_hold(members: Sequence[Member], *, training: bool, with_graph: bool) -> Hold | None:
    """A hold of ``members``, or None where their values cannot be watched or depend on leaves that are not theirs."""
    if not CAN_WATCH or not all(member.may_hold(training=training) for member in members):
        return None
    try:
        # a snapshot taken in inference mode could never be part of a graph
        with torch.inference_mode(mode=False):
            hold = Hold(members, training=training, with_graph=with_graph)
    except UnwatchableError:
        return None
    return None if foreign_leaves(hold.inner, hold.leaves) else hold


def _same(tensor: Tensor) -> Tensor:
    """The same numbers; detached, since a node that keeps its own output itself would keep itself alive for good."""
    return tensor.detach()
