"""What becomes of a module that is given to a call: a child, a parameter of known code, or lost from sight."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rewrite.known_calls as known
from rewrite.assigning import into_self
from rewrite.callees import Method, is_defined, local_function, super_of
from rewrite.classes import Class
from rewrite.items import INDEX, SOME_NAME, literal
from rewrite.keys import key_of
from rewrite.layers import layer
from rewrite.places import ANYWHERE, Below, Into, Key, Moves, Pair, as_element, by_key, renumbered
from rewrite.scopes import Scoped

if TYPE_CHECKING:
    from rewrite.flow import Flow

VALUE_OF_SETATTR = 2


@dataclass(frozen=True)
class Given:
    """A value that is given to ``call``, at a position or under a keyword where these are clear."""

    flow: Flow
    file: Scoped
    call: ast.Call
    at: int | None
    keyword: str | None
    below: Below

    @classmethod
    def by_position(cls, flow: Flow, file: Scoped, call: ast.Call, node: ast.AST, below: Below) -> Given:
        """The argument ``node``, which has no keyword."""
        at = next(position for position, each in enumerate(call.args) if each is node)
        starred = any(isinstance(each, ast.Starred) for each in call.args[:at])
        return cls(flow, file, call, None if starred else at, None, below)

    def moves(self) -> Moves:
        """Where it goes."""
        full_name = self.flow.project.full_name(self.file, self.call.func)
        if full_name is None:
            yield from self._to_unnamed()
        elif full_name in known.HARMLESS or full_name.startswith(known.HARMLESS_PREFIXES):
            return
        elif full_name in known.SETTING and self.at == VALUE_OF_SETATTR:
            target, key, _ = self.call.args
            yield Into(self.file, target, (key_of(key), *self.below))
        elif full_name == "torch.compile":
            yield self.file, self.call, (literal("_orig_mod"), *self.below)
        elif full_name in known.PASSING:
            yield self.file, self.call, self.below
        elif full_name in known.COLLECTING or full_name in known.KEYED:
            yield from self._collected(full_name)
        else:
            yield from self._to_named(full_name)

    def _to_named(self, full_name: str) -> Moves:
        """To a class or function of the project, or to a layer of torch."""
        made = self.flow.classes.named(full_name)
        found = layer(full_name)
        definition = self.flow.project.definition(full_name)
        if made is not None:
            yield from self._to_constructor(made)
        elif found is not None:
            path = self._child_of(found.name)
            yield ANYWHERE if path is None else (self.file, self.call, path)
        elif definition is not None and not isinstance(definition.node, ast.ClassDef):
            yield from self._to_function(definition.file, definition.node)
        else:
            yield ANYWHERE

    def _to_unnamed(self) -> Moves:
        """To a method, a function inside a function, or something that is not understood."""
        owner = super_of(self.flow, self.file, self.call)
        local = local_function(self.file, self.call)
        if owner is not None:
            yield from self._to_base(owner)
        elif isinstance(self.call.func, ast.Attribute):
            yield from self._to_method(self.call.func)
        elif local is not None:
            yield from self._to_function(self.file, local)
        else:
            yield ANYWHERE

    def _collected(self, full_name: str) -> Moves:
        """In a new collection, made of others or of keywords."""
        keyed = full_name in known.KEYED
        ordered = full_name == "collections.OrderedDict"
        if keyed and self.keyword is not None:
            name = literal(self.keyword)
            yield self.file, self.call, (Key(name) if ordered else name, *self.below)
        elif keyed and self.below:
            first, *rest = by_key(self.below)
            yield self.file, self.call, (Key(first) if ordered and isinstance(first, tuple) else first, *rest)
        elif self.below:
            yield (self.file, self.call, self._at_some_place(full_name)) if self.at is not None else ANYWHERE

    def _at_some_place(self, full_name: str) -> Below:
        rest = self.below[1:]
        match full_name:
            case "builtins.enumerate":
                return (INDEX, Pair(INDEX), *rest)
            case "builtins.zip":
                return (INDEX, Pair(SOME_NAME) if self.at == 1 else literal(str(self.at)), *rest)
            case "builtins.sum":
                return as_element(rest) if rest else (INDEX,)
        return renumbered(self.below)

    def _child_of(self, name: str) -> Below | None:
        """The path below a layer of torch of what its constructor is given."""
        if name == known.SEQUENTIAL:
            if self.at == 0 and len(self.call.args) == 1 and self.below and isinstance(self.below[0], Key):
                return by_key(self.below)
            return (literal(str(self.at)) if self.at is not None else INDEX, *self.below)
        if name in known.LISTS:
            return self.below or None
        if name in known.DICTIONARIES:
            return by_key(self.below) or None
        for given, (position, path) in known.CHILDREN.get(name, {}).items():
            if self.at == position or self.keyword == given:
                return (*path, *self.below)
        return None

    def _to_base(self, owner: Class) -> Moves:
        """To ``super().__init__``, which may be another's than that of a base where a class below has several."""
        if any(len(each.bases) > 1 for each in owner.below()):
            yield ANYWHERE
        found = next((method for base in owner.bases if (method := base.method("__init__"))), None)
        if found is not None:
            yield from self._to_function(found[0].file, found[1], bound=True)
        else:
            yield from self._into_layer(owner)

    def _to_constructor(self, made: Class) -> Moves:
        found = made.method("__init__")
        if found is not None:
            yield from self._to_function(found[0].file, found[1], bound=True)
        else:
            yield from self._into_layer(made)

    def _into_layer(self, owner: Class) -> Moves:
        """To the constructor of the layer of torch that ``owner`` is a kind of."""
        inherited = owner.inherited()
        path = None if inherited is None else self._child_of(inherited.name)
        if path is None:
            yield ANYWHERE
        else:
            yield from into_self(self.flow, owner, path)

    def _to_function(self, file: Scoped, function: Method, *, bound: bool = False) -> Moves:
        """It is what the parameter of the function reads."""
        arguments = function.args
        free = [*arguments.posonlyargs, *arguments.args][1 if bound else 0 :]
        parameter, below = None, self.below
        if self.keyword is not None:
            parameter = next((each for each in (*free, *arguments.kwonlyargs) if each.arg == self.keyword), None)
        elif self.at is not None and self.at < len(free):
            parameter = free[self.at]
        elif self.at is not None and arguments.vararg is not None:
            parameter, below = arguments.vararg, (literal(str(self.at - len(free))), *below)
        if parameter is None:
            yield ANYWHERE
            return
        for read in file.reads(file.scope_made_by(function), parameter.arg):
            yield file, read, below

    def _to_method(self, function: ast.Attribute) -> Moves:
        method, receiver = function.attr, function.value
        owner = self.flow.index.self_class(self.file, receiver)
        found = owner.method(method) if owner is not None else None
        if owner is not None and any(base.method(method) != found for base in owner.below()):
            yield ANYWHERE  # a subclass does something else with it
        if found is not None:
            static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in found[1].decorator_list)
            yield from self._to_function(found[0].file, found[1], bound=not static)
        elif is_defined(self.flow, method):
            yield ANYWHERE  # of which class, is not known
        elif method in known.ADDING:
            yield Into(self.file, receiver, (INDEX, *self.below))
        elif method == "extend" and self.below:
            yield Into(self.file, receiver, renumbered(self.below))
        elif method == "update" and self.below:
            yield Into(self.file, receiver, by_key(self.below))
        elif (method in known.NAMING and self.call.args) or (
            method == "__setattr__" and len(self.call.args) == VALUE_OF_SETATTR
        ):
            yield Into(self.file, receiver, (key_of(self.call.args[0]), *self.below))
        elif method not in known.HARMLESS_METHODS:
            yield ANYWHERE


