"""The calls of a project that make tensors, and where each may stand: layers, classes of the project, parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from rewrite.callees import local_function
from rewrite.classes import Class, Classes
from rewrite.flow import Flow
from rewrite.index import Index
from rewrite.items import ANY_NAME, Path, literal
from rewrite.keys import key_of
from rewrite.layers import UNKNOWN, Layer, Tensors, bound, layer, tensors
from rewrite.places import Into, Place
from rewrite.scopes import Scoped
from rewrite.unresolved import may_make_modules

PARAMETERS = frozenset({"torch.nn.Parameter", "torch.nn.parameter.Parameter"})
BUFFERS = frozenset({"torch.nn.Buffer", "torch.nn.parameter.Buffer"})
OF_TENSORS = frozenset({"ParameterList", "ParameterDict"})
LAYERS_WITH_CHILDREN = frozenset({"TransformerEncoder", "TransformerDecoder", "DataParallel"})
ITSELF = Tensors(certain=("",))
ITSELF_AS_BUFFER = Tensors(buffers=("",))


class Kind(Enum):
    """What a call makes."""

    LAYER = "a layer of torch"
    CLASS = "an instance of a class of the project"
    PARAMETER = "a parameter or buffer of an author's own"
    UNRESOLVED = "something that may be a module"


@dataclass(frozen=True, eq=False)
class Site:
    """One call that makes tensors.

    ``types`` are the class names of their host; ``made`` is a class of the project, ``layer`` the one of torch.
    """

    file: Scoped
    node: ast.Call
    kind: Kind
    places: frozenset[Place]
    tensors: Tensors
    types: tuple[str, ...] = ()
    made: Class | None = None
    layer: Layer | None = None

    @property
    def position(self) -> tuple[str, int, int]:
        """File, line and column, as ``ast`` counts."""
        return self.file.source.path, self.node.lineno, self.node.col_offset


def sites(classes: Classes, index: Index, *, open_world: bool) -> Iterator[Site]:
    """Every call that makes tensors, or may."""
    finding = _Finding(
        classes,
        Flow(classes, index, open_world=open_world),
        Flow(classes, index, open_world=open_world, tensors=True),
    )
    for file in classes.project.files:
        for call in file.calls:
            chosen = finding.chosen(file, call)
            site = finding.site(file, call) if not chosen else None
            yield from chosen if site is None else [site]


@dataclass(frozen=True)
class _Finding:
    """Follows what calls make: modules, and tensors."""

    classes: Classes
    modules: Flow
    tensors: Flow

    def chosen(self, file: Scoped, call: ast.Call) -> list[Site]:
        """The classes of the project of which a variable that is called may be one; none of them a layer itself."""
        owners = [self.classes.named(name) for name in self.classes.project.choices(file, call.func) or ()]
        found = [each for each in owners if each is not None]
        if (
            len(owners) < 2
            or len(found) != len(owners)
            or any(inherited_tensors(each, call) != Tensors() for each in found)
        ):
            return []
        places = self.modules.places(file, call)
        return [Site(file, call, Kind.CLASS, places, Tensors(), each.types(), each) for each in found]

    def site(self, file: Scoped, call: ast.Call) -> Site | None:
        """What ``call`` makes, if that is known to be, or may be, a tensor or a module with tensors."""
        full_name = self.classes.project.full_name(file, call.func)
        if full_name is None:
            return self._registered(file, call) or self._unresolved(file, call, full_name)
        if full_name in PARAMETERS or full_name in BUFFERS:
            return self._parameter(file, call, ITSELF if full_name in PARAMETERS else ITSELF_AS_BUFFER)
        known = layer(full_name)
        if known is not None:
            return self._layer(file, call, known)
        owner = self.classes.named(full_name)
        if owner is not None and any(name in PARAMETERS for each in owner.line() for name in each.outside):
            return self._parameter(file, call, ITSELF)
        if owner is not None:
            made, base = inherited_tensors(owner, call), owner.inherited()
            return Site(file, call, Kind.CLASS, self.modules.places(file, call), made, owner.types(), owner, base)
        if self.classes.project.definition(full_name) is not None:  # what it returns is followed
            return None
        return self._unresolved(file, call, full_name)

    def _parameter(self, file: Scoped, call: ast.Call, made: Tensors) -> Site:
        """A parameter stands where it is put; where it is read there, most often its numbers are meant."""
        places = self.tensors.places(file, call) | self.modules.known_places(file, call)
        return Site(file, call, Kind.PARAMETER, places, made)

    def _layer(self, file: Scoped, call: ast.Call, known: Layer) -> Site | None:
        made = tensors_of(known, call)
        if known.name in LAYERS_WITH_CHILDREN:  # what they are given is followed to them
            made = replace(made, open=False)
        if known.name in OF_TENSORS:  # tensors become parameters
            made = Tensors(open=True)
        elif made == Tensors() or known.container:
            return None
        return Site(file, call, Kind.LAYER, self.modules.places(file, call), made, known.bases, None, known)

    def _registered(self, file: Scoped, call: ast.Call) -> Site | None:
        """``self.register_buffer("mean", ...)``, where the call itself is the place."""
        registered = registered_buffer(call)
        if registered is None:
            return None
        host, name, value = registered
        found = self.tensors.follow([Into(file, host, (key_of(name),))])
        empty = isinstance(value, ast.Constant) and value.value is None
        made = Tensors(possible_buffers=("",)) if empty else ITSELF_AS_BUFFER
        return Site(file, call, Kind.PARAMETER, found, made)

    def _unresolved(self, file: Scoped, call: ast.Call, full_name: str | None) -> Site | None:
        if not may_make_modules(file, call, full_name) or local_function(file, call) is not None:
            return None
        # itself, or a part of it
        found = self.modules.places(file, call) | self.modules.places(file, call, (ANY_NAME,))
        return Site(file, call, Kind.UNRESOLVED, found, Tensors()) if found else None


def registered_buffer(call: ast.Call) -> tuple[ast.expr, ast.expr, ast.expr | None] | None:
    """Host, name and value of a call of ``register_buffer``; None for another call."""
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "register_buffer"):
        return None
    given = {each.arg: each.value for each in call.keywords}
    name = call.args[0] if call.args else given.get("name")
    value = call.args[1] if len(call.args) > 1 else given.get("tensor")
    return None if name is None else (call.func.value, name, value)


def tensors_of(known: Layer, call: ast.Call) -> Tensors:
    """What a call of a layer's constructor makes."""
    return tensors(known, arguments_of(known, call))


