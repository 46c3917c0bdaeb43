"""One value that is held, with the evidence that it is still true."""

from collections.abc import Sequence

import torch
from torch import Tensor

from computed.constraint import State
from computed.epoch import CELL as EPOCH
from computed.inner import Inner
from computed.overwritten import outlast_readers
from computed.sources import Sources
from computed.torch_private import address_of
from computed.watching import UnwatchableError, same_bits, snapshot

# bound once, for the cost of a read
grad_enabled = torch.is_grad_enabled
# no tensor has its data there, and the epoch never stands there
NOWHERE = -1


class Held:
    """A value and what it was computed from.

    ``plain`` is the value without gradients, ``outer`` the one in the autograd graph; ``with_graph`` says whether
    ``outer`` may be given where gradients are taken. ``inner`` is the evaluation, in which it has its ``place``;
    ``states`` is what that gave for each link, until somebody reads the value. The settings are those of ``epoch``, the
    data lie at ``address``.
    """

    __slots__ = (
        "address",
        "epoch",
        "inner",
        "outer",
        "place",
        "plain",
        "snapshot",
        "sources",
        "states",
        "version",
        "watched",
        "with_graph",
    )

    def __init__(
        self,
        plain: Tensor,
        outer: Tensor,
        sources: Sources,
        inner: Inner,
        place: int,
        states: Sequence[State],
        *,
        with_graph: bool,
    ) -> None:
        self.plain = plain
        self.outer = outer
        self.inner = inner
        self.place = place
        self.states: Sequence[State] | None = states
        self.sources = sources
        self.watched = sources.watched
        self.with_graph = with_graph
        self.version = plain._version
        self.epoch = NOWHERE
        self._watch()

    def usable(self) -> bool:
        """Whether the value is still true and untouched, with a graph where one is wanted."""
        if address_of(self.plain) != self.address:
            return False
        if not self.sources.unchanged() and not self._watched_anew():
            return False
        return not grad_enabled() or self.in_graph() is not None

    def in_graph(self) -> Tensor | None:
        """The value where gradients are taken; None where it must be evaluated for them."""
        for raw, needs_grad in self.sources.flags:
            if raw.requires_grad is not needs_grad:
                return None
        return self.outer if self.with_graph else None

    def settings_unchanged(self) -> bool:
        """Whether all settings are what they were; other people's are looked at each time."""
        if not self.sources.settings_unchanged():
            return False
        if not self.sources.settings.untold:
            self.epoch = EPOCH[0]
        return True

    def untouched(self) -> bool:
        """Whether nobody has written to the value; a read that looked like a write is forgiven."""
        if address_of(self.plain) == self.address:
            return True
        outlast_readers(self.plain, self.snapshot)
        if not same_bits(self.plain, self.snapshot):
            return False
        if self.plain._version != self.version:
            self.doubt()  # written with the bits that it had: autograd refuses it, and rightly
            return True
        try:
            self._watch()
        except UnwatchableError:
            self.doubt()  # the next read evaluates
        return True

    def doubt(self) -> None:
        """Look closely before the next read: a write of the same bits may leave the address, and spoils the graph."""
        self.address = NOWHERE

    def let_go(self) -> None:
        """An optimizer is about to move the raws: share no memory with them any longer."""
        self.sources.let_go()
        self.inner.let_go(self.place)

    def moved(self) -> bool:
        """Whether the bits of some raw differ from those that the value was computed from."""
        return self.sources.moved()

    def _watched_anew(self) -> bool:
        try:
            same = self.sources.watch_anew()
        except UnwatchableError:
            return False
        self.watched = self.sources.watched
        return same and self.sources.unchanged()

    def _watch(self) -> None:
        self.snapshot = snapshot(self.plain)
        self.address = address_of(self.plain)
