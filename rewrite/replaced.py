"""Tensors that are taken away or replaced after the call that makes them: what is written there would not last."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from rewrite.classes import Classes
from rewrite.keys import key_of
from rewrite.scopes import Scoped
from rewrite.ties import Tie, side

REGISTERING = frozenset({"register_parameter", "register_buffer"})
KEY_OF_SETATTR = 1


def replacements(classes: Classes) -> Iterator[Tie]:
    """Every statement that gives a parameter's name below ``self.x`` a new meaning, or none, as a tie of one side.

    Of what is done to a variable only what happens while modules are made counts: elsewhere models are changed that
    are there already.
    """
    for file in classes.project.files:
        for statement, target in _targets(file):
            owner = classes.around(file, statement)
            if isinstance(target.value, ast.Name) and not _is_made_here(file, statement, target.value.id):
                continue
            place = side(owner, target)
            yield Tie(file, statement, (place,), owner)


def _targets(file: Scoped) -> Iterator[tuple[ast.stmt, ast.Attribute]]:
    for assignment in file.assignments:
        for target in assignment.targets:
            if isinstance(target, ast.Attribute):
                yield assignment, target
    for deletion in file.deletions:
        for target in deletion.targets:
            if isinstance(target, ast.Attribute):
                yield deletion, target
    for call in file.calls:
        named = _registered(call)
        if named is not None:
            yield file.statement_of(call), named


def _registered(call: ast.Call) -> ast.Attribute | None:
    """``self.norm.register_parameter("bias", None)`` and ``setattr(self.norm, "bias", None)``, as an attribute."""
    match call:
        case ast.Call(func=ast.Attribute(value=host, attr=method), args=[key, *_]) if method in REGISTERING:
            return _named(host, key)
        case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[host, key, *_]):
            return _named(host, key)
    return None


def _named(host: ast.expr, key: ast.expr) -> ast.Attribute | None:
    match key_of(key):
        case (str(name),):
            return ast.Attribute(host, name, ast.Store())
    return None


def _is_made_here(file: Scoped, statement: ast.stmt, name: str) -> bool:
    """Whether ``name`` is a variable, not ``self``, of code that makes modules."""
    function = file.function_of(statement)
    if function is None or function not in file.making:
        return False
    arguments = (*function.args.posonlyargs, *function.args.args)
    return not (arguments and arguments[0].arg == name and file.class_of(function) is not None)
