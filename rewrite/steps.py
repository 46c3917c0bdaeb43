"""Weights that are initialised in steps that read what earlier ones wrote.

What is constrained at its call is projected when it is first read, so that a step in between sees a projected value,
and what comes of it is projected once more. Constrained when everything is made, it is projected once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from rewrite.classes import Class
from rewrite.layers import UNKNOWN
from rewrite.scopes import Scoped
from rewrite.sites import Site, arguments_of
from rewrite.verdicts import Tensor

# writes zeros to a row of what it has drawn
PADDED = frozenset({"Embedding", "EmbeddingBag"})
# reads what it has drawn, to draw again what is outside: https://docs.pytorch.org/docs/stable/nn.init.html
READING = "trunc_normal_"
BOUNDS_BEGIN = 3  # its positional arguments before them
# of a module that is being made: they read, convert or order its parameters
WHOLE = frozenset({"parameters", "named_parameters", "half", "double", "bfloat16", "to", "float", "type"})
COPYING = frozenset({"state_dict", "load_state_dict"})
CONVERTING = frozenset({"half", "double", "bfloat16", "to", "float", "type"})
# of a weight: they tell nothing of its numbers, or write to it
OF_ITS_FORM = frozenset(
    {"shape", "size", "dtype", "device", "ndim", "dim", "numel", "requires_grad", "data", "is_cuda"}
)


def copies(site: Site) -> str | None:
    """The class that copies states of modules by their keys while it makes the site's; None where none does."""
    for place in site.places:
        for each in place.owner.line() if place.owner is not None else ():
            if any(_in_constructor(each, read) for name in COPYING for read in each.file.attributes.get(name, ())):
                return each.name
    return None


def pretrained_elsewhere(classes: Iterable[Class]) -> Class | None:
    """A model of transformers that is none of its own; None where there is none.

    Of modules of others transformers takes one whose only parameter is a computed one for initialised.
    """
    for each in classes:
        outside = [name for base in each.line() for name in base.outside if name is not None]
        is_model = any(name.rpartition(".")[2] == "PreTrainedModel" for name in outside)
        if is_model and not each.full_name.startswith("transformers."):
            return each
    return None


def steps(site: Site, tensor: Tensor) -> str | None:
    """Why the tensor may be initialised in steps; None where nothing says so."""
    layer = site.layer
    if layer is not None and layer.name in PADDED and tensor.name == "weight":
        padding = arguments_of(layer, site.node).get("padding_idx", UNKNOWN)
        if padding is not None:
            return "its row for padding is set to zero"
    parent = site.file.parents.get(site.node)
    if isinstance(parent, ast.Attribute) and parent.attr in CONVERTING:
        return "it is converted when it is made"
    if any(_reads(file) for file in {site.file, *(place.owner.file for place in site.places if place.owner)}):
        return f"{READING} reads what it has written"
    for place in site.places:
        found = _used(place.owner, tensor) if place.owner is not None else None
        if found is not None:
            return f"{found} uses its parameters while it is made"
    return None


def _reads(file: Scoped) -> bool:
    """Whether bounds are given that are far from the centre: then it draws, looks, and draws again."""
    return any(
        (len(call.args) > BOUNDS_BEGIN or any(each.arg in ("a", "b") for each in call.keywords))
        for call in file.calls
        if READING in (getattr(call.func, "attr", None), getattr(call.func, "id", None))
    )


def _used(owner: Class, tensor: Tensor) -> str | None:
    """The class, of this one and its bases, whose constructor asks for all parameters, or reads one of this name."""
    name = tensor.name.rpartition(".")[2]
    for each in owner.line():
        whole = [read for one in WHOLE for read in each.file.attributes.get(one, ()) if _of_self(read)]
        single = [read for read in each.file.attributes.get(name, ()) if _is_read(each.file, read)] if name else []
        if any(_in_constructor(each, read) for read in (*whole, *single)):
            return each.name
    return None


def _of_self(node: ast.Attribute) -> bool:
    root: ast.expr = node
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id == "self"


def _is_read(file: Scoped, node: ast.Attribute) -> bool:
    """Whether the numbers of ``self.fc.weight`` are read, not initialised."""
    parent = file.parents.get(node)
    if not _of_self(node) or isinstance(parent, ast.Expr):
        return False
    if isinstance(parent, ast.Attribute):
        return parent.attr not in OF_ITS_FORM and not parent.attr.endswith("_")
    if isinstance(parent, ast.Call):
        return not (isinstance(parent.func, ast.Attribute | ast.Name) and ast.unparse(parent.func).endswith("_"))
    return True


def _in_constructor(owner: Class, node: ast.AST) -> bool:
    function = owner.file.function_of(node)
    return function is not None and function.name == "__init__" and owner.file.class_of(function) is owner.node
