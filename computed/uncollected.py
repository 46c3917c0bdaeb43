"""Work that makes many objects and keeps them, without Python looking again and again for those to free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection of cycles inside; what is not in cycles is freed as always.

    Syntax trees are hundreds of thousands of objects without a cycle, and so is what is found out about a model of ten
    thousand parameters: looking through them takes more than half of the time otherwise.
    https://docs.python.org/3/library/gc.html#gc.disable
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
