"""Where a file names a function of an old idiom: to call it, under another name, by a choice, or to pass it on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from rewrite.migration.known import KNOWN, LAST_NAMES, Known
from rewrite.project import Project
from rewrite.scopes import Scope, Scoped

STARS = frozenset(name.rpartition(".")[0] for name in KNOWN)


class Use(Enum):
    """What a name is read for."""

    CALLED = "called"
    ALIAS = "alias"  # the calls of the other name are references themselves
    CHOICE = "choice"  # one of several that a variable may hold
    PASSED_ON = "passed on"
    STARRED = "starred"  # it may come from a star import


@dataclass(frozen=True, eq=False)
class Reference:
    """A place that names one function, or several of one kind between which an import decides."""

    node: ast.expr
    known: tuple[Known, ...]
    use: Use

    @property
    def families(self) -> frozenset[str]:
        """Those of all functions that may be meant."""
        return frozenset(each.family for each in self.known)


def references(project: Project, file: Scoped) -> Iterator[Reference]:
    """All such places of a file, in no order."""
    for name in LAST_NAMES:
        for attribute in file.attributes.get(name, ()):
            known = KNOWN.get(project.full_name(file, attribute) or "")
            if known is not None:
                yield Reference(attribute, (known,), _use(project, file, attribute))
    known_by: dict[tuple[int, str], tuple[Known, ...]] = {}
    for name, reads in file.names_read.items():
        for scope, read in reads:
            home = scope.home(name)
            if home is None:
                yield from _starred(file, name, read)
                continue
            key = id(home), name
            if key not in known_by:
                known_by[key] = meanings(project, file, home, name)
            if known_by[key]:
                yield Reference(read, known_by[key], _use(project, file, read))


def _starred(file: Scoped, name: str, read: ast.Name) -> Iterator[Reference]:
    """A name that is bound nowhere, where a star may bring it."""
    for each in file.star_imports:
        known = KNOWN.get(f"{each.module}.{name}") if each.module in STARS and not each.level else None
        if known is not None:
            yield Reference(read, (known,), Use.STARRED)


def meanings(project: Project, file: Scoped, scope: Scope, name: str) -> tuple[Known, ...]:
    """What a name of a scope may mean; empty where that is unclear, or not one kind."""
    bindings = sorted(file.bindings(scope, name), key=_line)
    if scope.is_class or not any(isinstance(each, ast.Import | ast.ImportFrom | ast.Name) for each in bindings):
        return ()
    if len(bindings) == 1:
        known = KNOWN.get(project.full_name(file, ast.Name(name, ast.Load()), scope) or "")
        return () if known is None else (known,)
    found = dict.fromkeys(_bound_to(project, file, scope, name, each) for each in bindings)
    known_ones = tuple(each for each in found if each is not None)
    return known_ones if len(known_ones) == len(found) and len({each.kind for each in known_ones}) == 1 else ()


def _line(node: ast.AST) -> int:
    """Where a binding stands: the first of several gives its name to all."""
    return node.lineno if isinstance(node, ast.stmt | ast.expr | ast.arg | ast.ExceptHandler) else 0


def _bound_to(project: Project, file: Scoped, scope: Scope, name: str, binding: ast.AST) -> Known | None:
    match binding:
        case ast.ImportFrom(module=str(module), names=aliases, level=0):
            return KNOWN.get(next(f"{module}.{each.name}" for each in aliases if (each.asname or each.name) == name))
        case ast.Import(names=aliases):
            return KNOWN.get(next((each.name for each in aliases if each.asname == name), ""))
        case ast.Name():
            statement = file.parents[binding]
            if isinstance(statement, ast.Assign) and statement.targets == [binding]:
                return KNOWN.get(project.full_name(file, statement.value, scope) or "")
    return None


def _use(project: Project, file: Scoped, node: ast.expr) -> Use:
    parent = file.parents.get(node)
    if isinstance(parent, ast.Call) and parent.func is node:
        return Use.CALLED
    variable = variable_of(file, node)
    if variable is None:
        return Use.PASSED_ON
    home, name = variable
    if isinstance(parent, ast.Assign) and meanings(project, file, home, name):
        return Use.ALIAS
    return Use.CHOICE


def variable_of(file: Scoped, node: ast.AST) -> tuple[Scope, str] | None:
    """The variable that holds ``node``, or one of several values of an expression with conditions."""
    inside, parent = node, file.parents.get(node)
    while isinstance(parent, ast.IfExp) and parent.test is not inside:
        inside, parent = parent, file.parents.get(parent)
    match parent:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if value is inside:
            scope = file.scope_of(parent)
            home = scope.home(name)
            return None if home is None or home.is_class else (home, name)
    return None
