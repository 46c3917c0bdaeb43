"""What an assignment does to a value that is followed: it stands in an attribute, in a variable, or in an object."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import rewrite.known_calls as known
from rewrite.classes import Class
from rewrite.items import INDEX, SOME_NAME, Name, literal
from rewrite.keys import key_of, mangled
from rewrite.places import ANYWHERE, Below, Into, Key, Moves, Place, Step, number_of, plain, renumbered
from rewrite.scopes import Scoped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rewrite.flow import Flow


FRESH = (ast.Call, ast.List, ast.Dict, ast.ListComp, ast.DictComp, ast.Constant, ast.Tuple, ast.Set)


def assigned(flow: Flow, file: Scoped, target: ast.AST, below: Below) -> Moves:
    """What an assignment to ``target`` does."""
    match target:
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            yield from _unpacked(flow, file, elements, below)
        case ast.Name(id=name):
            yield from _named(flow, file, target, name, below)
        case ast.Attribute(value=value, attr=attribute):
            name = mangled(attribute, file.class_around(target))
            yield Into(file, value, (literal(name), *below))
        case ast.Subscript(value=value, slice=key):
            yield Into(file, value, (_stored_at(key), *below))
        case _:
            yield ANYWHERE


def _unpacked(flow: Flow, file: Scoped, targets: Sequence[ast.expr], below: Below) -> Moves:
    """The elements of what is assigned, one to each target; after a star they are counted anew."""
    if any(isinstance(each, ast.Starred) for each in targets):
        for each in targets:
            inner = (INDEX, *below[1:]) if isinstance(each, ast.Starred) else below[1:]
            yield from assigned(flow, file, each.value if isinstance(each, ast.Starred) else each, inner)
        return
    at = number_of(below)
    for each in targets if at is None or at >= len(targets) else [targets[at]]:
        yield from assigned(flow, file, each, below[1:])


def _stored_at(key: ast.expr) -> Name:
    """Where something is put by ``container[key]``: under a text; by a number in the place of any name."""
    return key_of(key) if isinstance(key, ast.Constant) and isinstance(key.value, str) else _by_position(key)


def _by_position(key: ast.expr) -> Name:
    return SOME_NAME if isinstance(key, ast.Constant | ast.UnaryOp) else key_of(key)


def into(flow: Flow, step: Into) -> Moves:
    """Where something stands that is put into an object."""
    file, container, below = step.file, step.node, step.below
    owner = flow.index.self_class(file, container)
    if owner is not None:
        yield from into_self(flow, owner, below)
        return
    match container:
        case ast.Attribute(value=value, attr=attribute) if attribute in known.REGISTRIES:
            yield Into(file, value, below)
        case ast.Attribute(value=value, attr=attribute):
            yield Into(file, value, (literal(mangled(attribute, file.class_around(container))), *below))
        case ast.Subscript(value=value, slice=key):
            yield Into(file, value, (_stored_at(key), *below))
        case ast.Name(id=name):
            yield from _into_named(flow, file, container, name, below)
        case ast.Call(func=ast.Name(id="super")):
            around = flow.classes.around(file, container)
            yield from into_self(flow, around, below) if around is not None else (ANYWHERE,)
        case _:
            yield ANYWHERE


def into_self(flow: Flow, owner: Class, below: Below) -> Moves:
    """Something stands below each instance of ``owner``: there, and wherever its attribute is read."""
    if flow.index.is_own_registry(owner):
        yield ANYWHERE
        return
    inherited = owner.inherited()
    if inherited is not None and inherited.container:  # read by an index, it is somebody else's too
        yield ANYWHERE
    match below:
        case ((str(name),), *rest):
            reads = flow.index.attribute_reads(owner, name)
            if rest and number_of(tuple(rest)) is not None and _reordered(flow, reads):
                below = (below[0], *renumbered(tuple(rest)))
            yield Place(owner, plain(below))
            if not flow.tensors:
                for file, read in reads:
                    yield file, read, below[1:]
        case _:
            yield Place(owner, plain(below))


def _reordered(flow: Flow, reads: Iterable[tuple[Scoped, ast.AST]]) -> bool:
    return any(flow.index.is_reordered(file, read) for file, read in reads)


def _into_named(flow: Flow, file: Scoped, node: ast.Name, name: str, below: Below) -> Moves:
    home = file.scope_of(node).home(name)
    if home is None:
        yield ANYWHERE
        return
    bindings = file.bindings(home, name)
    if any(flow.index.is_ordered_dict(file, binding) for binding in bindings) and isinstance(below[0], tuple):
        below = (Key(below[0]), *below[1:])
    yield from reads(flow, file, node, name, below)
    if home is file.top and flow.open_world:
        yield Place(None, plain(below))
    for binding in bindings:
        yield from _same_object(flow, file, binding, below)


def _same_object(flow: Flow, file: Scoped, binding: ast.AST, below: Below) -> Moves:
    """Where the object that a name is bound to stands besides, if it is not made there."""
    parent = file.parents.get(binding)
    match binding, parent:
        case ast.Name(), ast.Assign(targets=targets, value=value) if binding in targets:
            for other in targets:
                if other is not binding:
                    yield Into(file, other, below)
            made = flow.classes.named(flow.project.full_name(file, value.func)) if isinstance(value, ast.Call) else None
            if made is not None:
                yield from into_self(flow, made, below)
            elif not isinstance(value, FRESH):
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
    static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in function.decorator_list)
    at = names.index(parameter.arg) - (1 if file.class_of(function) is not None and not static else 0)
    for where, call in calls:
        if isinstance(call, ast.Call):
            given = [each.value for each in call.keywords if each.arg == parameter.arg]
            for each in [*given, *call.args[at : at + 1]]:
                yield Into(where, each, below)
