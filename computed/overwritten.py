"""The memory that a value had before it was written to: another thread may be in the midst of reading it.

A snapshot shares memory with its tensor until somebody writes; from then on the tensor has memory of its own, and what
it had belongs to the snapshot alone. A plain tensor stays where it is, and a reader beside a writer sees old numbers or
new ones; with the snapshot's memory freed under it, it would see whatever is put there next.
"""

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_KEPT = WeakTensorKeyDictionary()


def outlast_readers(value: Tensor, snapshot: Tensor) -> None:
    """Keep what ``snapshot`` has as long as somebody has ``value``, a view of it included; the last one only."""
    _KEPT[value] = snapshot
