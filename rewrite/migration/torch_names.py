"""How a file can name a function of torch.nn.utils, by what it imports already."""

from __future__ import annotations

import ast

from rewrite.migration.arguments import NotUnderstoodError
from rewrite.migration.known import UTILS
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped


def torch_name(tree: Tree, file: Scoped, node: ast.AST, full_name: str) -> str:
    """``nn.utils.parametrizations.weight_norm`` where ``nn`` is imported; raises `NotUnderstoodError` where nothing is.

    Modules below ``torch.nn.utils`` come with it.
    """
    found = []
    for name in file.top.bound:
        meant = tree.project.full_name(file, ast.Name(name, ast.Load()), file.top)
        if meant is not None and UTILS.startswith(f"{meant}.") and file.scope_of(node).home(name) is file.top:
            found.append(full_name.replace(meant, name, 1))
    if not found:
        raise NotUnderstoodError("neither torch nor torch.nn is imported under one name, to name its successor")
    return min(found, key=lambda each: (len(each), each))
