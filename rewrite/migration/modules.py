"""What a module is that an expression means: by the call that makes it, here or where it is stored."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from rewrite.classes import Class
from rewrite.layers import Layer, layer
from rewrite.migration.known import KNOWN
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

DEEP = 8  # variables that lead to each other
MATRICES = frozenset({"Linear", "Embedding", "EmbeddingBag"})
RECURRENT = frozenset({"RNNBase", "RNNCellBase"})


@dataclass(frozen=True)
class Made:
    """The class whose call makes a module: one of torch, or of the project; neither where that is unclear.

    ``norms`` are the calls of old functions that it goes through on the way, with their kinds.
    """

    layer: Layer | None = None
    owner: Class | None = None
    norms: tuple[tuple[ast.Call, str], ...] = ()

    @property
    def bases(self) -> tuple[str, ...]:
        """The names of the classes of torch that it is of."""
        return () if self.layer is None else self.layer.bases

    @property
    def transposed(self) -> bool | None:
        """Whether it is a transposed convolution; None where that is unclear."""
        return None if self.layer is None else "_ConvTransposeNd" in self.bases

    @property
    def own(self) -> bool:
        """Whether it is of an author's own class that is no kind of a layer of torch."""
        return self.owner is not None and self.layer is None and not self.owner.unclear_bases()

    def is_matrix(self, name: str) -> bool:
        """Whether its parameter ``name`` has two dimensions, as far as that is known."""
        if name == "weight":
            return bool(MATRICES & set(self.bases))
        return bool(RECURRENT & set(self.bases)) and name.startswith("weight_")


def made(tree: Tree, file: Scoped, node: ast.expr, deep: int = 0) -> Made:
    """What makes the module that ``node`` means."""
    if deep > DEEP:
        return Made()
    if isinstance(node, ast.Call):
        return _made_by(tree, file, node, deep)
    value = _stored(file, node)
    return Made() if value is None else made(tree, file, value, deep + 1)


def _made_by(tree: Tree, file: Scoped, call: ast.Call, deep: int) -> Made:
    full_name = tree.project.full_name(file, call.func) or ""
    known = KNOWN.get(full_name)
    if known is not None and call.args:
        inner = made(tree, file, call.args[0], deep + 1)
        return Made(inner.layer, inner.owner, (*inner.norms, (call, known.kind)))
    owner = tree.classes.named(full_name)
    return Made(layer(full_name)) if owner is None else Made(owner.inherited(), owner)


def _stored(file: Scoped, node: ast.expr) -> ast.expr | None:
    """The only value of a variable, or of an attribute of ``self`` in the class."""
    match node:
        case ast.Name(id=name):
            home = file.scope_of(node).home(name)
            bindings = [] if home is None else file.bindings(home, name)
            statements = [file.parents.get(each) for each in bindings]
            targets: list[ast.AST] = bindings
        case ast.Attribute(value=ast.Name(id="self"), attr=attribute):
            owner = file.climb(node, ast.ClassDef)
            inside = ast.walk(owner) if owner is not None else ()
            targets = [each for each in inside if _is_stored(each, attribute)]
            statements = [file.parents.get(each) for each in targets]
        case _:
            return None
    match statements:
        case [ast.Assign(targets=[target], value=value)] if target is targets[0] and value is not node:
            return value
    return None


def _is_stored(node: ast.AST, attribute: str) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store() | ast.Del()):
            return name == attribute
    return False
