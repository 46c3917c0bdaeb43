"""CS221: weights that a training loop clips."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import ClassVar

from rewrite.code import Weight
from rewrite.migration.contract import Finding, Rule, Safety
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

CLAMPS = frozenset({"clamp_", "clip_", "clamp_min_", "clamp_max_"})
ITERATED = frozenset({"parameters", "named_parameters"})


class Clipping(Rule):
    """``for p in model.parameters(): p.data.clamp_(-c, c)``."""

    code: ClassVar[str] = "CS221"
    safety: ClassVar[Safety] = Safety.DIAGNOSED
    weight: ClassVar[Weight] = Weight.NOTE
    title: ClassVar[str] = "weights that are clipped after a step"
    explanation: ClassVar[str] = (
        "Clipping after each step projects the weights; apply_constraints(model, {'*': 'interval(low, high)'}) keeps "
        "them inside in every forward, by another path of training. It is told, never rewritten: a clamped entry stays "
        "at the bound, a constrained one approaches it. Random draws are not touched; train mode differs by that."
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        "def clip(model, c):\n    for p in model.parameters():\n        p.data.clamp_(-c, c)\n",
    )

    def find(self, tree: Tree, file: Scoped) -> Iterator[Finding]:
        """Clamps in place of what a loop over parameters gives, and of the data of an attribute."""
        if tree.target == "torch":
            return
        for call in file.calls:
            match call.func:
                case ast.Attribute(value=ast.Attribute(value=ast.expr() as held, attr="data") | held, attr=name):
                    by_data = isinstance(call.func.value, ast.Attribute) and call.func.value.attr == "data"
                    if name in CLAMPS and (_iterated(file, held) or (by_data and isinstance(held, ast.Attribute))):
                        spec = _interval(call, name)
                        yield Finding(
                            file,
                            call,
                            self.code,
                            f'weights are clipped here: the constraint "{spec}" keeps them inside',
                        )


def _iterated(file: Scoped, node: ast.expr) -> bool:
    """Whether a name is what a loop over parameters gives."""
    if not isinstance(node, ast.Name):
        return False
    above = file.climb(node, ast.For)
    while isinstance(above, ast.For):
        targets = {each.id for each in ast.walk(above.target) if isinstance(each, ast.Name)}
        match above.iter:
            case ast.Call(func=ast.Attribute(attr=attribute)) if attribute in ITERATED and node.id in targets:
                return True
        above = file.climb(above, ast.For)
    return False


def _interval(call: ast.Call, name: str) -> str:
    if name == "clamp_min_":
        return "greater_than(...)"
    bounds = [ast.unparse(each) for each in call.args]
    return f"interval({', '.join(bounds)})" if len(bounds) == 2 else "interval(...)"
