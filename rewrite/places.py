"""Where a module stands, and the path on the way there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from rewrite.classes import Class
from rewrite.items import INDEX, Name, Path, literal
from rewrite.scopes import Scoped


@dataclass(frozen=True)
class Pair:
    """The second of a pair: in a list it stands at 1, a dictionary made of the list has it under ``key``."""

    key: Name


@dataclass(frozen=True)
class Key:
    """A key of an ``OrderedDict``, which `nn.Sequential` takes for names where it is given nothing else."""

    name: Name


Below = tuple[Name | Pair | Key, ...]
Step = tuple[Scoped, ast.AST, Below]


@dataclass(frozen=True)
class Into:
    """Something is put into the object ``node`` at ``below``, wherever that object stands."""

    file: Scoped
    node: ast.AST
    below: Below


@dataclass(frozen=True)
class Place:
    """Where a module stands: below ``owner``, an instance of that class, or below anything where that is None."""

    owner: Class | None
    path: Path


ANYWHERE = Place(None, ())
Moves = Iterator[Place | Into | Step]


def plain(below: Below) -> Path:
    """The path where no dictionary was made of pairs."""
    return tuple(map(_plain, below))


def _plain(name: Name | Pair | Key) -> Name:
    if isinstance(name, Pair):
        return literal("1")
    return name.name if isinstance(name, Key) else name


def by_key(below: Below) -> Below:
    """The path in a dictionary that is made of a list of pairs, or of another dictionary."""
    match below:
        case (_, Pair(key), *rest):
            return (key, *rest)
        case (Key(name), *rest):
            return (name, *rest)
    return below


def number_of(below: Below) -> int | None:
    """The index that a path begins with, where it is known.

    >>> number_of((literal("3"), literal("fc"))), number_of((literal("fc"),))
    (3, None)
    """
    match below:
        case ((str(text),), *_) if text.isdecimal():
            return int(text)
        case (Pair(), *_):
            return 1
    return None


def renumbered(below: Below) -> Below:
    """The path with an index at its first place that is not known; a key stays what it is.

    >>> renumbered((literal("3"), literal("fc"))) == (INDEX, literal("fc"))
    True
    """
    return below if number_of(below) is None else (INDEX, *below[1:])


def as_element(below: Below) -> Below:
    """The path in a list of what was under a key or an index."""
    return (INDEX, *below[1:])
