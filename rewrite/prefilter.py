"""Which files a rule can be about, told from their bytes: most files of a tree need not be read as Python."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from surgery.rules.pattern import Pattern

# where layers and parameters come from; a file without it makes none
FRAMEWORK = b"nn"
# names may be given here that are written nowhere
DYNAMIC = re.compile(rb"add_module|setattr|register_(?:module|parameter|buffer)|ModuleDict")
PLAIN = re.compile(r"[\w*?]+")


@dataclass(frozen=True)
class Prefilter:
    """For each rule the expressions of which a file must have all."""

    asked: tuple[tuple[re.Pattern[bytes], ...], ...]

    @classmethod
    def of(cls, patterns: Iterable[Pattern]) -> Prefilter:
        """What files must have that these patterns are about."""
        return cls(tuple(tuple(_asked(pattern.text)) for pattern in patterns))

    def passes(self, data: bytes) -> bool:
        """Whether a file with this text may have something that a rule matches.

        >>> conv = Prefilter.of([Pattern.parse("*.conv*.weight")])
        >>> conv.passes(b"self.conv1 = nn.Conv2d(1, 1, 1)"), conv.passes(b"self.fc = nn.Linear(1, 1)  # convert")
        (True, False)
        """
        return FRAMEWORK in data and any(all(each.search(data) for each in asked) for asked in self.asked)


def _asked(text: str) -> Iterable[re.Pattern[bytes]]:
    """What must be written where a name is given: the host's name, if not among dynamic ones, and its type.

    Where the host's own name is not in the file, its parameter stands in another one's.
    """
    if text.startswith("re:"):
        return
    host, _, _ = text.rpartition(".")
    name, _, kind = host.rpartition(".")[2].partition("@")
    if (word := _word(name)) is not None:
        given = rb"\.\s*%b\b|[\"'][^\"'\s]*%b|\b%b\s*[=:]" % (word, word, word)
        yield re.compile(given + rb"|" + DYNAMIC.pattern)
    if (word := _word(kind)) is not None:
        yield re.compile(rb"\b%b\b" % word)


def _word(text: str) -> bytes | None:
    """An expression for the identifiers that a part of a pattern matches; None where it asks for too little."""
    if not PLAIN.fullmatch(text) or not any(char.isalpha() for char in text):
        return None
    return text.encode().replace(b"*", rb"\w*").replace(b"?", rb"\w")
