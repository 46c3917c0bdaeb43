"""The functions of a file that may make modules; in the others, modules that are there already are used."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewrite.scopes import Scoped

# and what bases elsewhere call of a class while it is made
CONSTRUCTORS = frozenset(
    {
        *("__init__", "__new__", "__post_init__", "setup", "build", "post_init", "reset_parameters", "init_weights"),
        *("tie_weights", "_tie_weights"),
    }
)


PROPERTIES = ("property", "cached_property")


def making(file: Scoped) -> frozenset[ast.AST]:
    """Constructors, the methods that they call, those that these call; properties; functions outside classes."""
    functions: dict[str, list[ast.AST]] = {}
    for each in file.functions:
        functions.setdefault(each.name, []).append(each)
    found: set[ast.AST] = {
        each
        for each in file.functions
        if file.class_of(each) is None or each.name in CONSTRUCTORS or _is_property(each)
    }
    called: dict[ast.AST, set[str]] = {}
    for call in file.calls:
        function = file.function_of(call)
        if function is not None and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            called.setdefault(function, set()).add(call.func.attr)
    waiting = list(found)
    while waiting:
        for name in called.get(waiting.pop(), ()):
            new = [each for each in functions.get(name, ()) if each not in found and name != "forward"]
            found.update(new)
            waiting += new
    return frozenset(found)


def _is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function runs where it is read, without a call."""
    return any(ast.unparse(each).rpartition(".")[2] in PROPERTIES for each in function.decorator_list)
