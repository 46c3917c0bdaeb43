"""CS207 to CS209: norms taken away, which leaves the weight they computed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from rewrite.migration.arguments import NotUnderstoodError, arguments_of, literal, name_in
from rewrite.migration.codes import PASSED_ON
from rewrite.migration.contract import Change, Finding, Part, Rule, Safety
from rewrite.migration.examples import Example
from rewrite.migration.guarding import guarded
from rewrite.migration.known import UTILS
from rewrite.migration.recasting import recast
from rewrite.migration.references import Reference, Use
from rewrite.migration.torch_names import torch_name
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

BAKE = "bake"
SUCCESSOR = f"{UTILS}.parametrize.remove_parametrizations"
TOGETHER = (
    "It is rewritten only together with all that applies such a norm in the given files: where one of these is left, "
    "or none is given, it is left too. Values in eval stay as they were. bake raises SurgeryError, a RuntimeError, "
    "where there is nothing to take away, torch a ValueError: 'except ValueError' around the single call is widened, "
    "and a call that cannot be seen so is left. "
)


class RemovalRule(Rule):
    """``remove(module, name)`` becomes ``bake(module, name)``."""

    safety: ClassVar[Safety] = Safety.SAFE
    name: ClassVar[str]
    order: ClassVar[tuple[str, ...]] = ("module", "name")
    successor: ClassVar[bool] = True

    def find(self, tree: Tree, file: Scoped) -> Iterator[Finding]:
        """Calls, and where the function is passed on."""
        if tree.target == "torch" and not self.successor:
            return
        for each in tree.references(file):
            if each.known[0].name == self.name and each.use is not Use.ALIAS:
                yield self._found(tree, file, each)

    def _found(self, tree: Tree, file: Scoped, reference: Reference) -> Finding:
        parent = file.parents[reference.node]
        place = parent if isinstance(parent, ast.Call) and reference.use is Use.CALLED else reference.node
        found = Finding(file, place, self.code, "", None, self.safety, reference.families, Part.REMOVES)
        if reference.use is Use.STARRED:
            return found.left(f"{self.name} comes by a star import")
        if not isinstance(place, ast.Call) or reference.use is not Use.CALLED:
            return found.left(f"{self.name} is passed on as a value", PASSED_ON)
        try:
            given = arguments_of(place, self.order)
            name = self._name(given)
            if tree.target == "torch":
                path = torch_name(tree, file, place, SUCCESSOR)
                insertions = recast(file, place, path, f'"{name}"')
                return replace(found, message=path, change=Change(frozenset(), lambda names: insertions))
            around = guarded(tree, file, place)
            recast(file, place, BAKE, f'"{name}"')
        except NotUnderstoodError as error:
            return found.left(f"{self.name}: {error}")
        change = Change(frozenset({BAKE}), lambda names: (*around, *recast(file, place, names[BAKE], f'"{name}"')))
        return replace(found, message=f'{BAKE}(..., "{name}")', change=change)

    def _name(self, given: dict[str, ast.expr]) -> str:
        return name_in(given, "name")


class RemovingWeight(RemovalRule):
    """The removal of the weight norm hook."""

    code: ClassVar[str] = "CS207"
    title: ClassVar[str] = "torch.nn.utils.remove_weight_norm"
    explanation: ClassVar[str] = f"bake(module, 'weight'). {TOGETHER}No random numbers are drawn, by neither."
    name: ClassVar[str] = f"{UTILS}.remove_weight_norm"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "from torch.nn.utils import remove_weight_norm, weight_norm",
            "self.layer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))\nfor each in self.layer:\n"
            "    weight_norm(each)",
            "self.layer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))\nfor each in self.layer:\n"
            '    constrain(each, weight="weight_norm")',
            added="from surgery import bake, constrain",
            methods="def finish(self):\n    for each in self.layer:\n        remove_weight_norm(each)\n\n"
            "def forward(self, x):\n    return self.layer(x)",
            methods_after='def finish(self):\n    for each in self.layer:\n        bake(each, "weight")\n\n'
            "def forward(self, x):\n    return self.layer(x)",
        ),
        Example(
            "from torch.nn.utils import remove_weight_norm, weight_norm",
            "def add(module):\n    if isinstance(module, nn.Linear):\n        weight_norm(module)\n\n"
            "self.layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))\nself.apply(add)",
            "def add(module):\n    if isinstance(module, nn.Linear):\n"
            '        constrain(module, weight="weight_norm")\n\n'
            "self.layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))\nself.apply(add)",
            added="from surgery import bake, constrain",
            methods="def finish(self):\n    def remove(module):\n        try:\n            remove_weight_norm(module)\n"
            "        except ValueError:  # it has none\n            return\n\n    self.apply(remove)\n\n"
            "def forward(self, x):\n    return self.layer(x)",
            methods_after="def finish(self):\n    def remove(module):\n        try:\n"
            '            bake(module, "weight")\n'
            "        except (ValueError, RuntimeError):  # it has none\n            return\n\n"
            "    self.apply(remove)\n\n"
            "def forward(self, x):\n    return self.layer(x)",
        ),
        Example(
            "from torch.nn.utils import remove_weight_norm, weight_norm",
            "self.layer = weight_norm(nn.Linear(4, 2))",
            "self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))",
            added="",
            target="torch",
            methods="def finish(self):\n    remove_weight_norm(self.layer)\n\n"
            "def forward(self, x):\n    return self.layer(x)",
            methods_after="def finish(self):\n"
            '    nn.utils.parametrize.remove_parametrizations(self.layer, "weight")\n\n'
            "def forward(self, x):\n    return self.layer(x)",
        ),
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        "from torch.nn.utils import remove_weight_norm\n\n\ndef finish(module):\n    remove_weight_norm(module)\n",
    )


class RemovingSpectral(RemovalRule):
    """The removal of the spectral norm hook."""

    code: ClassVar[str] = "CS208"
    title: ClassVar[str] = "torch.nn.utils.remove_spectral_norm"
    explanation: ClassVar[str] = (
        f"bake(module, 'weight'). {TOGETHER}The weight is that of eval, whose vectors have converged. Random numbers "
        "are drawn by neither."
    )
    name: ClassVar[str] = f"{UTILS}.remove_spectral_norm"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "from torch.nn.utils import remove_spectral_norm, spectral_norm",
            "self.layer = spectral_norm(nn.Linear(4, 2))",
            'self.layer = constrain(nn.Linear(4, 2), weight="spectral")',
            added="from surgery import bake, constrain",
            methods="def finish(self):\n    self.layer = remove_spectral_norm(self.layer)\n\n"
            "def forward(self, x):\n    return self.layer(x)",
            methods_after='def finish(self):\n    self.layer = bake(self.layer, "weight")\n\n'
            "def forward(self, x):\n    return self.layer(x)",
        ),
    )


class RemovingParametrizations(RemovalRule):
    """The removal of parametrizations."""

    code: ClassVar[str] = "CS209"
    title: ClassVar[str] = "torch.nn.utils.parametrize.remove_parametrizations"
    explanation: ClassVar[str] = (
        f"bake(module, 'weight'). {TOGETHER}leave_parametrized=False gives back the raw, which is no weight of the "
        "model: such calls are left. Random numbers are drawn by neither."
    )
    name: ClassVar[str] = SUCCESSOR
    order: ClassVar[tuple[str, ...]] = ("module", "tensor_name", "leave_parametrized")
    successor: ClassVar[bool] = False
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "from torch.nn.utils import parametrizations, parametrize",
            "self.layer = parametrizations.weight_norm(nn.Linear(4, 2))",
            'self.layer = constrain(nn.Linear(4, 2), weight="weight_norm")',
            added="from surgery import bake, constrain",
            methods='def finish(self):\n    parametrize.remove_parametrizations(self.layer, "weight")\n\n'
            "def forward(self, x):\n    return self.layer(x)",
            methods_after='def finish(self):\n    bake(self.layer, "weight")\n\n'
            "def forward(self, x):\n    return self.layer(x)",
        ),
    )

    def _name(self, given: dict[str, ast.expr]) -> str:
        if "tensor_name" not in given:
            raise NotUnderstoodError("it names no tensor")
        if literal(given, "leave_parametrized", True) is not True:
            raise NotUnderstoodError("leave_parametrized is not True")
        return name_in(given, "tensor_name")
