"""The words that occur in a model's names, and which of them a mistyped one may have been."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from computed.nearmiss import near_misses
from surgery.rules.matching import Name

WORD = re.compile(r"\w+")
SET = re.compile(r"\[[^]]+\]?")  # its letters are no words
CLOSED_BEFORE = frozenset(("", ".", "{", ",", "@"))
CLOSED_AFTER = frozenset(("", ".", "}", ",", "@"))
LEAVES = 4


@dataclass(frozen=True)
class Word:
    """A run of letters in a pattern, and whether a name may go on before and after it."""

    text: str
    begin: int
    end: int
    open_before: bool
    open_after: bool
    is_type: bool


class Vocabulary:
    """Words of dotted names, and of the classes of hosts."""

    def __init__(self, names: Sequence[Name]) -> None:
        self.parts = frozenset(part for name in names for part in name.text.split("."))
        self.types = frozenset(kind for types in {name.host_types for name in names} for kind in types)
        count = Counter(name.text.rpartition(".")[2] for name in names if not name.buffer)
        # The last names of parameters: `weight` first, then by how often they occur.
        self.leaves = sorted(count, key=lambda leaf: (leaf != "weight", -count[leaf], leaf))[:LEAVES]
        self._near: dict[tuple[frozenset[str], str], tuple[str, ...]] = {}

    def knows(self, word: Word) -> bool:
        """Whether some name, or class, reads as ``word`` does."""
        known = self.types if word.is_type else self.parts
        match word.open_before, word.open_after:
            case False, False:
                return word.text in known
            case True, False:
                return any(part.endswith(word.text) for part in known)
            case False, True:
                return any(part.startswith(word.text) for part in known)
            case _:
                return any(word.text in part for part in known)

    def meant(self, word: Word) -> tuple[str, ...]:
        """What ``word`` may have been meant to be; nothing for numbers, which are hardly misspelt."""
        if word.text.isdigit():
            return ()
        is_begin = not word.open_after and self.knows(replace(word, open_after=True))
        return (f"{word.text}*",) * is_begin + self._nearest(word)

    def _nearest(self, word: Word) -> tuple[str, ...]:
        if word.is_type:
            return self.near(word.text, self.types)
        return self.near(word.text, self._pieces if word.open_before or word.open_after else self._spelt)

    def near(self, text: str, known: frozenset[str]) -> tuple[str, ...]:
        """Those of ``known`` that are spelt nearly as ``text``."""
        key = (known, text)
        if key not in self._near:
            self._near[key] = near_misses(text, sorted(known))
        return self._near[key]

    @cached_property
    def lowered_types(self) -> frozenset[str]:
        """The classes as somebody may have written them, where no name is written so."""
        return frozenset(map(str.lower, self.types)) - frozenset(map(str.lower, self.parts))

    @cached_property
    def _spelt(self) -> frozenset[str]:
        return frozenset(part for part in self.parts if not part.isdigit())

    @cached_property
    def _pieces(self) -> frozenset[str]:
        """Whole parts, and what is left of them where they are cut at an underscore."""
        cuts = ((part, match.start()) for part in self._spelt for match in re.finditer("_", part))
        pieces = {piece for part, at in cuts for piece in (part[:at], part[at:], part[at + 1 :])}
        return self._spelt | pieces - {""}


def words(text: str) -> Iterator[Word]:
    """The words of a pattern, those of its sets left out."""
    readable = SET.sub(lambda found: "[" * len(found.group()), text)
    for found in WORD.finditer(readable):
        begin, end = found.span()
        before, after = readable[:begin][-1:], readable[end:][:1]
        is_type = "." not in readable[:begin].rpartition("@")[2] and "@" in readable[:begin]
        yield Word(found.group(), begin, end, before not in CLOSED_BEFORE, after not in CLOSED_AFTER, is_type)
