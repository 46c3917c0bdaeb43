"""Class decorators: whether what they leave is the class."""

from __future__ import annotations

import ast

from rewrite.classes import Class
from rewrite.project import Project


def replaces_class(project: Project, owner: Class) -> bool:
    """Whether a decorator of the project returns something else than the class that it is given.

    Decorators of elsewhere are taken to return the class, as those that register or document it do.
    """
    for decorator in owner.node.decorator_list:
        called = isinstance(decorator, ast.Call)
        name = project.full_name(owner.file, decorator.func if isinstance(decorator, ast.Call) else decorator)
        found = project.definition(name)
        is_function = found is not None and not called and isinstance(found.node, ast.FunctionDef)
        if found is not None and is_function and not _returns_argument(found.node):
            return True
    return False


def _returns_argument(function: ast.AST) -> bool:
    if not isinstance(function, ast.FunctionDef):
        return False
    arguments = (*function.args.posonlyargs, *function.args.args)
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return bool(arguments) and all(isinstance(each, ast.Name) and each.id == arguments[0].arg for each in returned)
