"""The changes of a model that can be taken back, kept on the module that was given to the call that made them."""

import itertools
from typing import Any

from torch import nn

from surgery.restoring import Record

ATTRIBUTE = "_surgery_history"
_numbers = itertools.count(1)


class History:
    """Records, last one last. It belongs to one object: copies and pickles of the model start without."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "History":
        """Start anew."""
        return History()

    def __copy__(self) -> "History":
        """Start anew."""
        return History()

    def __reduce__(self) -> tuple[type["History"], tuple[()]]:
        """Start anew."""
        return History, ()


def next_number() -> int:
    """The number of the next change, which orders the changes of all models."""
    return next(_numbers)


def remember(model: nn.Module, record: Record) -> None:
    """Keep ``record`` on ``model``."""
    vars(model).setdefault(ATTRIBUTE, History()).records.append(record)


def latest(model: nn.Module) -> tuple[nn.Module, Record] | None:
    """The last change that is kept on ``model`` or on a module inside, and where."""
    kept = [(module, record) for module in model.modules() for record in history_of(module)]
    return max(kept, key=lambda pair: pair[1].number, default=None)


def history_of(module: nn.Module) -> list[Record]:
    """The records kept on ``module`` itself."""
    history = vars(module).get(ATTRIBUTE)
    return history.records if isinstance(history, History) else []


def release_disturbed(model: nn.Module) -> None:
    """Free what is kept for changes that a bake has overtaken."""
    for module in model.modules():
        for record in history_of(module):
            if record.disturbed() is not None:
                record.let_go()


def drop(module: nn.Module, record: Record) -> None:
    """Forget ``record``; a module without records has no trace of them."""
    history_of(module).remove(record)
    forget(module, record)


def forget(module: nn.Module, record: Record) -> None:
    """Leave no trace of ``record``, if it has come to stand here."""
    records = history_of(module)
    records[:] = [other for other in records if other is not record]
    if not records:
        vars(module).pop(ATTRIBUTE, None)
