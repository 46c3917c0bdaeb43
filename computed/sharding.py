"""Tensors of which only a part is here."""

from torch import Tensor


def is_sharded(subject: object) -> bool:
    """Whether ``subject`` is a DTensor: sharded, or replicated, by `torch.distributed.tensor`."""
    # by name: importing torch.distributed.tensor costs half a second, and only who has imported it has one
    return isinstance(subject, Tensor) and "DTensor" in [cls.__name__ for cls in type(subject).__mro__]
