"""CS220: an author's own transform of a parameter, such as ``torch.exp(self.log_scale)``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import ClassVar

from rewrite.code import Weight
from rewrite.migration.contract import Finding, Rule, Safety
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

PROPOSALS = {"exp": "positive", "softplus": "positive", "sigmoid": "interval(0, 1)"}
HOMES = ("torch", "torch.nn.functional", "torch.special")
PARAMETER = "torch.nn.Parameter"


class RawTransform(Rule):
    """A transform of a parameter that the class declares."""

    code: ClassVar[str] = "CS220"
    safety: ClassVar[Safety] = Safety.DIAGNOSED
    weight: ClassVar[Weight] = Weight.NOTE
    title: ClassVar[str] = "a transform of a parameter of the class's own"
    explanation: ClassVar[str] = (
        "exp, softplus or sigmoid of a parameter that the class declares is often a constraint by hand: "
        "constrain(self, scale='positive') lets the rest of the class read self.scale. It is told, never rewritten: "
        "names, initial values, checkpoints and what else reads the raw are the author's to decide. Random draws and "
        "train mode are not touched."
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        "import torch\nfrom torch import nn\n\n\nclass Scale(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.log_scale = nn.Parameter(torch.zeros(3))\n\n"
        "    def forward(self, x):\n        return x * torch.exp(self.log_scale) + torch.exp(self.shift(x))\n",
    )

    def find(self, tree: Tree, file: Scoped) -> Iterator[Finding]:
        """Transforms of ``self.x`` where the class makes ``x`` a parameter."""
        if tree.target == "torch" or not any(name in file.source.text for name in PROPOSALS):
            return
        declared: dict[ast.ClassDef, set[str]] = {}
        for call in file.calls:
            name, argument = _transform(tree, file, call)
            owner = file.climb(call, ast.ClassDef) if argument is not None else None
            match argument:
                case ast.Attribute(value=ast.Name(id="self"), attr=attribute) if isinstance(owner, ast.ClassDef):
                    if owner not in declared:
                        declared[owner] = set(_parameters(tree, file, owner))
                    if attribute in declared[owner]:
                        yield Finding(file, call, self.code, _proposal(attribute, name))


def _proposal(attribute: str, name: str) -> str:
    return (
        f"{name}(self.{attribute}) may be a constraint by hand: a parameter of the value itself with "
        f'constrain(self, ...="{PROPOSALS[name]}") would do the same'
    )


def _transform(tree: Tree, file: Scoped, call: ast.Call) -> tuple[str, ast.expr | None]:
    """The name of a transform, and what it takes: ``torch.exp(x)``, ``F.softplus(x)``, ``x.exp()``."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in PROPOSALS and not call.args:
        return call.func.attr, _bare(call.func.value)
    last = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    full_name = tree.project.full_name(file, call.func) if call.args else None
    module, _, name = (full_name or "").rpartition(".")
    if name in PROPOSALS and module in HOMES and last:
        return name, _bare(call.args[0])
    return "", None


def _bare(node: ast.expr) -> ast.expr:
    """``self.x`` of ``self.x.float()`` and of ``-self.x``."""
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr="float" | "double" | "to")) | ast.UnaryOp(operand=value):
            return _bare(value)
    return node


def _parameters(tree: Tree, file: Scoped, owner: ast.ClassDef) -> Iterator[str]:
    """The attributes that a class declares as parameters of its own."""
    for node in ast.walk(owner):
        match node:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=ast.Call() as call):
                if tree.project.full_name(file, call.func) == PARAMETER:
                    yield name
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="self"), attr="register_parameter"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name
