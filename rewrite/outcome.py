"""What became of one file."""

from __future__ import annotations

from dataclasses import dataclass

from rewrite.code import Weight
from rewrite.codes import CODES
from rewrite.diagnostics import Diagnostic


@dataclass(frozen=True)
class Outcome:
    """A file before and after, and all that was said of it. ``after`` is ``before`` where nothing changes.

    ``matched`` are the positions of the rules that match something in this file or those that were read with it.
    """

    path: str
    before: str
    after: str
    diagnostics: tuple[Diagnostic, ...]
    matched: frozenset[int] = frozenset()

    @property
    def changed(self) -> bool:
        """Whether there is something to write."""
        return self.before != self.after

    @property
    def edits(self) -> tuple[Diagnostic, ...]:
        """What is changed."""
        return self._of(Weight.EDIT)

    @property
    def left(self) -> tuple[Diagnostic, ...]:
        """What was left, with the reason."""
        return self._of(Weight.LEFT)

    @property
    def failed(self) -> bool:
        """Whether the file could not be read, or its edit was refused."""
        return bool(self._of(Weight.FAILED))

    def _of(self, weight: Weight) -> tuple[Diagnostic, ...]:
        return tuple(each for each in self.diagnostics if CODES[each.code].weight is weight)
