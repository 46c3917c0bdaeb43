"""What a value was computed from, and whether it still is what it was."""

from computed.epoch import CELL as EPOCH
from computed.layout import Watched
from computed.member import Member
from computed.torch_private import address_of
from computed.watching import same_bits, snapshot


class Sources:
    """Raws, buffers, own parameters and settings of ``member``, with evidence of what they were.

    Tensors are ``watched`` where they are registered and at their storage; ``snapshots`` keep their bits, the raws'
    first; none are left once an optimizer was about to move the raws: it would copy what they share with them. Settings
    are told by the epoch, or by comparison. ``flags`` says which tensors required a gradient.
    """

    __slots__ = ("epoch", "flags", "raws", "settings", "snapshots", "watched")

    def __init__(self, member: Member, *, training: bool) -> None:
        layout = member.registered(training=training)
        tensors, snapshots, watched = layout.watch()
        self.raws = tuple(tensors[: layout.raws])
        self.epoch = layout.epoch
        self.snapshots = tuple(snapshots)
        self.watched: tuple[Watched, ...] = tuple(watched)
        self.flags = tuple([(tensors[i], tensors[i].requires_grad) for i in layout.flagged])
        self.settings = layout.settings

    def unchanged(self) -> bool:
        """Whether all bits and settings are what they were, in the tensors that are registered."""
        for owner, key, tensor, address in self.watched:
            if owner.get(key) is not tensor or address_of(tensor) != address:
                return False
        return self.settings_unchanged()

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

    def let_go(self) -> None:
        """An optimizer is about to move the raws: keep their bits no longer."""
        self.snapshots = ()

    def require_unmoved(self) -> None:
        """Raise where some raw is another now, so that the value cannot be computed from it again."""
        if self.moved():
            raise RuntimeError(
                "one of the raws of a computed parameter has been modified since its value was computed, so its "
                "second derivative cannot be taken; take it before the optimizer steps"
            )

    def moved(self) -> bool:
        """Whether the bits of some raw are others now; an optimizer has moved those that are not kept."""
        if not self.snapshots:
            return bool(self.raws)
        kept = self.snapshots[: len(self.raws)]
        return any(
            raw.shape != before.shape or not same_bits(raw, before) for raw, before in zip(self.raws, kept, strict=True)
        )