def arguments_of(known: Layer, call: ast.Call) -> Mapping[str, object]:
    """The arguments of a call of a layer's constructor, by name."""
    positional: list[object] = []
    starred = any(each.arg is None for each in call.keywords)
    for each in call.args:
        if isinstance(each, ast.Starred):
            starred = True
            break
        positional.append(_value(each))
    keywords = {each.arg: _value(each.value) for each in call.keywords if each.arg is not None}
    return bound(known, positional, keywords, starred=starred)


def inherited_tensors(owner: Class, call: ast.Call | None) -> Tensors:
    """What an instance of a class of the project has from the layer of torch that it is a kind of."""
    inherited = owner.inherited()
    unclear = bool(owner.unclear_bases())
    if inherited is None or inherited.container:
        return Tensors(open=unclear)
    if call is not None and owner.method("__init__") is None:
        return replace(tensors_of(inherited, call), open=unclear)
    return replace(tensors(inherited, dict.fromkeys(inherited.arguments, UNKNOWN)), open=unclear)


def _value(node: ast.expr) -> object:
    """A literal, or UNKNOWN."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return UNKNOWN


def name_below(name: str) -> Path:
    """The path of a tensor below what makes it; empty where it is that itself."""
    return tuple(map(literal, name.split("."))) if name else ()
