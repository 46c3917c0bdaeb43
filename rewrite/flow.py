"""Where a module goes that an expression makes: from the expression on, through all that passes it on.

What is followed is a value with a path below it: a layer in a list that is given to ``nn.Sequential`` is "the list, at
0", then "the Sequential, at 0", then "the class, at body.0". What is not understood ends anywhere, without an owner.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

import rewrite.known_calls as known
from rewrite.absorbing import Given, marked
from rewrite.assigning import assigned, into
from rewrite.classes import Classes
from rewrite.index import Index
from rewrite.items import ANY_NAME, INDEX, SOME_NAME, Name, literal
from rewrite.keys import key_of, pair_of
from rewrite.places import ANYWHERE, Below, Into, Key, Moves, Pair, Place, Step, as_element, plain, renumbered
from rewrite.scopes import COMPREHENSIONS, Function, Scoped

DEEP = 12
MANY = 200
KEEPS_NOTHING = (
    *(ast.Expr, ast.Compare, ast.Assert, ast.Raise, ast.If, ast.While, ast.Delete, ast.FormattedValue, ast.UnaryOp),
    *(ast.withitem, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef),  # as a decorator
)
COLLECTIONS = (ast.List, ast.Tuple, ast.Set, ast.Dict, *COMPREHENSIONS)
NOT_ASKED_FOR = frozenset({"__init__", "forward", "__call__"})


class Flow:
    """Follows values through a project.

    ``open_world``: functions may be called from files that are not given. ``tensors``: what is followed is a parameter,
    which is read for its numbers alone once it stands somewhere.
    """

    def __init__(self, classes: Classes, index: Index, *, open_world: bool, tensors: bool = False) -> None:
        self.classes = classes
        self.project = classes.project
        self.index = index
        self.open_world = open_world
        self.tensors = tensors

    def places(self, file: Scoped, node: ast.AST, below: Below = ()) -> frozenset[Place]:
        """Where what ``node`` makes comes to stand, or what stands in it at ``below``."""
        return self.follow([(file, node, below)])

    def known_places(self, file: Scoped, node: ast.AST) -> frozenset[Place]:
        """Those places of what ``node`` makes that are below an instance of a class, wherever else it may stand."""
        found = self._followed([(file, node, ())])
        return frozenset(place for place in found if place.owner is not None)

    def follow(self, steps: Iterable[Place | Into | Step]) -> frozenset[Place]:
        """Where ``steps`` lead in the end; anywhere, if that is one of the places."""
        found = self._followed(steps)
        return frozenset([ANYWHERE]) if ANYWHERE in found else frozenset(found)

    def _followed(self, steps: Iterable[Place | Into | Step]) -> set[Place]:
        found: set[Place] = set()
        seen: set[Into | Step] = set()
        waiting = list(steps)
        while waiting:
            step = waiting.pop()
            if isinstance(step, Place):
                found.add(step)
            elif step not in seen:
                seen.add(step)
                below = step.below if isinstance(step, Into) else step[2]
                if len(below) > DEEP or len(found) > MANY:
                    return found | {ANYWHERE}
                waiting += into(self, step) if isinstance(step, Into) else self.next(*step)
        return found

    def next(self, file: Scoped, node: ast.AST, below: Below) -> Moves:
        """Where one step leads, by what stands around the node."""
        parent = file.parents.get(node)
        if parent is None:
            yield ANYWHERE
        elif isinstance(parent, KEEPS_NOTHING):
            return
        elif isinstance(parent, COLLECTIONS):
            yield from _collected(file, node, parent, below)
        elif isinstance(parent, ast.expr | ast.keyword | ast.comprehension):
            yield from self._through_expression(file, node, parent, below)
        else:
            yield from self._through_statement(file, node, parent, below)

    def _through_statement(self, file: Scoped, node: ast.AST, parent: ast.AST, below: Below) -> Moves:
        match parent:
            case ast.Assign(targets=targets):
                for target in targets:
                    yield from assigned(self, file, target, below)
            case ast.AnnAssign(target=target):
                yield from assigned(self, file, target, below)
            case ast.AugAssign(target=target):
                yield Into(file, target, renumbered(below)) if below else ANYWHERE
            case ast.Return():
                yield from self._returned(file, parent, below)
            case ast.For(iter=iterated, target=target):
                if node is iterated and below:
                    yield from assigned(self, file, target, below[1:])
            case _:
                yield ANYWHERE

    def _through_expression(self, file: Scoped, node: ast.AST, parent: ast.AST, below: Below) -> Moves:
        match parent:
            case ast.Call(func=function):
                if node is not function:
                    yield from Given.by_position(self, file, parent, node, below).moves()
            case ast.keyword() | ast.Starred():
                yield from marked(self, file, parent, below)
            case ast.Attribute(attr=attribute):
                yield from _attribute(file, parent, attribute, below)
            case ast.Subscript(value=value, slice=part):
                if node is value and below:
                    yield file, parent, renumbered(below) if isinstance(part, ast.Slice) else below[1:]
            case ast.comprehension(iter=iterated, target=target):
                if node is iterated and below:
                    yield from assigned(self, file, target, below[1:])
            case _:
                yield from self._through_operator(file, node, parent, below)

    def _through_operator(self, file: Scoped, node: ast.AST, parent: ast.AST, below: Below) -> Moves:
        match parent:
            case ast.NamedExpr(target=target):
                yield from assigned(self, file, target, below)
                yield file, parent, below
            case ast.IfExp(test=test):
                if node is not test:
                    yield file, parent, below
            case ast.BoolOp() | ast.Await():
                yield file, parent, below
            case ast.BinOp() if below:
                yield file, parent, renumbered(below)
            case ast.BinOp() if self.tensors:
                pass
            case _:
                yield ANYWHERE

    def _returned(self, file: Scoped, node: ast.Return, below: Below) -> Moves:
        function = file.climb(node, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        if not isinstance(function, ast.FunctionDef):
            yield ANYWHERE
        elif function.name not in NOT_ASKED_FOR:
            yield from self.called(file, function, below)

    def called(self, file: Scoped, function: Function, below: Below) -> Moves:
        """What a function returns goes to its calls."""
        calls, escapes = self.index.calls_of(file, function)
        if escapes:
            yield ANYWHERE
        at_top = file.scope_of(function) is file.top
        if self.open_world and at_top:
            yield Place(None, plain(below))
        for where, call in calls:
            yield where, call, below


def _attribute(file: Scoped, node: ast.Attribute, attribute: str, below: Below) -> Moves:
    call = file.parents.get(node)
    if not (isinstance(call, ast.Call) and call.func is node):
        if below and below[0] in (literal(attribute), ANY_NAME):
            yield file, node, below[0 if below[0] == ANY_NAME else 1 :]
    elif attribute in known.RETURNS_ITSELF:
        yield file, call, below
    elif attribute in known.ELEMENTS and below:
        yield file, call, as_element(below)
    elif attribute in known.PAIRS and below:
        key = below[0]
        yield file, call, (INDEX, Pair(SOME_NAME if isinstance(key, Pair | Key) else key), *below[1:])
    elif attribute in known.ONE_ELEMENT and below:
        yield file, call, below[1:]
    elif attribute == "get_submodule" and below:
        yield ANYWHERE


def _collected(file: Scoped, node: ast.AST, parent: ast.expr, below: Below) -> Moves:
    """What is put into a new list, dictionary or the like."""
    match parent:
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            yield file, parent, (pair_of(parent, node) or _position(elements, node), *below)
        case ast.Dict(keys=keys, values=values):
            if node in values:
                key = keys[values.index(node)]
                yield file, parent, below if key is None else (key_of(key), *below)
        case ast.DictComp(key=key):
            if node is not key:
                yield file, parent, (key_of(key), *below)
        case _:
            yield file, parent, (INDEX, *below)


def _position(elements: list[ast.expr], node: ast.AST) -> Name:
    at = next(index for index, each in enumerate(elements) if each is node)
    return INDEX if any(isinstance(each, ast.Starred) for each in elements[: at + 1]) else literal(str(at))
