"""What was found once about a computed parameter, and is found anew where that has changed."""

from typing import Any

from computed.chain import Link
from computed.layout import Layout
from computed.raw_slot import RawSlot


class Found:
    """What was found once about where tensors are registered; not copied, since it belongs to these very modules."""

    __slots__ = ("layouts", "raw_slots")

    def __init__(self) -> None:
        self.raw_slots: tuple[tuple[Link, ...], dict[str, Any], tuple[RawSlot, ...]] | None = None
        self.layouts: list[Layout | None] = [None, None]
