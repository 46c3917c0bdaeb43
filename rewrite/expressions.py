"""The calls of a file, and the targets of its assignments, found by the positions that Python tells of instructions."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

from rewrite.source import Source, UnreadableError

Position = tuple[int, int]


def expressions(file: str) -> dict[tuple[Position | None, Position | None], ast.expr] | str:
    """The calls and the targets of assignments in ``file``, by where they end; or why there are none.

    No two of them end together. Where an attribute stands on another line than its object, Python says of the call or
    the target that it begins with the name of the attribute: such ones also stand by that.
    https://github.com/python/cpython/blob/3.11/Python/compile.c, update_start_location_to_match_attr
    """
    try:
        tree = Source.read(file, Path(file).read_bytes()).tree
    except (OSError, UnreadableError) as error:
        return f"{file} cannot be read: {error}"
    found: dict[tuple[Position | None, Position | None], ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) or (
            isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store)
        ):
            found[None, (node.end_lineno or 0, node.end_col_offset or 0)] = node
            named = node.func if isinstance(node, ast.Call) else node
            if isinstance(named, ast.Attribute) and named.lineno != named.end_lineno:
                found[(named.end_lineno or 0, (named.end_col_offset or 0) - len(named.attr)), None] = node
    return found


def may_construct(node: ast.expr) -> bool:
    """Whether ``node`` is a call, and not one like ``list(map(nn.Linear, sizes))``, which constructs on the way."""
    return isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in vars(builtins))
