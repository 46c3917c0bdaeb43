"""The evaluation inside a hold: with a graph of its own, or by a constraint whose derivative is written out."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from computed.chain import Link, is_disabled
from computed.constraint import State
from computed.evaluation import evaluate
from computed.member import Member
from computed.sources import Sources
from computed.together import Together
from computed.torch_private import backward_retains_graph
from computed.watching import foreign_leaves, snapshot


class Inner(abc.ABC):
    """Values of some members, and the way from their gradients to those of the raws.

    ``states`` are those of each link of each member; ``needs_grad`` says which values have gradients.
    """

    states: Sequence[Sequence[State]]
    needs_grad: Sequence[bool]

    @abc.abstractmethod
    def plain(self) -> Sequence[Tensor]:
        """The values without gradients."""

    @abc.abstractmethod
    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients of all raws, in their order; None where no value that was used depends on one."""

    @abc.abstractmethod
    def let_go(self, place: int) -> None:
        """An optimizer is about to move the raws of the member at ``place``, and would copy what is shared with them.

        So share no more than must be: losses live on while optimizers step, and their graphs with them.
        """

    @abc.abstractmethod
    def has_foreign_leaves(self) -> bool:
        """Whether a value depends on leaves beside the raws: their gradients would be lost."""


class WrittenOut(Inner):
    """Values of one kind of constraint, evaluated and differentiated by it from the very snapshots."""

    def __init__(self, family: Sequence[Together], sources: Sequence[Sources]) -> None:
        self.first = family[0]
        with torch.no_grad():
            raws = [each.snapshots[: len(each.raws)] for each in sources]
            found = self.first.evaluate_together(family, raws)
        self.values = found.values
        self.states = [(state,) for state in found.states]
        self.kept = found.kept
        self.needs_grad = [any(raw.requires_grad for raw in each.raws) for each in sources]

    def plain(self) -> Sequence[Tensor]:
        """What was computed."""
        return self.values

    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """By the constraint."""
        return self.first.gradients_together(self.kept, cotangents)

    def let_go(self, place: int) -> None:
        """What is kept has memory of its own."""

    def has_foreign_leaves(self) -> bool:
        """No: it computes with the raws."""
        return False


class Graphed(Inner):
    """Values of any chains, with a graph that starts at copies of the snapshots."""

    def __init__(
        self, members: Sequence[Member], sources: Sequence[Sources], *, training: bool, with_graph: bool
    ) -> None:
        # not the snapshots themselves: a kernel that takes a tensor by a mutable pointer (torch's weight norm does)
        # makes it a copy, and a raw whose snapshot is no longer shared can be written to without a trace
        leaves = [
            [
                snapshot(before).requires_grad_(raw.requires_grad and with_graph)
                for raw, before in zip(each.raws, each.snapshots, strict=False)
            ]
            for each in sources
        ]
        self.leaves: list[Sequence[Tensor] | None] = [*leaves]
        self.counts = [len(each) for each in leaves]
        self.values: list[Tensor] = []
        self.states = states = []
        # hooks that change nothing: under activation checkpointing the evaluation's saved tensors are not the caller's
        with torch.set_grad_enabled(with_graph), torch.autograd.graph.saved_tensors_hooks(_same, _same):
            for member, raws in zip(members, leaves, strict=True):
                value, found = evaluate(member.links, raws, member.dtype, training=training)
                self.values.append(value)
                states.append(found)
        self.needs_grad = [value.requires_grad for value in self.values]
        self.spent = [False] * len(members)
        self.names = [name_of(member) for member in members]

    def plain(self) -> Sequence[Tensor]:
        """The values, detached."""
        return [value.detach() for value in self.values]

    def gradients(self, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Through the graph."""
        used = [i for i, given in enumerate(cotangents) if given is not None and self.needs_grad[i]]
        gone = [self.names[i] for i in used if self.leaves[i] is None]
        if gone:
            raise freed(gone)
        if not backward_retains_graph():
            for i in used:
                self.spent[i] = True
        leaves = [leaf for i in used for leaf in self.leaves[i] or ()]
        values, given = [self.values[i] for i in used], [cotangents[i] for i in used]
        found = iter(gradients_of(values, leaves, given, create_graph=False))
        return [next(found) if i in used else None for i, count in enumerate(self.counts) for _ in range(count)]

    def let_go(self, place: int) -> None:
        """Free a graph where a backward has been through it that retains none, as torch frees what that has saved."""
        if self.spent[place]:
            self.values[place] = self.values[place].detach()
            self.leaves[place] = None

    def has_foreign_leaves(self) -> bool:
        """Whether the graph ends elsewhere as well."""
        return foreign_leaves(self.values, [leaf for each in self.leaves for leaf in each or ()])


def inner_of(members: Sequence[Member], sources: Sequence[Sources], *, training: bool, with_graph: bool) -> Inner:
    """The evaluation of ``members``: written out where they are of one kind that is, in train mode."""
    if training:
        family = [
            one
            for member, each in zip(members, sources, strict=True)
            if (one := written_out(member.links, each.raws)) is not None
        ]
        if len(family) == len(members) and (len(family) == 1 or len({one.kind() for one in family}) == 1):
            return WrittenOut(family, sources)
    return Graphed(members, sources, training=training, with_graph=with_graph)


def written_out(links: Sequence[Link], raws: Sequence[Tensor]) -> Together | None:
    """The constraint that evaluates a chain by itself and in the dtype of its raws, where its derivative is written."""
    module = links[0].module
    if len(links) > 1 or not isinstance(module, Together) or is_disabled(links[0]) or not module.takes_one(raws[0]):
        return None
    dtype = raws[0].dtype
    is_exact = (dtype is torch.float32 or dtype is torch.float64) and all(raw.dtype is dtype for raw in raws)
    return module if is_exact else None


def name_of(member: Member) -> str:
    """What errors of a backward call it."""
    return member._name or "a computed parameter"


def freed(names: Sequence[str]) -> RuntimeError:
    """The error of a backward through what was let go of."""
    return RuntimeError(
        f"{', '.join(names)}: an optimizer has moved the raws since this value was computed, and an earlier backward "
        f"has freed its graph; do all backward passes through it before the step, or the first with retain_graph=True"
    )


def gradients_of(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None], *, create_graph: bool
) -> Sequence[Tensor | None]:
    """The gradients of ``inputs``, for those of ``outputs`` that were used; None for the others."""
    used = [i for i, g in enumerate(cotangents) if g is not None and outputs[i].requires_grad]
    wanted = [i for i, one in enumerate(inputs) if one.requires_grad]
    found: list[Tensor | None] = [None] * len(inputs)
    if not used:
        return found
    gradients = torch.autograd.grad(
        [outputs[i] for i in used],
        [inputs[i] for i in wanted],
        [cotangents[i] for i in used],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
    )
    for i, gradient in zip(wanted, gradients, strict=True):
        found[i] = gradient
    return found


def _same(tensor: Tensor) -> Tensor:
    """The same numbers; detached, since a node that keeps its own output itself would keep itself alive for good."""
    return tensor.detach()
