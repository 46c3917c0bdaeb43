"""Which names can lead to an instance of each class: what a pattern has read when it arrives there."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from rewrite.classes import Class, Classes
from rewrite.following import Follower
from rewrite.index import Index
from rewrite.places import Place
from rewrite.scopes import Scoped
from rewrite.sites import Kind, Site

# class attributes that hold classes to recognise instances by, not to make them
REGISTRIES = frozenset({"_can_record_outputs"})
ASKING = frozenset({"isinstance", "issubclass", "super", "TypeVar", "cast"})
STATIC = frozenset({"__init__", "forward", "__name__", "__doc__", "__module__", "__qualname__"})


def arrivals(
    follower: Follower, classes: Iterable[Class], made: Iterable[Site], roots: Mapping[Class, bool]
) -> dict[Class | None, Any]:
    """What is reached at each class. ``roots`` are where names begin; True: they may begin anywhere before it."""
    reached: dict[Class | None, Any] = dict.fromkeys(classes, follower.nothing)
    reached[None] = follower.anywhere
    edges: dict[Class | None, list[tuple[Place, Class]]] = {}
    classes = list(classes)
    for site in made:
        # what comes from elsewhere may be of any class that is known elsewhere, through a registry for instance
        targets = [each for each in classes if each.is_known_outside()] if site.kind is Kind.UNRESOLVED else []
        targets += [site.made] if site.made is not None else []
        for target in targets:
            for place in site.places:
                edges.setdefault(place.owner, []).append((place, target))
    waiting: list[tuple[Class, Any]] = [
        (root, follower.anywhere if anywhere else follower.start) for root, anywhere in roots.items()
    ]
    waiting += [
        (target, follower.along(follower.anywhere, place.path, inside=True)) for place, target in edges.get(None, ())
    ]
    while waiting:
        owner, here = waiting.pop()
        both = follower.either(reached[owner], here)
        if both == reached[owner]:
            continue
        reached[owner] = both
        waiting += [(base, both) for base in owner.bases]  # the code of a base runs for each instance
        for place, target in edges.get(owner, ()):
            waiting.append((target, follower.along(both, place.path, inside=True)))
    return reached


def escapes(classes: Classes, index: Index, each: Class) -> bool:
    """Whether a class is passed on, stored or made by a method of its own: its instances may stand anywhere."""
    if each.full_name.count(".<locals>") or isinstance(each.file.parents.get(each.node), ast.ClassDef):
        reads: list[tuple[Scoped, ast.AST]] = [
            (each.file, read) for read in each.file.reads(each.file.scope_of(each.node), each.name)
        ]
    else:
        reads = index.reads_of(each.full_name, each.name)
    return any(not _only_named(file, read) for file, read in reads)


def _only_named(file: Scoped, read: ast.AST) -> bool:
    """Whether a class is named here without being passed on."""
    inside, above = read, file.parents.get(read)
    match above:
        case ast.Call(func=function) if function is read:
            return True
        case ast.ClassDef():
            return read in above.bases
        case ast.Attribute(attr=attribute):
            return attribute in STATIC
    while above is not None and not isinstance(above, ast.stmt):
        match above:
            case ast.Call(func=ast.Name(id=name)) if name in ASKING:
                return True
            case ast.arg():
                return True
        inside, above = above, file.parents.get(above)
    match above:
        case ast.AnnAssign(annotation=annotation):
            return inside is annotation
        case ast.FunctionDef(returns=returns) | ast.AsyncFunctionDef(returns=returns):
            return inside is returns
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in REGISTRIES
    return False
