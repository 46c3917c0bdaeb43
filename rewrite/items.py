"""What is known of a dotted name before a model exists: some names letter by letter, others only in kind."""

from __future__ import annotations

from enum import Enum


class Part(Enum):
    """A part of a name that is known only in kind."""

    DIGITS = "one digit or more: an index that the program computes"
    IN_NAME = "any characters but dots, none included"
    ANYTHING = "any characters, none included"


Name = tuple[str | Part, ...]
Path = tuple[Name, ...]

INDEX: Name = (Part.DIGITS,)
SOME_NAME: Name = (Part.IN_NAME,)
ANY_NAME: Name = (Part.ANYTHING,)


def literal(text: str) -> Name:
    """The name ``text``."""
    return (text,)


def text_of(path: Path) -> str:
    """A path as messages write it.

    >>> text_of((literal("layers"), INDEX, literal("fc")))
    'layers.<n>.fc'
    """
    written = {Part.DIGITS: "<n>", Part.IN_NAME: "<name>", Part.ANYTHING: "<...>"}
    return ".".join("".join(each if isinstance(each, str) else written[each] for each in name) for name in path)


def known_text(path: Path) -> str | None:
    """The dotted name, where all of it is known.

    >>> known_text((literal("stem"), literal("0"))), known_text((INDEX,))
    ('stem.0', None)
    """
    if any(isinstance(each, Part) for name in path for each in name):
        return None
    return text_of(path)
