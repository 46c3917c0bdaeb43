"""Attributes that a forward sets on its module: a graph would do that once, when it is traced, and never again."""

import ast
import inspect
import textwrap
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from surgery.graph.operations.op_module import OpModule


@dataclass(frozen=True)
class Attributes:
    """The attributes of some modules as they were."""

    before: list[tuple[str, nn.Module, dict[str, Any]]]

    @classmethod
    def of(cls, root: nn.Module, names: Collection[str]) -> "Attributes":
        """Those of the named modules of ``root``."""
        return cls([(name, one, dict(vars(one))) for name, one in root.named_modules() if name in names])

    def changes(self) -> list[str]:
        """One text for each attribute that is another object now."""
        return [
            f"{_where(module, attribute)}the forward of {name or 'the model itself'} sets self.{attribute}"
            for name, module, before in self.before
            if not isinstance(module, OpModule)
            for attribute, value in vars(module).items()
            if attribute not in before or before[attribute] is not value
            if not attribute.startswith("_tensor_constant")
        ]


def _where(module: nn.Module, attribute: str) -> str:
    """File, line and statement of the assignment, where the class has a source."""
    try:
        lines, first = inspect.getsourcelines(type(module))
        file = inspect.getsourcefile(type(module))
    except (OSError, TypeError):
        return ""
    source = textwrap.dedent("".join(lines))
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and function.name != "__init__":
            for statement in ast.walk(function):
                if isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign) and _sets(statement, attribute):
                    text = " ".join((ast.get_source_segment(source, statement) or "").split())
                    return f"{file}:{first + statement.lineno - 1}: `{text}`: "
    return ""


def _sets(statement: ast.Assign | ast.AugAssign | ast.AnnAssign, attribute: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return any(
        isinstance(node, ast.Attribute) and node.attr == attribute for target in targets for node in ast.walk(target)
    )