def marked(flow: Flow, file: Scoped, mark: ast.keyword | ast.Starred, below: Below) -> Moves:
    """What becomes of a keyword argument, or of what stands after a star."""
    parent = file.parents[mark]
    if isinstance(mark, ast.keyword):
        if isinstance(parent, ast.Call):
            yield from Given(flow, file, parent, None, mark.arg, below).moves()
    elif below and isinstance(parent, ast.List | ast.Tuple | ast.Set):
        yield file, parent, renumbered(below)
    elif below and isinstance(parent, ast.Call):
        yield from _spread(flow, file, parent, below if parent.args[0] is mark else renumbered(below))
    else:
        yield ANYWHERE


def _spread(flow: Flow, file: Scoped, call: ast.Call, below: Below) -> Moves:
    """The elements of a list are the arguments of ``call``."""
    full_name = flow.project.full_name(file, call.func)
    found = layer(full_name) if full_name is not None else None
    owner = super_of(flow, file, call)
    inherited = owner.inherited() if owner is not None and not owner.bases else None
    if found is not None and found.name == known.SEQUENTIAL:
        yield file, call, below
    elif owner is not None and inherited is not None and inherited.name == known.SEQUENTIAL:
        yield from into_self(flow, owner, below)
    elif full_name in known.COLLECTING:
        yield file, call, renumbered(below[1:]) if len(below) > 1 else (INDEX,)
    else:
        yield ANYWHERE
