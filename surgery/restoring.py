"""What an apply changes, recorded so that it can be put back: bits, objects, storages, gradients, flags, order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from computed.guard import GuardedModules
from computed.parameter import ComputedParameter
from computed.placement import place, put_back, unguard
from computed.watching import UnwatchableError, same_bits, snapshot
from surgery.finding import Found, Place


@dataclass(eq=False)
class KeptTensor:
    """A tensor as it was: its memory, bits, flag and gradient. ``bits`` is None where they are not kept."""

    tensor: Tensor
    memory: Tensor
    bits: Tensor | None
    requires_grad: bool
    grad: "KeptTensor | None"

    def restore(self) -> None:
        """Give the tensor back what it had."""
        tensor = self.tensor
        if not tensor.is_meta:
            tensor.data = self.memory
            if self.bits is not None and not same_bits(tensor, self.bits):
                with torch.no_grad():
                    tensor.copy_(self.bits)
        tensor.requires_grad_(self.requires_grad)
        if self.grad is not None:
            self.grad.restore()
        tensor.grad = None if self.grad is None else self.grad.tensor


def keep(tensor: Tensor, *, copied: bool = True) -> KeptTensor:
    """Record ``tensor``; its bits cost memory only once somebody writes to it.

    Where memory cannot be watched that needs a copy now, which is left out without ``copied``.
    """
    bits: Tensor | None = None
    try:
        bits = snapshot(tensor)
    except UnwatchableError:
        if copied and tensor.layout is torch.strided:
            bits = tensor.detach().clone()
    grad = None if tensor.grad is None else keep(tensor.grad)
    return KeptTensor(tensor, tensor.data, bits, tensor.requires_grad, grad)


@dataclass(eq=False)
class KeptRegistries:
    """Which tensors a module of a computed parameter holds: its raws and its state, which casts and loads replace."""

    module: nn.Module
    parameters: dict[str, nn.Parameter | None]
    buffers: dict[str, Tensor | None]

    def restore(self) -> None:
        """Give the module back what it held."""
        for registry, kept in ((self.module._parameters, self.parameters), (self.module._buffers, self.buffers)):
            registry.clear()
            registry.update(kept)  # type: ignore[arg-type] # each kept what it is given


@dataclass(eq=False)
class KeptPlace:
    """One attribute of a host: what stood there, and how it was registered."""

    place: Place
    subject: Tensor | ComputedParameter
    buffer: bool
    persistent: bool

    def restore(self) -> None:
        """Put back what stood there, in its old position."""
        host, name = self.place.host, self.place.attribute
        if self.stands():
            unguard(host)  # a change that was broken off may have come as far as the guard
            return
        modules = host._modules
        # whatever was done here began with the guard: without one, this place was not reached
        assert isinstance(modules, GuardedModules)
        if isinstance(self.subject, Tensor):
            put_back(host, name, self.subject, buffer=self.buffer, persistent=self.persistent)
            return
        if name in modules.computed:
            modules.release(name)
        place(host, name, self.subject)

    def stands(self) -> bool:
        """Whether the attribute still has what stood there."""
        host, name = self.place.host, self.place.attribute
        registry = host._buffers if self.buffer else host._parameters
        return registry.get(name, host._modules.get(name)) is self.subject


@dataclass(eq=False)
class Record:
    """Everything one apply changed. ``made`` are the computed parameters it placed, by place."""

    number: int
    places: list[KeptPlace] = field(default_factory=list)
    registries: list[KeptRegistries] = field(default_factory=list)
    tensors: list[KeptTensor] = field(default_factory=list)
    made: list[tuple[Place, ComputedParameter]] = field(default_factory=list)
    also: list[Callable[[], None]] = field(default_factory=list)
    lost: str | None = None

    def note(self, found: Found, *, freezes: bool = False) -> None:
        """Record what stands at ``found`` before it is changed, or only frozen: then nothing is copied for it."""
        subject = found.subject
        if isinstance(subject, ComputedParameter):
            subject.forget()
            self.registries += [
                KeptRegistries(module, dict(module._parameters), dict(module._buffers)) for module in subject.modules()
            ]
            self.tensors += [keep(tensor) for tensor in (*subject.parameters(), *subject.buffers())]
        elif found.site.shape is None:
            self.also.append(partial(setattr, subject, "requires_grad", subject.requires_grad))
        else:
            self.tensors.append(keep(subject, copied=not freezes))
        self.places += [
            KeptPlace(slot, subject, found.site.buffer, slot.attribute not in slot.host._non_persistent_buffers_set)
            for slot in found.slots
        ]

    def restore(self) -> None:
        """Put everything back, last change first."""
        for kept_place in reversed(self.places):
            kept_place.restore()
        for registries in reversed(self.registries):
            registries.restore()
        # last first here too: the places of a tie that is split share a tensor, and only the first found it as it was
        for kept in reversed(self.tensors):
            kept.restore()
        for kept_place in self.places:
            if isinstance(kept_place.subject, ComputedParameter):
                kept_place.subject.reset()
        for action in reversed(self.also):
            action()
        self.made.clear()

    def let_go(self) -> None:
        """Forget what is kept, which can no longer be put back, but for the reason."""
        self.lost = self.disturbed()
        self.places.clear()
        self.registries.clear()
        self.tensors.clear()
        self.also.clear()

    def disturbed(self) -> str | None:
        """Which place no longer has what this apply left there, by the name in messages; None where all is as left."""
        if self.lost is not None:
            return self.lost
        for place_, parameter in self.made:
            if place_.host._modules.get(place_.attribute) is not parameter:
                return place_.name
        made = {(id(place_.host), place_.attribute) for place_, _ in self.made}
        others = (kept for kept in self.places if (id(kept.place.host), kept.place.attribute) not in made)
        return next((kept.place.name for kept in others if not kept.stands()), None)
