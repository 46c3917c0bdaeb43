"""What is called where no full name tells it: a base's constructor, a method of some class, an inner function."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from rewrite.classes import Class
from rewrite.scopes import Scoped

if TYPE_CHECKING:
    from rewrite.flow import Flow

Method = ast.FunctionDef | ast.AsyncFunctionDef


def super_of(flow: Flow, file: Scoped, call: ast.Call) -> Class | None:
    """The class in whose body ``super().__init__`` is called here."""
    match call.func:
        case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"):
            return flow.classes.around(file, call)
    return None


def is_defined(flow: Flow, method: str) -> bool:
    """Whether a module class of the project has a method of this name."""
    return any(method in each.file.scope_made_by(each.node).bound for each in flow.classes.by_node.values())


def local_function(file: Scoped, call: ast.Call) -> Method | None:
    """The function that is called by its name, where the name has no other meaning."""
    if not isinstance(call.func, ast.Name):
        return None
    home = file.scope_of(call).home(call.func.id)
    bound = file.bindings(home, call.func.id) if home is not None else []
    one = bound[0] if len(bound) == 1 else None
    return one if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) else None
