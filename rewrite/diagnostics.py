"""What the source route says of a place in a file: a code, a position, one sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Diagnostic:
    """One thing that was found; line and column count from 1, the column in characters.

    >>> print(Diagnostic("model.py", 3, 9, "CS101", "self.norm cannot be resolved"))
    model.py:3:9: CS101 self.norm cannot be resolved
    """

    path: str
    line: int
    column: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.code} {self.message}"
