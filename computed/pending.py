"""What is pending: state that no step has committed yet, and a value that was written and not projected yet."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from computed.constraint import State
from computed.factors import Factors
from computed.held import Held
from computed.watching import Bits, same_bits


class PendingState(NamedTuple):
    """The state of a train-mode evaluation that no step has committed yet, and what shows that its raws moved."""

    states: Sequence[State]
    raws: Held | Factors | Bits | None


class Written(NamedTuple):
    """A value that was written and not projected yet; ``before`` is None where it must be projected in any case."""

    value: Tensor
    before: Tensor | None
    initial: bool = False
    bits: Tensor | None = None
    raws: tuple[tuple[Tensor, Tensor], ...] = ()

    def is_overtaken(self) -> bool:
        """Whether somebody wrote to a raw since, and nobody to the value: the raw is what was meant."""
        if self.bits is None or not same_bits(self.value, self.bits):
            return False
        return any(not same_bits(raw, kept) for raw, kept in self.raws)
