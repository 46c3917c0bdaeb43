"""A pattern's text as tokens: characters, stars, sets, braces, each with its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from surgery.rules.automaton import IN_NAME, Characters
from surgery.rules.errors import PatternError

DEEPEST = 20
NO_CHARACTERS = Characters()


class Kind(Enum):
    """What a token is."""

    TEXT = auto()  # one character that stands for itself
    DOT = auto()
    STAR = auto()
    ONE = auto()  # one character of several: ? or a set
    OPEN = auto()
    COMMA = auto()  # between braces; elsewhere a comma is text
    CLOSE = auto()
    AT = auto()


@dataclass(frozen=True)
class Token:
    """One token: its kind, its place, how deep in braces it stands, and the characters that it takes."""

    kind: Kind
    at: int
    depth: int
    characters: Characters = NO_CHARACTERS


MARKS = {".": Kind.DOT, "*": Kind.STAR, "?": Kind.ONE, "{": Kind.OPEN, "}": Kind.CLOSE, "@": Kind.AT}


def lex(text: str) -> list[Token]:
    """The tokens of ``text``; raises `PatternError` where brackets or braces do not close."""
    tokens: list[Token] = []
    opened: list[int] = []
    at = 0
    while at < len(text):
        token, following = _token(text, at, len(opened))
        tokens.append(token)
        if token.kind is Kind.OPEN:
            opened.append(at)
        elif token.kind is Kind.CLOSE:
            opened.pop()
        at = following
    if opened:
        raise PatternError("'{' is not closed; write '}' after the last choice", text, opened[-1])
    return tokens


def _token(text: str, at: int, depth: int) -> tuple[Token, int]:
    char = text[at]
    if char == "[":
        end = _end_of_set(text, at)
        return Token(Kind.ONE, at, depth, _set(text, at, end)), end + 1
    _refuse(text, at, depth)
    kind = Kind.COMMA if char == "," and depth else MARKS.get(char, Kind.TEXT)
    characters = IN_NAME if kind is Kind.ONE else Characters(((ord(char), ord(char)),))
    return Token(kind, at, depth, characters), at + 1


def _refuse(text: str, at: int, depth: int) -> None:
    match text[at]:
        case "\\":
            raise PatternError(
                "a backslash has no meaning here; begin with 're:' to write a regular expression", text, at
            )
        case "]":
            raise PatternError("']' closes no set; write '[]]' for the character itself", text, at)
        case "}" if not depth:
            raise PatternError("'}' closes no brace; write '[}]' for the character itself", text, at)
        case "{" if depth == DEEPEST:
            raise PatternError(f"braces more than {DEEPEST} deep; write several rules", text, at)
        case "@" if depth:
            cure = "write the braces after it, '*@{Conv2d,Linear}.weight'"
            raise PatternError(f"'@' stands inside braces; {cure}", text, at)


def _end_of_set(text: str, at: int) -> int:
    inside = at + 1 + text.startswith("!", at + 1)
    end = text.find("]", inside + 1)  # a bracket that comes first stands for itself
    if end < 0:
        raise PatternError("'[' is not closed; write ']' after the set's characters", text, at)
    return end


def _set(text: str, at: int, end: int) -> Characters:
    inverted = text[at + 1] == "!"
    if text[at + 1] == "^":
        raise PatternError("'^' does not invert a set; write '[!...]'", text, at + 1)
    ranges = tuple(_ranges(text, at + 1 + inverted, end))
    return Characters(ranges, inverted)


def _ranges(text: str, at: int, end: int) -> Iterator[tuple[int, int]]:
    dot = ord(".")
    while at < end:
        low, step = text[at], 1
        high = low
        if text[at + 1] == "-" and at + 2 < end:
            high, step = text[at + 2], 3
        if "." in (low, high):
            raise PatternError("a set never takes a dot; write the dot outside it", text, at)
        if low > high:
            raise PatternError(f"the range '{low}-{high}' is empty; write '{high}-{low}'", text, at)
        if low < "." < high:
            yield from ((ord(low), dot - 1), (dot + 1, ord(high)))
        else:
            yield ord(low), ord(high)
        at += step
