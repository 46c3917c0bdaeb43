"""The computed parameters that are alive, for the hook that runs before an optimizer steps."""

import weakref
from typing import Any


class Living:
    """A weak set with a count of its changes, so that what was derived from it can tell whether it still holds."""

    def __init__(self) -> None:
        self.changes = 0
        self._references: dict[int, weakref.ref[Any]] = {}

    def add(self, parameter: object) -> None:
        """Note a new computed parameter."""
        key = id(parameter)
        self._references[key] = weakref.ref(parameter, lambda _: self._references.pop(key, None))
        self.changes += 1

    def changed(self) -> None:
        """Note that some computed parameter has other raws than before."""
        self.changes += 1

    def all(self) -> list[Any]:
        """Those alive now."""
        return [found for found in (reference() for reference in list(self._references.values())) if found is not None]


living = Living()
