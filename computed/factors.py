"""A raw and its scale, held in the place of their product: one node in the autograd graph gives both."""

from typing import Any

import torch
from torch import Tensor

from computed.constraint import State, state_dtype
from computed.evaluation import full_precision
from computed.member import Member
from computed.scaled import Number, Scaled, times
from computed.sources import Sources
from computed.torch_private import CAN_WATCH, alias
from computed.watching import UnwatchableError


class Scaling:
    """The scale of a raw and what its derivative needs, as their node in the autograd graph knows them."""

    __slots__ = ("constraint", "raw", "slope", "sources", "state")

    def __init__(self, constraint: Scaled, sources: Sources, state: State, slope: Number) -> None:
        self.constraint = constraint
        self.sources = sources
        self.raw = sources.raws[0]
        self.state = state
        self.slope = slope

    def gradient(self, of_weight: Tensor | None, of_scale: Tensor | None) -> Tensor | None:
        """The gradient of the raw, which enters as it is, and by the scale."""
        if of_scale is None:
            return of_weight
        if torch.is_grad_enabled():
            by_scale = self._again(of_scale)
            return by_scale if of_weight is None else of_weight + by_scale
        if of_weight is None:
            of_weight = torch.zeros_like(self.raw)
        # in place: a layer's gradient of its weight is made for this node alone
        self.constraint.add_gradient_(of_weight, self.state, times(of_scale, self.slope))
        return of_weight

    def _again(self, of_scale: Tensor) -> Tensor:
        self.sources.require_unmoved()
        with full_precision(self.raw.device):
            scale = self.constraint.scale_again(self.state, self.raw)
            (by_scale,) = torch.autograd.grad(scale, self.raw, of_scale, create_graph=True)
        return by_scale


class Factors:
    """The factors of the value of a member, evaluated in train mode and watched as a held value is."""

    __slots__ = ("scale", "sources", "state", "weight")

    def __init__(self, member: Member, constraint: Scaled) -> None:
        self.sources = Sources(member, training=True)
        self.weight = leaf = self.sources.snapshots[0]
        with full_precision(member.device), torch.no_grad():
            self.state, scale, slope = constraint.scale_stepped(leaf)
            self.scale = (
                torch.scalar_tensor(scale, dtype=state_dtype(leaf.dtype)) if isinstance(scale, float) else scale
            )
        raw = self.sources.raws[0]
        if raw.requires_grad:
            scaling = Scaling(constraint, self.sources, self.state, slope)
            with torch.enable_grad():
                both = RawAndScale.apply(scaling, leaf, self.scale, raw)  # type: ignore[no-untyped-call] # torch annotates nothing of it
            self.weight, self.scale = both

    def usable(self) -> bool:
        """Whether all that they were computed from is what it was, and requires a gradient where it did."""
        return self.sources.unchanged() and all(raw.requires_grad is needed for raw, needed in self.sources.flags)

    def let_go(self) -> None:
        """An optimizer is about to move the raw: share no memory with it any longer."""
        self.sources.let_go()

    def moved(self) -> bool:
        """Whether the bits of the raw are others now."""
        return self.sources.moved()


class RawAndScale(torch.autograd.Function):
    """The snapshot of a raw and its scale, as one node over the raw."""

    @staticmethod
    def forward(ctx: Any, scaling: Scaling, leaf: Tensor, scale: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """As they are."""
        ctx.set_materialize_grads(False)
        ctx.scaling = scaling
        return alias(leaf), scale.detach()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient of the raw."""
        return None, None, None, ctx.scaling.gradient(*cotangents)


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
