"""Which files a rule can be about, told from their bytes: most files of a tree need not be read as Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rewrite.occurrences import Occurrences
from rewrite.source import Source
from rewrite.wanted import Wanted
from surgery.rules.pattern import Pattern

# where layers and parameters come from; a file without it makes none
FRAMEWORK = b"nn"


@dataclass(frozen=True)
class Prefilter:
    """What files must have that some rules are about, for each rule."""

    wanted: tuple[Wanted, ...]

    @classmethod
    def of(cls, patterns: Iterable[Pattern]) -> Prefilter:
        """What files must have that these patterns are about."""
        return cls(tuple(dict.fromkeys(map(Wanted.of, patterns))))

    def passes(self, data: bytes) -> bool:
        """Whether a file with these bytes may have something that a rule matches.

        >>> conv = Prefilter.of([Pattern.parse("*.conv*.weight")])
        >>> conv.passes(b"self.conv1 = nn.Conv2d(1, 1, 1)"), conv.passes(b"self.fc = nn.Linear(1, 1)  # convert")
        (True, False)
        """
        return FRAMEWORK in data and any(
            (each.name is None or each.name.given.search(data)) and (each.kind is None or each.kind.search(data))
            for each in self.wanted
        )

    def passes_as_python(self, source: Source) -> bool:
        r"""Whether what is written in a file may be what a rule asks for, by where it stands.

        A name is given where it is stored, not where it is read, spoken of or an argument.

        >>> conv = Prefilter.of([Pattern.parse("*.conv*.weight")])
        >>> conv.passes_as_python(Source("a.py", "from torch import nn\ny = self.conv1(x)  # and self.conv2"))
        False
        """
        found = Occurrences(source)
        return any(
            (wanted.name is None or found.give(wanted.name)) and (wanted.kind is None or found.make(wanted.kind))
            for wanted in self.wanted
        )
