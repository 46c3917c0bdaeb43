"""What stands around a removal to catch that there is nothing to remove, and would not catch it from ``bake``."""

from __future__ import annotations

import ast

from rewrite.insertion import Insertion
from rewrite.migration.arguments import NotUnderstoodError
from rewrite.migration.recasting import renamed
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

CATCHES_BOTH = frozenset({"builtins.Exception", "builtins.BaseException"})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def guarded(tree: Tree, file: Scoped, call: ast.Call) -> tuple[Insertion, ...]:
    """``except ValueError`` around the call alone becomes ``except (ValueError, RuntimeError)``.

    Raises `NotUnderstoodError` where a handler may be meant for this error, and cannot be widened for it alone.
    """
    inside: ast.AST = call
    above = file.parents.get(inside)
    while above is not None and not isinstance(above, FUNCTIONS):
        if isinstance(above, ast.Try | ast.TryStar) and inside in above.body:
            for handler in above.handlers:
                caught = _caught(tree, file, handler)
                if caught is None or caught & CATCHES_BOTH:
                    return ()
                if "builtins.ValueError" in caught:
                    return (_widened(file, call, above, handler),)
        inside, above = above, file.parents.get(above)
    return ()


def _caught(tree: Tree, file: Scoped, handler: ast.ExceptHandler) -> set[str] | None:
    """The full names of what a handler catches; None for everything."""
    if handler.type is None:
        return None
    each = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {tree.project.full_name(file, one) or "" for one in each}
    if {"builtins.ValueError", "builtins.RuntimeError"} <= names:
        return None
    if "" in names:
        raise NotUnderstoodError(f"what the handler in line {handler.lineno} catches is unclear")
    return names


def _widened(file: Scoped, call: ast.Call, around: ast.Try | ast.TryStar, handler: ast.ExceptHandler) -> Insertion:
    match around.body:
        case [ast.Expr(value=value) | ast.Assign(value=value)] if value is call:
            if isinstance(handler.type, ast.Name):
                return renamed(file, handler.type, "(ValueError, RuntimeError)")
    raise NotUnderstoodError(f"the handler in line {handler.lineno} is for more than this call")
