"""What a value was computed from, and whether it still is what it was."""

from torch import Tensor

from computed.epoch import CELL as EPOCH
from computed.member import Member
from computed.torch_private import address_of
from computed.watching import own_slots, same_bits, settings_of, snapshot, state_buffers


class Sources:
    """Raws, buffers, own parameters and settings of ``member``, with evidence of what they were.

    Tensors are ``watched`` where they are registered and at their storage; ``snapshots`` keep their bits, the raws'
    first. Settings are told by the epoch, or by comparison. ``flags`` says which tensors required a gradient.
    """

    __slots__ = ("epoch", "flags", "raws", "settings", "snapshots", "watched")

    def __init__(self, member: Member, *, training: bool) -> None:
        slots = [raw.slot for raw in member.raw_slots()]
        self.raws = tuple(slot.owner[slot.key] for slot in slots)
        slots += [slot for link in member.links for slot in own_slots(link, slots, training=training)]
        tensors = [slot.owner[slot.key] for slot in slots]
        self.epoch = EPOCH[0]
        self.snapshots = tuple(snapshot(tensor) for tensor in tensors)
        self.watched: tuple[tuple[dict[str, Tensor], str, Tensor, int], ...] = tuple(
            (slot.owner, slot.key, tensor, address_of(tensor)) for slot, tensor in zip(slots, tensors, strict=True)
        )
        # no gradient ever reaches the state of an iterated constraint
        states = {id(state) for link in member.links for state in state_buffers(link)}
        self.flags = tuple((tensor, tensor.requires_grad) for tensor in tensors if id(tensor) not in states)
        self.settings = settings_of(member.links)

    def unchanged(self) -> bool:
        """Whether all bits and settings are what they were, in the tensors that are registered."""
        return self.settings_unchanged() and all(
            owner.get(key) is tensor and address_of(tensor) == address for owner, key, tensor, address in self.watched
        )

    def watch_anew(self) -> bool:
        """Watch buffers anew that were written with the bits that they had; whether that was all that had changed.

        DistributedDataParallel does that to all buffers before each forward. Raws stay as they are: their snapshots are
        the leaves of the graph.
        """
        moved = [
            index
            for index, (owner, key, tensor, address) in enumerate(self.watched)
            if owner.get(key) is not tensor or address_of(tensor) != address
        ]
        if not moved or moved[0] < len(self.raws):
            return False
        if not all(
            owner.get(key) is tensor and same_bits(tensor, self.snapshots[index])
            for index, (owner, key, tensor, _) in enumerate(self.watched)
            if index in moved
        ):
            return False
        snapshots, watched = list(self.snapshots), list(self.watched)
        for index in moved:
            owner, key, tensor, _ = watched[index]
            snapshots[index] = snapshot(tensor)
            watched[index] = (owner, key, tensor, address_of(tensor))
        self.snapshots, self.watched = tuple(snapshots), tuple(watched)
        return True

    def settings_unchanged(self) -> bool:
        """Whether all settings are what they were."""
        if self.epoch != EPOCH[0]:
            if not self.settings.told_unchanged():
                return False
            self.epoch = EPOCH[0]
        return self.settings.untold_unchanged()

    def moved(self) -> bool:
        """Whether the bits of some raw are others now."""
        kept = self.snapshots[: len(self.raws)]
        return any(
            raw.shape != before.shape or not same_bits(raw, before) for raw, before in zip(self.raws, kept, strict=True)
        )
