"""Tensors that are taken away or replaced after the call that makes them: what is written there would not last."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from rewrite.classes import Classes
from rewrite.items import literal
from rewrite.keys import key_of
from rewrite.places import Place
from rewrite.scopes import Scoped
from rewrite.ties import Tie, side

REGISTERING = frozenset({"register_parameter", "register_buffer"})


@dataclass(frozen=True)
class _Store:
    """A statement that gives an attribute a value, or takes it away; ``value`` is None where none is seen."""

    statement: ast.stmt
    target: ast.Attribute
    value: ast.expr | None
    deletes: bool = False

    @property
    def is_own(self) -> bool:
        """Whether the attribute is one of ``self``, or of another variable, itself."""
        return isinstance(self.target.value, ast.Name)


def replacements(classes: Classes) -> Iterator[Tie]:
    """Every statement that gives a parameter's name a new meaning, or none, as a tie.

    Below ``self.x`` each one does; an attribute of ``self`` itself where it is given a value more than once. Only what
    happens while modules are made counts: elsewhere models are changed that are there already.
    """
    for file in classes.project.files:
        own: dict[tuple[ast.ClassDef | None, str], list[_Store]] = defaultdict(list)
        for store in _stores(file):
            if file.function_of(store.statement) not in file.making:
                continue
            if store.is_own and _is_self(file, store):
                own[file.class_around(store.statement), store.target.attr].append(store)
            else:
                yield _tie(classes, file, store)
        for stores in own.values():
            if len(stores) > 1 or stores[0].deletes or _is_tensor_of_another(stores[0]):
                yield from (_tie(classes, file, store) for store in stores)


def _tie(classes: Classes, file: Scoped, store: _Store) -> Tie:
    owner = classes.around(file, store.statement)
    sides = [side(owner, store.target)]
    if isinstance(store.value, ast.Attribute):
        sides.append(side(owner, store.value))
    elif isinstance(store.value, ast.Name):  # whatever it is, it may be another's tensor of this name
        sides.append(Place(None, (literal(store.target.attr),)))
    return Tie(file, store.statement, tuple(sides), owner)


def _stores(file: Scoped) -> Iterator[_Store]:
    for assignment in file.assignments:
        for target in assignment.targets:
            if not isinstance(target, ast.Attribute):
                continue
            value = assignment.value
            if target.attr == "data" and isinstance(target.value, ast.Attribute) and isinstance(value, ast.Attribute):
                yield _Store(assignment, target.value, value.value)  # they share their memory from then on
            else:
                yield _Store(assignment, target, value)
    for deletion in file.deletions:
        for target in deletion.targets:
            if isinstance(target, ast.Attribute):
                yield _Store(deletion, target, None, deletes=True)
    for call in file.calls:
        yield from _registered(file, call)


def _registered(file: Scoped, call: ast.Call) -> Iterator[_Store]:
    """``self.norm.register_parameter("bias", None)`` and ``setattr(self.norm, "bias", None)``, as an attribute."""
    match call:
        case ast.Call(func=ast.Attribute(value=host, attr=method), args=[key, *values]) if method in REGISTERING:
            found = host, key, values
        case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[host, key, *values]):
            found = host, key, values
        case _:
            return
    match key_of(found[1]):
        case (str(name),):
            target = ast.Attribute(found[0], name, ast.Store())
            yield _Store(file.statement_of(call), target, found[2][0] if found[2] else None)


def _is_tensor_of_another(store: _Store) -> bool:
    """``self.kernel = self.fc.weight``."""
    return isinstance(store.value, ast.Attribute) and isinstance(store.value.value, ast.Attribute)


def _is_self(file: Scoped, store: _Store) -> bool:
    """Whether the attribute is one of the first argument of a method."""
    function = file.function_of(store.statement)
    if function is None or file.class_of(function) is None:
        return False
    arguments = (*function.args.posonlyargs, *function.args.args)
    return isinstance(store.target.value, ast.Name) and bool(arguments) and arguments[0].arg == store.target.value.id
