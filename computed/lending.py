"""A value that is not held, but lent to whoever reads it: a write to it must not be lost.

Where holding is off, a read without gradients gives a tensor that its reader may write through, also by a view that is
gone at once (``init.zeros_(w[pad])``). It is kept and watched until the next value is lent, by whatever computed
parameter: then what was written is projected, and the tensor is let go of unless somebody has it still. So one such
value is alive at a time. A read with gradients gives a tensor that refuses in-place writes, as the held one does.
"""

import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from computed.member import Member
from computed.overwritten import outlast_readers
from computed.sources import Sources
from computed.torch_private import CAN_WATCH, address_of, alias
from computed.watching import UnwatchableError, same_bits, snapshot


class Owner(Member, Protocol):
    """Whose value is lent."""

    _lent: "Lent | None"

    def absorb(self) -> None:
        """Project what was written."""


class Lent:
    """A value on loan, with the bits that it and all that it was computed from had.

    Where it ``is_true`` no longer it is given to nobody else, and those who have it may still write to it.
    """

    def __init__(self, owner: Owner, value: Tensor) -> None:
        self.owner = weakref.ref(owner)
        self.kept: Tensor | None = value
        self.references = [weakref.ref(value)]
        self.bits = snapshot(value)
        self.is_true = True
        self.sources = Sources(owner, training=True)  # all that could matter

    def written(self) -> Tensor | None:
        """The value, where somebody has written to it."""
        value = self.kept
        if value is None or address_of(value) == address_of(self.bits):
            return None
        outlast_readers(value, self.bits)
        return None if same_bits(value, self.bits) else value

    def without_gradients(self) -> Tensor:
        """The value for those who write to it with gradients on; what they have counts as the value itself."""
        assert self.kept is not None
        given = self.kept.detach()
        self.references.append(weakref.ref(given))
        return given

    def is_returned(self) -> bool:
        """Whether nobody else has the value; a view of it keeps it alive, as its base."""
        self.kept = None
        self.kept = next((value for one in self.references if (value := one()) is not None), None)
        return self.kept is None


_out: list[Lent] = []


def lend(owner: Owner, value: Tensor) -> Lent | None:
    """A loan of ``value``, or None where storages cannot be watched; loans that were returned end."""
    _collect()
    if not CAN_WATCH or value.is_meta:
        return None
    try:
        lent = Lent(owner, value)
    except UnwatchableError:
        return None
    _out.append(lent)
    return lent


def _collect() -> None:
    for lent in list(_out):
        owner = lent.owner()
        if owner is not None and owner._lent is lent:
            owner.absorb()
        if owner is None or owner._lent is not lent or lent.is_returned():
            _out.remove(lent)
            if owner is not None and owner._lent is lent:
                owner.__dict__["_lent"] = None


class Unwritable(torch.autograd.Function):
    """The identity; its output is a view made in a custom function, and refuses in-place writes in grad mode."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """A view."""
        return alias(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        """The gradient as it comes."""
        return cotangent
