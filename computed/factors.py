"""A raw and its scale, held in the place of their product: one node in the autograd graph gives both."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from computed.constraint import State, state_dtype
from computed.evaluation import full_precision
from computed.inner import freed, gradients_of, name_of
from computed.member import Member
from computed.scaled import Scaled
from computed.sources import Sources
from computed.torch_private import CAN_WATCH, alias, backward_retains_graph
from computed.watching import UnwatchableError


class Scaling:
    """The scale of a raw and what its derivative needs, as their node in the autograd graph knows them."""

    __slots__ = ("constraint", "kept", "name", "raws", "snapshots", "sources", "spent", "state")

    def __init__(self, member: Member, constraint: Scaled, sources: Sources, state: State, kept: Any) -> None:
        self.name = name_of(member)
        self.constraint = constraint
        self.sources = sources
        self.raws = sources.raws
        self.snapshots = sources.snapshots[: len(self.raws)] if constraint.gradient_reads_raws else None
        self.state = state
        self.kept = kept
        self.spent = False

    def gradients(self, of_weight: Tensor | None, of_scale: Tensor | None) -> Sequence[Tensor | None]:
        """The gradients of the raws, the first of which enters as it is, and by the scale."""
        self.spent = self.spent or not backward_retains_graph()
        if of_scale is None:
            return of_weight, *(None for _ in self.raws[1:])
        if torch.is_grad_enabled():
            first, *others = self._again(of_scale)
            return first if of_weight is None else of_weight if first is None else of_weight + first, *others
        if self.constraint.gradient_reads_raws and self.snapshots is None:
            raise freed([self.name])
        if of_weight is None:
            of_weight = torch.zeros_like(self.raws[0])
        # in place: a layer's gradient of its weight is made for this node alone
        return self.constraint.scale_gradients(of_weight, of_scale, self.state, self.kept, self.snapshots or ())

    def let_go(self) -> None:
        """Keep the bits of the raws no longer, where a backward that retains no graph has been here."""
        if self.spent:
            self.snapshots = None

    def _again(self, of_scale: Tensor) -> Sequence[Tensor | None]:
        self.sources.require_unmoved()
        with full_precision(self.raws[0].device):
            scale = self.constraint.scale_again(self.state, self.raws)
            return gradients_of([scale], self.raws, [of_scale], create_graph=True)


class Factors:
    """The factors of the value of a member, evaluated in train mode and watched as a held value is."""

    __slots__ = ("scale", "scaling", "sources", "state", "weight")

    def __init__(self, member: Member, constraint: Scaled) -> None:
        self.sources = Sources(member, training=True)
        raws = self.sources.raws
        leaves = self.sources.snapshots[: len(raws)]
        self.weight = leaves[0]
        with full_precision(member.device), torch.no_grad():
            self.state, scale, kept = constraint.scale_stepped(leaves)
            dtype = state_dtype(self.weight.dtype)
            self.scale = torch.scalar_tensor(scale, dtype=dtype) if isinstance(scale, float) else scale
        self.scaling = Scaling(member, constraint, self.sources, self.state, kept)
        if any(raw.requires_grad for raw in raws):
            with torch.enable_grad():
                both = RawAndScale.apply(self.scaling, self.weight, self.scale, *raws)  # type: ignore[no-untyped-call] # torch annotates nothing of it
            self.weight, self.scale = both

    def usable(self) -> bool:
        """Whether all that they were computed from is what it was, and requires a gradient where it did."""
        return self.sources.unchanged() and all(raw.requires_grad is needed for raw, needed in self.sources.flags)

    def let_go(self) -> None:
        """An optimizer is about to move the raw: share no memory with it any longer."""
        self.sources.let_go()
        self.scaling.let_go()

    def moved(self) -> bool:
        """Whether the bits of the raw are others now."""
        return self.sources.moved()


class RawAndScale(torch.autograd.Function):
    """The snapshot of a raw and its scale, as one node over the raws."""

    @staticmethod
    def forward(ctx: Any, scaling: Scaling, leaf: Tensor, scale: Tensor, *raws: Tensor) -> tuple[Tensor, Tensor]:
        """As they are."""
        ctx.set_materialize_grads(False)
        ctx.scaling = scaling
        weight = alias(leaf)
        if not raws[0].requires_grad:  # nobody asks for the gradient of its product then
            ctx.mark_non_differentiable(weight)
        return weight, scale.detach()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of the raws."""
        return None, None, None, *ctx.scaling.gradients(*cotangents)


def factors_of(member: Member) -> Factors | None:
    """The factors of a member, or None where it has none, or they cannot be held."""
    constraint = member.links[0].module
    if not CAN_WATCH or not isinstance(constraint, Scaled) or not member.may_hold(training=True):
        return None
    try:
        with torch.inference_mode(mode=False):
            return Factors(member, constraint)
    except UnwatchableError:
        return None
