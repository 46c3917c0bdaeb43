"""What a hold needs to know of a computed parameter."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from computed.chain import Link
from computed.layout import Layout
from computed.watching import Slot


class Raw(Protocol):
    """A raw and where it is registered."""

    @property
    def slot(self) -> Slot:
        """Where it is registered."""

    @property
    def tensor(self) -> Tensor:
        """What is registered there."""


class Member(Protocol):
    """What a hold needs to know of a computed parameter."""

    links: tuple[Link, ...]
    _name: str

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the value."""

    @property
    def device(self) -> torch.device:
        """The device of the raws."""

    def raw_slots(self) -> Sequence[Raw]:
        """The raws, in the order of the chain."""

    def registered(self, *, training: bool) -> Layout:
        """Where all that its value depends on is registered."""

    def may_hold(self, *, training: bool) -> bool:
        """Whether its value may be held at all."""
