"""The functions of a file that may make modules; in the others, modules that are there already are used."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewrite.scopes import Scoped

CONSTRUCTORS = frozenset({"__init__", "__new__", "__post_init__", "setup", "build", "post_init"})


def making(file: Scoped) -> frozenset[ast.AST]:
    """Constructors, the methods that they call on ``self``, those that these call; and functions outside classes."""
    functions: dict[str, list[ast.AST]] = {}
    called: dict[ast.AST, set[str]] = {}
    found: set[ast.AST] = set()
    for call in file.calls:
        function = file.function_of(call)
        if function is None:
            continue
        if function not in called:
            called[function] = set()
            functions.setdefault(function.name, []).append(function)
            if file.class_of(function) is None or function.name in CONSTRUCTORS:
                found.add(function)
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            called[function].add(call.func.attr)
    waiting = list(found)
    while waiting:
        for name in called.get(waiting.pop(), ()):
            new = [each for each in functions.get(name, ()) if each not in found and name != "forward"]
            found.update(new)
            waiting += new
    return frozenset(found)
