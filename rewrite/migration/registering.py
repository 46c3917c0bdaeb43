"""CS206: torch.nn.utils.parametrize.register_parametrization."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from rewrite.constraining import WRAPPER
from rewrite.migration.arguments import NotUnderstoodError, arguments_of, literal, name_in
from rewrite.migration.codes import PASSED_ON
from rewrite.migration.contract import Change, Finding, Part, Rule, Safety
from rewrite.migration.examples import Example
from rewrite.migration.known import UTILS
from rewrite.migration.modules import made
from rewrite.migration.recasting import recast
from rewrite.migration.references import Use
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

NAME = f"{UTILS}.parametrize.register_parametrization"
ORDER = ("module", "tensor_name", "parametrization", "unsafe")
SYMMETRIC = (
    "\n\nclass Symmetric(nn.Module):\n    def forward(self, X):\n"
    "        return X.triu() + X.triu(1).transpose(-1, -2)\n\n    def right_inverse(self, A):\n        return A.triu()"
)


class Registering(Rule):
    """``register_parametrization(module, "weight", Symmetric())`` becomes ``constrain(module, weight=Symmetric())``."""

    code: ClassVar[str] = "CS206"
    safety: ClassVar[Safety] = Safety.SAFE
    title: ClassVar[str] = "torch.nn.utils.parametrize.register_parametrization"
    explanation: ClassVar[str] = (
        "constrain(module, weight=Symmetric()), where Symmetric is a class of the given files that is made in the call "
        "itself. A state dict saved before loads strict=True, and values in eval are equal to rounding, also of "
        "several on one weight, which follow each other in the same order. In training torch calls the module with "
        "every read of the weight, this package where a raw has changed: a module that draws random numbers, or that "
        "counts its calls, differs in train mode."
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "from torch.nn.utils import parametrize",
            'self.layer = nn.Linear(4, 4)\nparametrize.register_parametrization(self.layer, "weight", Symmetric())',
            "self.layer = nn.Linear(4, 4)\nconstrain(self.layer, weight=Symmetric())",
            rest=SYMMETRIC,
        ),
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        "from torch.nn.utils.parametrize import register_parametrization\n\n\ndef tie(module, kind):\n"
        '    register_parametrization(module, "weight", kind())\n',
    )

    def find(self, tree: Tree, file: Scoped) -> Iterator[Finding]:
        """Calls, and where the function is passed on."""
        if tree.target == "torch":
            return
        for each in tree.references(file):
            if each.known[0].name != NAME or each.use is Use.ALIAS:
                continue
            parent = file.parents[each.node]
            called = isinstance(parent, ast.Call) and each.use is Use.CALLED
            place = parent if isinstance(parent, ast.Call) and called else each.node
            found = Finding(file, place, self.code, "", None, self.safety, each.families, Part.APPLIES)
            if each.use is Use.STARRED:
                yield found.left(f"{NAME} comes by a star import")
                continue
            if not isinstance(place, ast.Call) or not called:
                yield found.left(f"{NAME} is passed on as a value", PASSED_ON)
                continue
            try:
                name, made_here = _understood(tree, file, place)
                recast(file, place, WRAPPER, f"{name}={made_here}")
            except NotUnderstoodError as error:
                yield found.left(f"{NAME}: {error}")
                continue
            yield replace(
                found,
                message=f"{WRAPPER}(..., {name}={made_here})",
                change=_change(file, place, f"{name}={made_here}"),
            )


def _change(file: Scoped, call: ast.Call, arguments: str) -> Change:
    return Change(frozenset({WRAPPER}), lambda names: recast(file, call, names[WRAPPER], arguments))


def _understood(tree: Tree, file: Scoped, call: ast.Call) -> tuple[str, str]:
    """The name of the tensor, and the text of the call that makes the parametrization."""
    given = arguments_of(call, ORDER)
    if "tensor_name" not in given:
        raise NotUnderstoodError("it names no tensor")
    name = name_in(given, "tensor_name")
    if literal(given, "unsafe", False) is not False:
        raise NotUnderstoodError("unsafe=True lets it change shape and dtype")
    module = given.get("parametrization")
    if not isinstance(module, ast.Call) or made(tree, file, module).owner is None:
        raise NotUnderstoodError("its parametrization is not made here by a class of the given files")
    if any(kind != "register" for _, kind in made(tree, file, given["module"]).norms):
        raise NotUnderstoodError("its module has another norm already")
    begin, end = file.source.span(module)
    return name, file.source.text[begin:end]
