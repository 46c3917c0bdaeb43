"""Weights that are initialised in steps that read what earlier ones wrote.

What is constrained at its call is projected when it is first read, so that a step in between sees a projected value,
and what comes of it is projected once more. Constrained when everything is made, it is projected once.
"""

from __future__ import annotations

import ast

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
WHOLE = frozenset(
    {"parameters", "named_parameters", "state_dict", "load_state_dict", "half", "double", "bfloat16", "to", "float"}
)


def steps(site: Site, tensor: Tensor) -> str | None:
    """Why the tensor may be initialised in steps; None where nothing says so."""
    layer = site.layer
    if layer is not None and layer.name in PADDED and tensor.name == "weight":
        padding = arguments_of(layer, site.node).get("padding_idx", UNKNOWN)
        if padding is not None:
            return "its row for padding is set to zero"
    if any(_reads(file) for file in {site.file, *(place.owner.file for place in site.places if place.owner)}):
        return f"{READING} reads what it has written"
    for place in site.places:
        found = _used(place.owner) if place.owner is not None else None
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


def _used(owner: Class) -> str | None:
    """The class, of this one and its bases, whose constructor asks for all parameters at once."""
    for each in owner.line():
        for name in WHOLE & each.file.attributes.keys():
            for read in each.file.attributes[name]:
                if isinstance(read.value, ast.Name) and read.value.id == "self" and _in_constructor(each, read):
                    return each.name
    return None


def _in_constructor(owner: Class, node: ast.AST) -> bool:
    function = owner.file.function_of(node)
    return function is not None and function.name == "__init__" and owner.file.class_of(function) is owner.node
