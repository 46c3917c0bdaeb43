"""When a value is still true: a group of computed parameters, evaluated once and watched.

A `Hold` keeps the values of its members as long as everything that they were computed from is what it was: raws,
buffers and own parameters by a copy-on-write snapshot of their storage (any write moves the address, whoever writes),
settings and modes by the epoch or by comparison. A write *to a value* is seen in the same way.

In the autograd graph the values of a group are one node, `HeldValues`. Its backward runs through the graph of the
evaluation, which starts at the snapshots: a raw that has moved since does not disturb it. With ``create_graph`` the
chain is evaluated again from the raws, with the same state.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from computed.chain import State
from computed.evaluation import evaluate, evaluate_given, full_precision
from computed.member import Member
from computed.sources import Sources
from computed.torch_private import CAN_WATCH, address_of
from computed.watching import UnwatchableError, foreign_leaves, same_bits, snapshot

# bound once, for the cost of a read
grad_enabled = torch.is_grad_enabled
# no tensor has its data there
NOWHERE = -1


class Hold:
    """The values of ``members``, with the evidence that tells whether they are still true."""

    __slots__ = (
        "address",
        "inner",
        "inner_versions",
        "leaves",
        "members",
        "outer",
        "plain",
        "raws",
        "sources",
        "states",
        "training",
        "value_snapshots",
        "with_graph",
    )

    def __init__(self, members: Sequence[Member], *, training: bool, with_graph: bool) -> None:
        self.members = tuple(members)
        self.training = training
        self.raws = tuple(raw.tensor for member in members for raw in member.raw_slots())
        self.with_graph = with_graph or not any(raw.requires_grad for raw in self.raws)
        self.sources = Sources(self.members)
        self._evaluate()

    def current(self, index: int = 0) -> Tensor | None:
        """The value of member ``index`` for the gradient mode that is set; None where it must be evaluated.

        This and `Sources.unchanged` are most of the cost of reading a held value: flags are looked at only where they
        matter.
        """
        plain = self.plain[index]
        if address_of(plain) != self.address[index] or not self.sources.unchanged():
            return None
        if not grad_enabled():
            return plain
        for raw, needs_grad in self.sources.flags:
            if raw.requires_grad is not needs_grad:
                return None
        return self.outer[index] if self.with_graph else None

    def usable(self, index: int = 0) -> bool:
        """Whether the value of member ``index`` is still true and untouched, with a graph where one is wanted."""
        return self.current(index) is not None

    def untouched(self, index: int) -> bool:
        """Whether nobody has written to the value of member ``index``; a read that looked like a write is forgiven."""
        plain = self.plain[index]
        if address_of(plain) == self.address[index]:
            return True
        if not same_bits(plain, self.value_snapshots[index]):
            return False
        if plain._version != self.inner_versions[index]:
            self.address[index] = NOWHERE  # written with the bits that it had: autograd refuses it, and rightly
            return True
        try:
            self._watch_value(index)
        except UnwatchableError:
            self.address[index] = NOWHERE  # the next read evaluates
        return True

    def doubt(self, index: int) -> None:
        """Look closely before the next read: a write of the same bits may leave the address, and spoils the graph."""
        self.address[index] = NOWHERE

    def moved(self) -> bool:
        """Whether the bits of some raw differ from those that the values were computed from."""
        return any(
            raw.shape != leaf.shape or not same_bits(raw, leaf)
            for raw, leaf in zip(self.raws, self.leaves, strict=True)
        )

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
        self.leaves = tuple(
            snapshot.requires_grad_(raw.requires_grad and self.with_graph)
            for snapshot, raw in zip(self.sources.snapshots, self.raws, strict=False)
        )
        self.inner: list[Tensor] = []
        self.states: list[list[State]] = []
        # identity hooks: under activation checkpointing the evaluation's saved tensors are not the caller's
        with (
            full_precision(self.members[0].device),
            torch.set_grad_enabled(self.with_graph),
            torch.autograd.graph.saved_tensors_hooks(_same, _same),
        ):
            for member, leaves in self._by_member(self.leaves):
                value, states = evaluate(member.links, leaves, member.dtype, training=self.training)
                self.inner.append(value)
                self.states.append(states)
        self._publish()

    def _by_member(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Member, Sequence[Tensor]]]:
        start = 0
        for member in self.members:
            stop = start + len(member.raw_slots())
            yield member, tensors[start:stop]
            start = stop

    def _publish(self) -> None:
        self.plain = [value.detach() for value in self.inner]
        self.inner_versions = [plain._version for plain in self.plain]
        self.outer: Sequence[Tensor] = self.plain
        if any(value.requires_grad for value in self.inner):
            with torch.inference_mode(mode=False), torch.enable_grad():
                self.outer = HeldValues.apply(self, *self.raws)  # type: ignore[no-untyped-call]
        self.address = [0] * len(self.plain)
        self.value_snapshots = list(self.plain)
        for index in range(len(self.plain)):
            self._watch_value(index)

    def _watch_value(self, index: int) -> None:
        self.value_snapshots[index] = snapshot(self.plain[index])
        self.address[index] = address_of(self.plain[index])

    def _evaluate_again(self) -> list[Tensor]:
        if self.moved():
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
    def forward(ctx: Any, hold: Hold, *raws: Tensor) -> tuple[Tensor, ...]:
        """Views of the values: a view made in a custom function refuses in-place writes in grad mode, as leaves do."""
        ctx.set_materialize_grads(False)
        ctx.hold = hold
        return tuple(plain.view_as(plain) for plain in hold.plain)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the raws through the graph of the evaluation."""
        return None, *ctx.hold.gradients(cotangents)


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
    return tensor
