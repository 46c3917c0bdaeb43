"""Parameters that stand under two names: an assignment of one to the other, or a class that declares its ties."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from rewrite.classes import Class, Classes
from rewrite.items import Part, Path, literal
from rewrite.places import Place
from rewrite.scopes import Scoped

DECLARED = "_tied_weights_keys"
ANY_PATH: Path = ((Part.ANYTHING,),)
USUAL = frozenset({"weight", "bias"})


@dataclass(frozen=True)
class Tie:
    """A tie and where its sides stand, as far as that is known; a pattern may stand for any name.

    ``owner`` is the class in whose body it is written.
    """

    file: Scoped
    node: ast.stmt
    sides: tuple[Place, ...]
    owner: Class | None = None


def ties(classes: Classes) -> Iterator[Tie]:
    """All ties of a project."""
    for file in classes.project.files:
        for statement in file.assignments:
            owner = classes.around(file, statement)
            function = file.function_of(statement)
            if owner is not None and (function is None or function in file.making):
                yield from (Tie(file, statement, sides, owner) for sides in _sides(owner, statement))


def _sides(owner: Class, statement: ast.Assign) -> Iterator[tuple[Place, ...]]:
    for target in statement.targets:
        if DECLARED in (getattr(target, "id", None), getattr(target, "attr", None)):  # of the class, or of an instance
            yield from _declared(owner, statement.value)
        for one, value in _pairs(target, statement.value):
            if isinstance(one, ast.Attribute) and isinstance(value, ast.Attribute) and USUAL & {one.attr, value.attr}:
                yield side(owner, one), side(owner, value)


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    match target, value:
        case (ast.Tuple(elts=targets), ast.Tuple(elts=values)) if len(targets) == len(values):
            for one, other in zip(targets, values, strict=True):
                yield from _pairs(one, other)
        case _:
            yield target, value


def side(owner: Class | None, node: ast.Attribute) -> Place:
    """One side of ``self.head.weight = self.embedding.weight``; others may stand anywhere."""
    names: list[str] = []
    root: ast.expr = node
    while isinstance(root, ast.Attribute):
        names.append(root.attr)
        root = root.value
    if owner is not None and isinstance(root, ast.Name) and root.id == "self":
        return Place(owner, tuple(map(literal, reversed(names))))
    return Place(None, (literal(node.attr),))


def _declared(owner: Class, value: ast.expr) -> Iterator[tuple[Place, ...]]:
    """The ties of a mapping from targets to sources, or of a list of targets alone."""
    match value:
        case ast.Constant(value=None):
            return
        case ast.Dict(keys=keys, values=values):
            for pair in zip(keys, values, strict=True):
                yield tuple(_named(owner, each) for each in pair)
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            for each in elements:
                yield _named(owner, each), Place(None, ANY_PATH)
        case _:
            yield (Place(None, ANY_PATH),)


def _named(owner: Class, node: ast.expr | None) -> Place:
    """Where a declared name stands; a pattern, or the name of a module, may mean any parameter."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts = node.value.split(".")
        if parts[-1] in USUAL and all(part.isidentifier() or part.isdecimal() for part in parts):
            return Place(owner, tuple(map(literal, parts)))
    return Place(None, ANY_PATH)
