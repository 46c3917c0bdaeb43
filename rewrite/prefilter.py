"""Which files a rule can be about, told from their bytes: most files of a tree need not be read as Python."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from surgery.rules.pattern import Pattern

# where layers and parameters come from; a file without it makes none
FRAMEWORK = b"nn"
WILD = re.compile(r"[^\w]+")
NOT_PLAIN = frozenset("{}[]!")


@dataclass(frozen=True)
class Prefilter:
    """For each rule the words of which a file must have all."""

    words: tuple[frozenset[bytes], ...]

    @classmethod
    def of(cls, patterns: Iterable[Pattern]) -> Prefilter:
        """What files must have that these patterns are about."""
        return cls(tuple(_words(pattern.text) for pattern in patterns))

    def passes(self, data: bytes) -> bool:
        """Whether a file with this text may have something that a rule matches.

        >>> conv = Prefilter.of([Pattern.parse("*.conv*.weight")])
        >>> conv.passes(b"self.conv1 = nn.Conv2d(1, 1, 1)"), conv.passes(b"self.fc = nn.Linear(1, 1)")
        (True, False)
        """
        return FRAMEWORK in data and any(all(word in data for word in words) for words in self.words)


def _words(text: str) -> frozenset[bytes]:
    """What must be written out where a name is given: the longest piece of the host's name, and of its type.

    Where the host's own name is not in the file, its parameter stands in another one's.
    """
    if text.startswith("re:"):
        return frozenset()
    host, _, _ = text.rpartition(".")
    name, _, kind = host.rpartition(".")[2].partition("@")
    return frozenset(word for each in (name, kind) if (word := _piece(each)))


def _piece(text: str) -> bytes:
    if NOT_PLAIN & set(text):
        return b""
    pieces = [piece for piece in WILD.split(text) if piece and not piece.isdecimal()]
    return max(pieces, key=len, default="").encode()
