"""Where a plan edits source text: told so that the place is found again after lines have moved."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rewrite.scopes import Scoped
from rewrite.source import Source

Style = Literal["call", "statement", "class"]
Editable = ast.expr | ast.stmt


@dataclass(frozen=True)
class Evidence:
    """One planned edit. Lines count from 1, columns from 0 in bytes of UTF-8, as in ``ast``.

    ``scope`` names the classes and functions around the place, ``text`` is the source of the call, of the statement or
    (for a class) its first words; of ``equal`` texts of the scope, white space aside, it is the one at ``number``.
    ``specs`` are by names below a call, by patterns for a class. ``arguments`` are what the inserted call says.
    """

    file: str
    sha256: str
    line: int
    column: int
    end_line: int
    end_column: int
    scope: str
    style: Style
    text: str
    number: int
    equal: int
    specs: tuple[tuple[str, str | None], ...]
    arguments: str

    @property
    def function(self) -> str:
        """The function of this package that the edit calls."""
        return "constrained" if self.style == "class" else "constrain"


def evidence(
    file: Scoped,
    sha256: str,
    node: Editable,
    style: Style,
    specs: tuple[tuple[str, str | None], ...],
    arguments: str,
) -> Evidence:
    """The evidence of an edit at ``node``, a call, a statement or a class of ``file``."""
    text, scope = text_of(file.source, node), scope_name(file, node)
    alike = [each for each in _alike(file, node) if text_of(file.source, each).split() == text.split()]
    equal = [each for each in alike if scope_name(file, each) == scope]
    equal.sort(key=lambda each: (each.lineno, each.col_offset))
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    place = node.lineno, node.col_offset, node.end_lineno, node.end_col_offset
    return Evidence(
        file.source.path, sha256, *place, scope, style, text, equal.index(node), len(equal), specs, arguments
    )


def text_of(source: Source, node: Editable) -> str:
    """The source of ``node``; of a class only what it is called."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    begin, end = source.span(node)
    return source.text[begin:end]


def scope_name(file: Scoped, node: ast.AST) -> str:
    """The names of the classes and functions around ``node``, the outermost first.

    >>> file = Scoped(Source("a.py", "class A: build = g()"))
    >>> scope_name(file, file.calls[0])
    'A'
    """
    names: list[str] = []
    above = file.parents.get(node)
    while above is not None:
        if isinstance(above, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(above.name)
        above = file.parents.get(above)
    return ".".join(reversed(names))


def _alike(file: Scoped, node: Editable) -> Iterator[Editable]:
    """What an emitted codemod may take for ``node`` by its text; it does not look into f-strings."""
    if isinstance(node, ast.Call):
        yield from (each for each in file.calls if file.climb(each, ast.JoinedStr) is None)
    elif isinstance(node, ast.ClassDef):
        yield from file.classes
    else:
        yield from (each for each in ast.walk(file.source.tree) if isinstance(each, ast.stmt) and _is_small(each))


def _is_small(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr)
