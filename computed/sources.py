"""What a value was computed from, and whether it still is what it was."""

from collections.abc import Sequence

from torch import Tensor

from computed.epoch import CELL as EPOCH
from computed.member import Member
from computed.torch_private import address_of
from computed.watching import own_slots, settings_of, snapshot, state_buffers


class Sources:
    """Raws, buffers, own parameters and settings of ``members``, with evidence of what they were.

    Tensors are watched where they are registered and at their storage, of which ``snapshots`` are kept, raws first;
    settings by the epoch, or by comparison. ``flags`` says which tensors required a gradient.
    """

    __slots__ = ("epoch", "flags", "settings", "snapshots", "watched")

    def __init__(self, members: Sequence[Member]) -> None:
        links = [link for member in members for link in member.links]
        slots = [raw.slot for member in members for raw in member.raw_slots()]
        slots += [slot for link in links for slot in own_slots(link, slots)]
        tensors = [slot.owner[slot.key] for slot in slots]
        self.epoch = EPOCH[0]
        self.snapshots = [snapshot(tensor) for tensor in tensors]
        self.watched: tuple[tuple[dict[str, Tensor], str, Tensor, int], ...] = tuple(
            (slot.owner, slot.key, tensor, address_of(tensor)) for slot, tensor in zip(slots, tensors, strict=True)
        )
        # no gradient ever reaches the state of an iterated constraint
        states = {id(state) for link in links for state in state_buffers(link)}
        self.flags = tuple((tensor, tensor.requires_grad) for tensor in tensors if id(tensor) not in states)
        self.settings = settings_of(links)

    def unchanged(self) -> bool:
        """Whether all bits and settings are what they were, in the tensors that are registered.

        Plain loops: this is most of the cost of reading a held value.
        """
        if self.epoch != EPOCH[0]:
            if not self.settings.told_unchanged():
                return False
            self.epoch = EPOCH[0]
        for owner, key, tensor, address in self.watched:
            if owner.get(key) is not tensor or address_of(tensor) != address:
                return False
        for attributes, key, value in self.settings.untold:  # noqa: SIM110 - a generator would cost more than the loop
            if attributes.get(key) is not value:
                return False
        return True
