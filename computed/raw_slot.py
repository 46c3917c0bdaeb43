"""Where a raw is registered."""

from typing import NamedTuple

from torch import nn

from computed.constraint import Role
from computed.errors import ComputedParameterError
from computed.watching import Slot


class RawSlot(NamedTuple):
    """A raw by its full role, where it is registered, and whether gradients reach it through the links behind."""

    name: str
    role: Role
    slot: Slot
    reached: bool

    @property
    def tensor(self) -> nn.Parameter:
        """The raw that is registered there now."""
        found: nn.Parameter | None = self.slot.owner.get(self.slot.key)
        if found is None:
            raise ComputedParameterError(
                f"the raw {self.name!r} of a computed parameter was taken away; FullyShardedDataParallel does that "
                f"without use_orig_params=True"
            )
        return found
