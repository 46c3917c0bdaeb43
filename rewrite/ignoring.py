"""What .gitignore files leave out, as git reads them: bytes, folder by folder, the last pattern that fits decides."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

GITIGNORE, REPOSITORY = ".gitignore", ".git"
BOM = b"\xef\xbb\xbf"
SLASH = ord("/")
# blanks at the end say nothing, unless a backslash stands before them
WITHOUT_BLANKS = re.compile(rb"((?:\\.|[^\\])*?) *", re.DOTALL)
TOKEN = re.compile(rb"(?:(?<=/)|\A)\*{2,}(?:/|\Z)|\*+|\?|\[|\\.|[^\\]", re.DOTALL)
IN_SET = re.compile(rb"\[:(?P<named>[^\]:]*):\]|(?P<low>\\.|[^\\])(?:-(?P<high>\\.|[^\\\]]))?", re.DOTALL)
NAMED = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, (*range(32), 127))),
    "digit": string.digits,
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "punct": string.punctuation,
    "space": " \t\n\r",
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}


class _NeverMatchesError(ValueError):
    """A pattern is not well formed; git has no message for that, it just fits nothing."""


@dataclass(frozen=True)
class _Pattern:
    expression: re.Pattern[bytes]
    ignores: bool
    folders_only: bool
    name_only: bool


@dataclass(frozen=True)
class Patterns:
    """The patterns of one .gitignore file.

    >>> patterns = Patterns.of(["*.py", "!/keep.py", "build/"])
    >>> [patterns.decide(path, folder=False) for path in ("a/b.py", "keep.py", "a/keep.py", "build")]
    [True, False, True, None]
    """

    patterns: tuple[_Pattern, ...] = ()

    @classmethod
    def of(cls, lines: Iterable[str]) -> Patterns:
        """The patterns that ``lines`` say, one each."""
        return cls(tuple(found for line in lines if (found := _pattern(os.fsencode(line))) is not None))

    @classmethod
    def read(cls, data: bytes) -> Patterns:
        """The patterns of a file that holds ``data``."""
        lines = (line.removesuffix(b"\r") for line in data.removeprefix(BOM).split(b"\n"))
        return cls(tuple(found for line in lines if (found := _pattern(line)) is not None))

    def decide(self, path: str, *, folder: bool) -> bool | None:
        """Whether ``path``, relative to the file's folder, is ignored; None where no pattern fits."""
        whole = os.fsencode(path)
        name = whole.rpartition(b"/")[2]
        for each in reversed(self.patterns):
            if (folder or not each.folders_only) and each.expression.fullmatch(name if each.name_only else whole):
                return each.ignores
        return None


@dataclass
class Ignored:
    """What the .gitignore files at and below ``top`` leave out. Paths are absolute and below ``top``.

    ``unreadable`` is told of each of these files that cannot be read.
    """

    top: str
    unreadable: Callable[[str, OSError], None]
    _known: dict[str, tuple[tuple[str, Patterns], ...]] = field(default_factory=dict)

    def entry(self, path: str, *, folder: bool) -> bool:
        """Whether ``path`` itself is ignored; whether a folder around it is, has been asked before."""
        for base, patterns in self._at(os.path.dirname(path)):
            inside = path[len(base) :].lstrip(os.sep).replace(os.sep, "/")
            decision = patterns.decide(inside, folder=folder)
            if decision is not None:
                return decision
        return False

    def anywhere(self, path: str, *, folder: bool) -> bool:
        """Whether ``path`` or a folder around it is ignored."""
        around = [str(each) for each in Path(path).parents if Path(self.top) in each.parents]
        return any(self.entry(each, folder=True) for each in reversed(around)) or self.entry(path, folder=folder)

    def _at(self, base: str) -> tuple[tuple[str, Patterns], ...]:
        """The folders whose patterns are for what is in ``base``, the nearest one first."""
        if base not in self._known:
            # what stands around a repository says nothing about it
            outermost = base == self.top or os.path.lexists(os.path.join(base, REPOSITORY))
            outer = () if outermost else self._at(os.path.dirname(base))
            own = self._patterns_in(os.path.join(base, GITIGNORE))
            self._known[base] = ((base, own), *outer) if own.patterns else outer
        return self._known[base]

    def _patterns_in(self, file: str) -> Patterns:
        if not os.path.isfile(file):
            return Patterns()
        try:
            return Patterns.read(Path(file).read_bytes())
        except OSError as error:
            self.unreadable(file, error)
            return Patterns()


def _pattern(line: bytes) -> _Pattern | None:
    """The pattern that a line says; None where it says none, or one that fits nothing."""
    if not line or line.startswith(b"#"):
        return None
    trimmed = WITHOUT_BLANKS.fullmatch(line)
    text = trimmed[1] if trimmed else line
    ignores = not text.startswith(b"!")
    text = text if ignores else text[1:]
    folders_only = text.endswith(b"/")
    text = text[:-1] if folders_only else text
    name_only = b"/" not in text
    try:
        expression = b"".join(_translated(text.removeprefix(b"/")))
    except _NeverMatchesError:
        return None
    return _Pattern(re.compile(expression, re.DOTALL), ignores, folders_only, name_only)


def _translated(glob: bytes) -> Iterator[bytes]:
    """A regular expression for ``glob``, in pieces."""
    at = 0
    while at < len(glob):
        token = TOKEN.match(glob, at)
        if token is None:  # a backslash at the end
            raise _NeverMatchesError
        at = token.end()
        match token[0]:
            case b"[":
                characters, at = _set(glob, at)
                yield b"[%s]" % b"".join(b"\\x%02x" % each for each in sorted(characters)) if characters else b"(?!)"
            case b"?":
                yield b"[^/]"
            case several if several.startswith(b"**") and several.endswith(b"/"):
                yield b"(?:.*/)?"
            case stars if stars.startswith(b"*"):
                yield b".*" if _alone(glob, *token.span()) else b"[^/]*"
            case literal:
                yield re.escape(literal[-1:])


def _alone(glob: bytes, begin: int, end: int) -> bool:
    """Whether these stars are two or more, and all that the last part of the path has."""
    return end - begin > 1 and end == len(glob) and (begin == 0 or glob[begin - 1] == SLASH)


def _set(glob: bytes, at: int) -> tuple[set[int], int]:
    """The characters of a set whose bracket stands before ``at``, and where what follows it begins."""
    negated = glob[at : at + 1] in (b"!", b"^")
    at += negated
    found: set[int] = set()
    first = True
    while first or glob[at : at + 1] != b"]":
        first = False
        part = IN_SET.match(glob, at)
        if part is None:  # it is not closed
            raise _NeverMatchesError
        at = part.end()
        if part["named"] is not None:
            if part["named"].decode("latin-1") not in NAMED:
                raise _NeverMatchesError
            found.update(NAMED[part["named"].decode("latin-1")].encode())
        else:
            low = part["low"][-1]
            found.update(range(low, (part["high"] or part["low"])[-1] + 1))
    return (set(range(256)) - found if negated else found) - {SLASH}, at + 1
