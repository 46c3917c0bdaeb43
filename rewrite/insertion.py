"""Text put into a file, or in the place of a part of it; everything else stays, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# ranks of whole lines, before all others, and of what ends a statement, after all others
IMPORT_LINE, STATEMENT_LINE, DECORATOR_LINE, STATEMENT_END = -(2**62), -(2**61), -(2**60), 2**60


@dataclass(frozen=True, order=True)
class Insertion:
    """``text`` goes before the character at ``offset``. Of several at one place the one of less ``rank`` comes first.

    An opening that encloses more comes first, a closing that encloses more comes last: their ranks are lengths.
    ``removed`` characters from there on go.
    """

    offset: int
    rank: int
    text: str
    removed: int = 0


def inserted(text: str, insertions: Iterable[Insertion]) -> str:
    """``text`` with all insertions.

    >>> inserted("f(x)", [Insertion(4, 0, ")"), Insertion(0, 0, "g(")])
    'g(f(x))'
    >>> inserted("f(x)", [Insertion(0, 0, "g", removed=1)])
    'g(x)'
    """
    parts, done = [], 0
    for each in sorted(insertions):
        parts += [text[done : each.offset], each.text]
        done = each.offset + each.removed
    return "".join([*parts, text[done:]])
