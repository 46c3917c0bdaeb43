"""What an assignment does to a value that is followed: it stands in an attribute, in a variable, or in an object."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from rewrite.classes import Class
from rewrite.items import INDEX, literal
from rewrite.keys import key_of
from rewrite.places import ANYWHERE, Below, Into, Moves, Place, Step, number_of, plain, renumbered
from rewrite.scopes import Scoped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rewrite.flow import Flow


def assigned(flow: Flow, file: Scoped, target: ast.AST, below: Below, *, spread: bool = False) -> Moves:
    """What an assignment to ``target`` does; ``spread``: to each name of it, as a loop does."""
    match target:
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            at = None if spread else number_of(below)
            chosen = elements if at is None or at >= len(elements) else [elements[at]]
            for each in chosen:
                yield from assigned(flow, file, each, below if spread else below[1:], spread=spread)
        case ast.Starred(value=value):
            yield from assigned(flow, file, value, below, spread=spread)
        case ast.Name(id=name):
            yield from _named(flow, file, target, name, below)
        case ast.Attribute(value=value, attr=attribute):
            yield Into(file, value, (literal(attribute), *below))
        case ast.Subscript(value=value, slice=key):
            yield Into(file, value, (key_of(key), *below))
        case _:
            yield ANYWHERE


def into(flow: Flow, step: Into) -> Moves:
    """Where something stands that is put into an object."""
    file, container, below = step.file, step.node, step.below
    owner = flow.index.self_class(file, container)
    if owner is not None:
        yield from into_self(flow, owner, below)
        return
    match container:
        case ast.Attribute(value=value, attr=attribute):
            yield Into(file, value, (literal(attribute), *below))
        case ast.Subscript(value=value, slice=key):
            yield Into(file, value, (key_of(key), *below))
        case ast.Name(id=name):
            yield from _into_named(flow, file, container, name, below)
        case ast.Call(func=ast.Name(id="super")):
            around = flow.classes.around(file, container)
            yield from into_self(flow, around, below) if around is not None else (ANYWHERE,)
        case _:
            yield ANYWHERE


def into_self(flow: Flow, owner: Class, below: Below) -> Moves:
    """Something stands below each instance of ``owner``: there, and wherever its attribute is read."""
    yield Place(owner, plain(below))
    match below:
        case ((str(name),), *_) if not flow.tensors:
            for file, read in flow.index.attribute_reads(owner, name):
                yield file, read, below[1:]


def _into_named(flow: Flow, file: Scoped, node: ast.Name, name: str, below: Below) -> Moves:
    home = file.scope_of(node).home(name)
    if home is None:
        yield ANYWHERE
        return
    yield from reads(flow, file, node, name, below)
    if home is file.top and flow.open_world:
        yield Place(None, plain(below))
    for binding in file.bindings(home, name):
        yield from _same_object(flow, file, binding, below)


def _same_object(flow: Flow, file: Scoped, binding: ast.AST, below: Below) -> Moves:
    """Where the object that a name is bound to stands besides, if it is not made there."""
    parent = file.parents.get(binding)
    match binding, parent:
        case ast.Name(), ast.Assign(value=ast.Call() | ast.List() | ast.Dict() | ast.ListComp() | ast.DictComp()):
            pass
        case ast.Name(), ast.Assign(value=value) if parent.targets == [binding]:
            yield Into(file, value, below)
        case ast.Name(), ast.AugAssign():
            pass
        case ast.Name(), ast.For(iter=iterated) | ast.comprehension(iter=iterated):
            yield Into(file, iterated, (INDEX, *below))
        case ast.arg() as parameter, _:
            yield from into_parameter(flow, file, parameter, below)
        case _:
            yield ANYWHERE


def _named(flow: Flow, file: Scoped, target: ast.Name, name: str, below: Below) -> Moves:
    scope = file.scope_of(target)
    home = scope.home(name) or scope
    owner = flow.classes.by_node.get(home.node) if isinstance(home.node, ast.ClassDef) else None
    if owner is not None:
        for where, read in flow.index.attribute_reads(owner, name):
            yield where, read, below
    if home is file.top and flow.open_world:
        yield Place(None, plain(below))
    yield from reads(flow, file, target, name, below)


def reads(flow: Flow, file: Scoped, node: ast.Name, name: str, below: Below) -> Iterator[Step]:
    """All that read the variable; a list that is not only appended to has its elements elsewhere afterwards."""
    scope = file.scope_of(node)
    reads = file.reads(scope.home(name) or scope, name)
    if number_of(below) is not None and any(flow.index.is_reordered(file, read) for read in reads):
        below = renumbered(below)
    for read in reads:
        yield file, read, below


def into_parameter(flow: Flow, file: Scoped, parameter: ast.arg, below: Below) -> Moves:
    """What a function puts into an object that it was given: wherever its callers have that."""
    function = file.climb(parameter, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        yield ANYWHERE
        return
    calls, escapes = flow.index.calls_of(file, function)
    names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    if escapes or parameter.arg not in names:
        yield ANYWHERE
        return
    at = names.index(parameter.arg) - (1 if file.class_of(function) is not None else 0)
    for where, call in calls:
        if isinstance(call, ast.Call):
            given = [each.value for each in call.keywords if each.arg == parameter.arg]
            for each in [*given, *call.args[at : at + 1]]:
                yield Into(where, each, below)
