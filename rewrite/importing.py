"""The import that an edited file needs: where it goes, and the local name that is free there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rewrite.insertion import IMPORT_LINE, Insertion
from rewrite.scopes import Scoped

MODULE = "surgery"


class NoPlaceError(ValueError):
    """An import cannot be put into a file: ``line`` says where it would have to go."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class Importing:
    """The local name of each function that is needed, and what is inserted for it, if anything."""

    names: Mapping[str, str]
    insertion: Insertion | None


def importing(file: Scoped, needed: Iterable[str]) -> Importing:
    """Make the functions ``needed`` of this package available in ``file``.

    An import is used again where it stands in the leading run of imports and its name is bound nowhere else. A new one
    goes after that run, under a name that occurs nowhere in the file. Raises `NoPlaceError` where the run's last line
    has more on it.
    """
    run = _leading_run(file.source.tree)
    names: dict[str, str] = {}
    new: list[str] = []
    for function in sorted(needed):
        present = _imported(file, run, function)
        names[function] = present or _free_name(file, function)
        if present is None:
            new.append(function if names[function] == function else f"{function} as {names[function]}")
    if not new:
        return Importing(names, None)
    return Importing(names, _insertion(file, run, f"from {MODULE} import {', '.join(new)}"))


def _leading_run(tree: ast.Module) -> list[ast.stmt]:
    """The unbroken run of imports after the docstring."""
    body = tree.body[1:] if _docstring(tree) is not None else tree.body
    run: list[ast.stmt] = []
    for statement in body:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            break
        run.append(statement)
    return run


def _docstring(tree: ast.Module) -> ast.stmt | None:
    first = tree.body[0] if tree.body else None
    match first:
        case ast.Expr(value=ast.Constant(value=str())):
            return first
    return None


def _imported(file: Scoped, run: Iterable[ast.stmt], function: str) -> str | None:
    for statement in run:
        if isinstance(statement, ast.ImportFrom) and statement.module == MODULE and not statement.level:
            for alias in statement.names:
                local = alias.asname or alias.name
                if alias.name == function and file.bindings(file.top, local) == [statement]:
                    return local
    return None


def _free_name(file: Scoped, function: str) -> str:
    name = function
    # any occurrence counts, in strings and comments too: nothing of the file may come to mean something else
    while re.search(rf"\b{re.escape(name)}\b", file.source.text) or (file.star_imports and name == function):
        name = f"_{name}"
    return name


def _insertion(file: Scoped, run: list[ast.stmt], line: str) -> Insertion:
    source = file.source
    before = run[-1] if run else _docstring(source.tree)
    if before is not None:
        _, end = source.span(before)
        _, stop = source.line_at(end)
        rest = source.text[end:stop].strip()
        if rest and not rest.startswith("#"):
            raise NoPlaceError("the line of the last import has another statement on it", before.lineno)
        newline = source.newline_near(end)
        complete = source.text[:stop].endswith(("\n", "\r"))
        return Insertion(stop, IMPORT_LINE, f"{line}{newline}" if complete else f"{newline}{line}")
    at = _before_first_statement(file)
    return Insertion(at, IMPORT_LINE, f"{line}{source.newline_near(at)}")


def _before_first_statement(file: Scoped) -> int:
    """The begin of the first statement's line, its decorators included."""
    source = file.source
    first = source.tree.body[0]
    nodes: list[ast.stmt | ast.expr] = [first]
    if isinstance(first, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        nodes += first.decorator_list
    return min(source.line_at(source.span(node)[0])[0] for node in nodes)
