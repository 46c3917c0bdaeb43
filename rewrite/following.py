"""A pattern followed along names of which only parts are known: does it match all of them, none, or some?"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from enum import Enum
from functools import cache
from typing import Any, Protocol

from rewrite.items import Name, Part, Path
from surgery.rules.automaton import Automaton, State
from surgery.rules.pattern import Pattern

MANY = 64


class Verdict(Enum):
    """What a pattern says of all the names that a parameter can have."""

    ALL = "all"
    NONE = "none"
    SOME = "some"


class Follower(Protocol):
    """A pattern that is followed. What was read so far is a value; ``nothing`` is that of no name at all."""

    nothing: Any
    start: Any
    anywhere: Any

    def along(self, reached: Any, path: Path, *, inside: bool) -> Any:
        """What is reached by ``path``; ``inside``: and by the dot after it, towards what stands below."""
        ...

    def either(self, one: Any, other: Any) -> Any:
        """What is reached by either."""
        ...

    def verdict(self, reached: Any) -> Verdict:
        """Whether the names that lead here are matches."""
        ...


@cache
def follower(pattern: Pattern) -> Follower:
    """Follow ``pattern``, by its automaton where it has one.

    >>> from rewrite.items import INDEX, literal
    >>> conv = follower(Pattern.parse("*.conv*.weight"))
    >>> path = (literal("layer1"), INDEX, literal("conv1"), literal("weight"))
    >>> conv.verdict(conv.along(conv.anywhere, path, inside=False))
    <Verdict.ALL: 'all'>
    """
    return ByStates(pattern.automaton) if pattern.automaton is not None else ByTexts(pattern.matches)


class ByStates:
    """By sets of states of an automaton: exact for any kind of part."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._in_name = [symbol for symbol in automaton.symbols if symbol != "."]
        self._digits = [symbol for symbol in automaton.symbols if symbol.isdecimal()]
        self._known: dict[tuple[frozenset[State], Hashable], frozenset[State]] = {}
        self.nothing: frozenset[State] = frozenset()
        self.start = frozenset([automaton.start])
        self.anywhere = self.start | self._read(self._loop(self.start, automaton.symbols), ".")

    def along(self, reached: frozenset[State], path: Path, *, inside: bool) -> frozenset[State]:
        """The states after each name of ``path`` and the dots between them."""
        for position, name in enumerate(path):
            if position:
                reached = self._read(reached, ".")
            reached = self._after(reached, name)
        return self._read(reached, ".") if inside and path else reached

    def either(self, one: frozenset[State], other: frozenset[State]) -> frozenset[State]:
        """All states of both."""
        return one | other

    def verdict(self, reached: frozenset[State]) -> Verdict:
        """By which of the states accept; a parameter without any name is matched by nothing."""
        return _verdict(state.accepting for state in reached)

    def _after(self, reached: frozenset[State], name: Name) -> frozenset[State]:
        key = reached, name
        if key not in self._known:
            for each in name:
                reached = self._read(reached, each) if isinstance(each, str) else self._part(reached, each)
            self._known[key] = reached
        return self._known[key]

    def _read(self, reached: frozenset[State], text: str) -> frozenset[State]:
        for char in text:
            reached = self._automaton.step(reached, char)
        return reached

    def _part(self, reached: frozenset[State], part: Part) -> frozenset[State]:
        match part:
            case Part.DIGITS:
                once = frozenset(state for digit in self._digits for state in self._automaton.step(reached, digit))
                return self._loop(once, self._digits)
            case Part.IN_NAME:
                return self._loop(reached, self._in_name)
            case Part.ANYTHING:
                return self._loop(reached, self._automaton.symbols)

    def _loop(self, reached: frozenset[State], symbols: Iterable[str]) -> frozenset[State]:
        """All states that any number of ``symbols`` leads to."""
        found, new = set(reached), reached
        while new:
            new = frozenset(state for symbol in symbols for state in self._automaton.step(new, symbol)) - found
            found |= new
        return frozenset(found)


class ByTexts:
    """By the texts themselves, for a regular expression: None where they cannot be listed."""

    def __init__(self, matches: Callable[[str], bool]) -> None:
        self._matches = matches
        self.nothing: frozenset[str] | None = frozenset()
        self.start: frozenset[str] | None = frozenset([""])
        self.anywhere: frozenset[str] | None = None

    def along(self, reached: frozenset[str] | None, path: Path, *, inside: bool) -> frozenset[str] | None:
        """Every text with ``path`` after it."""
        if not reached or not path:
            return reached
        if any(isinstance(each, Part) for name in path for each in name):
            return None
        text = ".".join("".join(map(str, name)) for name in path) + ("." if inside else "")
        return frozenset(before + text for before in reached)

    def either(self, one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
        """All texts of both; None where they become too many."""
        both = None if one is None or other is None else one | other
        return None if both is not None and len(both) > MANY else both

    def verdict(self, reached: frozenset[str] | None) -> Verdict:
        """By which of the texts are matches."""
        return Verdict.SOME if reached is None else _verdict(map(self._matches, reached))


def _verdict(accepted: Iterable[bool] | Iterator[bool]) -> Verdict:
    found = set(accepted)
    if len(found) == 2:
        return Verdict.SOME
    return Verdict.ALL if found == {True} else Verdict.NONE
