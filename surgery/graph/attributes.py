"""What a forward leaves behind on its modules: a graph would do that once, when it is traced, and never again."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from computed.parameter import ComputedParameter
from surgery.finding import hosts
from surgery.graph.operations.op_module import OpModule

SETTERS = {"training": ("train", "eval")}
REGISTRIES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Attributes:
    """The attributes of all modules of a model as they were, containers with their contents, and of their classes."""

    modules: list[tuple[str, nn.Module, dict[str, Any]]]
    classes: list[tuple[str, type[nn.Module], dict[str, Any]]]

    @classmethod
    def of(cls, root: nn.Module) -> "Attributes":
        """Those of ``root``; what is inside of computed parameters is left out."""
        modules = [(prefix.rstrip("."), one) for one, prefix in hosts(root) if not isinstance(one, ComputedParameter)]
        classes = {type(one): name for name, one in reversed(modules) if not type(one).__module__.startswith("torch.")}
        return cls(
            [(name, one, _noted(one)) for name, one in modules],
            [(name, kind, dict(vars(kind))) for kind, name in classes.items()],
        )

    def changed_now(self, module: nn.Module) -> str | None:
        """What somebody has set on ``module`` since, and would be lost on its way into a graph; None for nothing."""
        for name, one, before in self.modules:
            if one is module:
                return next((self._text(module, name, key) for key in _changed(before, _noted(module))), None)
        return None

    def changes(self) -> list[str]:
        """One text for each attribute that is another object now, or holds others."""
        found = []
        for name, module, before in self.modules:
            if not isinstance(module, OpModule):
                found += [self._text(module, name, attribute) for attribute in _changed(before, _noted(module))]
                found += [
                    f"{self._text(module, name, attribute)} (write self.{attribute}.copy_(...), which a graph records)"
                    for attribute in _assigned(module)
                ]
        for name, kind, old in self.classes:
            found += [f"the forward of {_called(name)} sets {kind.__name__}.{key}" for key in _changed(old, vars(kind))]
        return found

    def _text(self, module: nn.Module, name: str, attribute: str) -> str:
        """What a forward sets, with the place: in the module's class, or else in that of any other module."""
        kinds = [type(module), *(kind for _, kind, _ in self.classes)]
        where = next(filter(None, (_where(kind, attribute) for kind in kinds)), "")
        return f"{where}the forward of {_called(name)} sets self.{attribute}"


def _noted(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module, containers by what they hold."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_tensor_constant")}
    return {name: _contents(value) for name, value in own.items() if name not in REGISTRIES}


def _contents(value: object) -> object:
    if type(value) is dict:
        return [(key, id(each)) for key, each in value.items()], value
    if type(value) in (list, set):
        return [id(each) for each in value], value  # type: ignore[attr-defined] # a list or a set
    return value


def _changed(before: dict[str, Any], now: Any) -> list[str]:
    return [name for name, value in now.items() if name not in before or not _same(before[name], value)]


def _same(before: object, now: object) -> bool:
    if isinstance(before, tuple) and isinstance(now, tuple) and len(before) == len(now) == 2:
        return before[1] is now[1] and before[0] == now[0]
    return before is now


def _assigned(module: nn.Module) -> Iterator[str]:
    """Names under which a proxy stands where a tensor was registered."""
    for registry in REGISTRIES:
        yield from (name for name, value in vars(module)[registry].items() if isinstance(value, fx.Proxy))


def _called(name: str) -> str:
    return name or "the model itself"


def _where(kind: type, attribute: str) -> str:
    """File, line and statement of the assignment, in the class or the first of its bases that has one."""
    return next(filter(None, (_where_in(base, attribute) for base in kind.__mro__)), "")


def _where_in(kind: type, attribute: str) -> str:
    if kind.__module__.startswith("torch.") or kind is object:
        return ""
    try:
        lines, first = inspect.getsourcelines(kind)
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        return ""
    source = textwrap.dedent("".join(lines))
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and function.name != "__init__":
            for statement in ast.walk(function):
                if isinstance(statement, ast.stmt) and _touches(statement, attribute):
                    return f"{file}:{first + statement.lineno - 1}: `{' '.join(ast.unparse(statement).split())}`: "
    return ""


def _touches(statement: ast.stmt, attribute: str) -> bool:
    """Whether a statement assigns to an attribute or an item of it, or calls a method of it."""
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = statement.targets
    elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        targets = [statement.value.func]
    else:
        return False
    return any(
        isinstance(node, ast.Attribute) and node.attr in (attribute, *SETTERS.get(attribute, ()))
        for target in targets
        for node in ast.walk(target)
    )
