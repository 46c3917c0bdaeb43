"""Files in groups: those that import each other, directly or through others, are in one."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from rewrite.source import Source

Named = tuple[Source, str]


def grouped(sources: Sequence[Named]) -> list[list[Named]]:
    """The groups, each in the order of ``sources``, by its first one.

    >>> a, b = (Source("a.py", "import b"), "a"), (Source("b.py", ""), "b")
    >>> [[name for _, name in group] for group in grouped([a, (Source("c.py", ""), "c"), b])]
    [['a', 'b'], ['c']]
    """
    leader = list(range(len(sources)))

    def first(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    place = {name: index for index, (_, name) in enumerate(sources)}
    for index, (source, name) in enumerate(sources):
        for imported in _imported(source, name):
            if imported in place:
                one, other = sorted((first(index), first(place[imported])))
                leader[other] = one
    groups: dict[int, list[Named]] = {}
    for index, named in enumerate(sources):
        groups.setdefault(first(index), []).append(named)
    return list(groups.values())


def _imported(source: Source, name: str) -> Iterator[str]:
    """Every module that may be meant by an import at the top of a file, or under a condition there."""
    waiting: list[ast.stmt] = list(source.tree.body)
    while waiting:
        statement = waiting.pop()
        match statement:
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                base = _base(name, source.path, level)
                full = ".".join(part for part in (base, module) if part)
                yield full
                yield from (f"{full}.{alias.name}" for alias in aliases)
            case ast.If(body=body, orelse=orelse) | ast.Try(body=body, orelse=orelse):
                waiting += [*body, *orelse]
                if isinstance(statement, ast.Try):
                    waiting += [each for handler in statement.handlers for each in handler.body]


def _base(name: str, path: str, level: int) -> str:
    """What a relative import is relative to."""
    if not level:
        return ""
    parts = name.split(".")
    return ".".join(parts[: len(parts) - (level - path.endswith("__init__.py"))])
