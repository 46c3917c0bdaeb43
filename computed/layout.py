"""Where the tensors that a value depends on are registered, found once for as long as nothing there changes.

To walk over modules takes longer than to evaluate a small weight, and each step evaluates anew.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from computed.chain import Link
from computed.epoch import CELL as EPOCH
from computed.torch_private import address_of
from computed.watching import (
    Settings,
    Slot,
    own_slots,
    settings_of,
    snapshot,
    state_buffers,
)

Watched = tuple[dict[str, Tensor], str, Tensor, int]


class Layout:
    """The slots of a chain in one mode, the raws' first; ``flagged`` are those whose ``requires_grad`` matters."""

    __slots__ = ("epoch", "flagged", "links", "raws", "registries", "settings", "sizes", "slots")

    def __init__(self, links: tuple[Link, ...], raw_slots: Sequence[Slot], *, training: bool) -> None:
        modules = [module for link in links for module in link.module.modules()]
        slots = [*raw_slots]
        slots += [slot for link in links for slot in own_slots(link, slots, training=training)]
        self.links = links
        self.raws = len(raw_slots)
        self.slots = tuple(slots)
        self.epoch = EPOCH[0]
        self.settings: Settings = settings_of(links)
        self.registries: tuple[dict[str, Any], ...] = tuple(
            registry
            for module in modules
            for registry in (module._parameters, module._buffers, module._modules, vars(module))
        )
        self.sizes = tuple(map(len, self.registries))
        # no gradient ever reaches the state of an iterated constraint
        states = {id(state) for link in links for state in state_buffers(link)}
        self.flagged = tuple(i for i, slot in enumerate(slots) if id(slot.owner[slot.key]) not in states)

    def holds_for(self, links: tuple[Link, ...]) -> bool:
        """Whether a walk over the modules would find the same; other people's modules tell of no change."""
        if self.links is not links or self.settings.untold or tuple(map(len, self.registries)) != self.sizes:
            return False
        for owner, key in self.slots:
            if owner.get(key) is None:
                return False
        if self.epoch != EPOCH[0]:
            if not self.settings.told_unchanged():
                return False
            self.epoch = EPOCH[0]
        return True

    def watch(self) -> tuple[list[Tensor], list[Tensor], list[Watched]]:
        """What is registered now, copy-on-write snapshots of it, and where each of them is found and lies."""
        tensors: list[Tensor] = []
        snapshots: list[Tensor] = []
        watched: list[Watched] = []
        for owner, key in self.slots:
            tensor: Tensor = owner[key]
            address = address_of(tensor)
            snapshots.append(snapshot(tensor))
            tensors.append(tensor)
            watched.append((owner, key, tensor, address))
        return tensors, snapshots, watched
