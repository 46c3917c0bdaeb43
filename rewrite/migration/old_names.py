"""CS230: names that torch's norms gave to tensors: in strings, and as attributes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import ClassVar

from rewrite.code import Weight
from rewrite.migration.codes import OLD_NAME
from rewrite.migration.contract import Finding, Part, Rule, Safety
from rewrite.migration.known import HOOKED_SPECTRAL, HOOKED_WEIGHT, PARAMETRIZED
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

FAMILIES = {
    "g": {HOOKED_WEIGHT},
    "v": {HOOKED_WEIGHT, HOOKED_SPECTRAL},
    "orig": {HOOKED_SPECTRAL},
    "u": {HOOKED_SPECTRAL},
}
OF_HOOKS = re.compile(r"(?<!\w)(?:weight|bias|weight_[hi]h_l\d+(?:_reverse)?)_(g|v|orig|u)(?!\w)")
OF_LISTS = re.compile(r"(?<!\w)parametrizations\.\w+|(?<!\w)original[01](?!\w)")
# one of these is in the text wherever something is found
MAYBE = re.compile(r"(?:weight|bias|_l\d+|_reverse)_(?:g|v|orig|u)(?!\w)|arametriz|original[01]|_hooks|_norm import")
PROBES = frozenset({"getattr", "hasattr", "setattr", "delattr"})
# what stands in such a module of torch besides the function: classes of hooks
INTERNALS = tuple(f"{name}." for name in (HOOKED_WEIGHT, HOOKED_SPECTRAL))
PROBING = frozenset({"is_parametrized", "type_before_parametrizations", "transfer_parametrizations_and_params"})


class OldNames(Rule):
    """``module.weight_g``, ``"conv.weight_v"``, ``parametrizations.weight.original0``."""

    code: ClassVar[str] = OLD_NAME
    safety: ClassVar[Safety] = Safety.DIAGNOSED
    weight: ClassVar[Weight] = Weight.LEFT
    title: ClassVar[str] = "a name that a norm of torch gave to a tensor"
    explanation: ClassVar[str] = (
        "After a migration there is no attribute weight_g, weight_v, weight_orig, weight_u or parametrizations, and "
        "state dicts have keys such as weight.g. A place that reads such an attribute keeps the norms of its file from "
        "being migrated. A string is only told: old keys load, but code that looks for them in a new state dict finds "
        "nothing; surgery.state_dict(model, format=...) writes them. Random draws and train mode are not touched."
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        'def renamed(state):\n    return {key.replace("weight_g", "g"): value for key, value in state.items()}\n',
        "def length(module):\n    return module.weight_g\n",
    )

    def find(self, tree: Tree, file: Scoped) -> Iterator[Finding]:
        """Attributes, which hold norms back, and strings."""
        if not MAYBE.search(file.source.text):
            return
        for node in ast.walk(file.source.tree):
            match node:
                case ast.Attribute():
                    families = _of_attribute(tree, file, node)
                    if families:
                        told = f"the attribute {node.attr} is one that a migrated norm does not have"
                        yield Finding(file, node, self.code, told, families=families, part=Part.READS)
                case ast.ImportFrom(module=str(module)) if f"{module}." in INTERNALS:
                    if any(each.name[:1].isupper() for each in node.names):
                        told = f"classes of {module} are the hooks of a norm"
                        yield Finding(file, node, self.code, told, families=frozenset({module}), part=Part.READS)
                case ast.Expr(value=ast.Constant()):
                    continue
            yield from self._strings(file, node)

    def _strings(self, file: Scoped, node: ast.AST) -> Iterator[Finding]:
        """Those that stand directly in ``node``."""
        for each in ast.iter_child_nodes(node):
            match each:
                case ast.Constant(value=str(text)) if families := _of_text(text):
                    told = f"{text[:60]!r} is a name that a migrated norm does not have"
                    part = Part.READS if _probes(node) else Part.NONE
                    # parts of an f-string have no places of their own before Python 3.12
                    place = node if isinstance(node, ast.JoinedStr) else each
                    yield Finding(file, place, self.code, told, families=families, part=part)


def _of_attribute(tree: Tree, file: Scoped, node: ast.Attribute) -> frozenset[str]:
    found = OF_HOOKS.fullmatch(node.attr)
    if found is not None:
        return frozenset(FAMILIES[found[1]])
    if node.attr == "parametrizations" and not (tree.project.full_name(file, node) or "").startswith("torch."):
        return frozenset({PARAMETRIZED})
    if node.attr in PROBING:
        return frozenset({PARAMETRIZED})
    if node.attr == "_forward_pre_hooks":
        return frozenset({HOOKED_SPECTRAL, HOOKED_WEIGHT})
    return frozenset()


def _of_text(text: str) -> frozenset[str]:
    families = frozenset(each for found in OF_HOOKS.finditer(text) for each in FAMILIES[found[1]])
    return families | {PARAMETRIZED} if OF_LISTS.search(text) else families


def _probes(parent: ast.AST) -> bool:
    """Whether a string in ``parent`` names an attribute of an object, or one of its tensors."""
    match parent:
        case ast.Call(func=ast.Name(id=name)):
            return name in PROBES
        case ast.Subscript(value=ast.Attribute(attr="_parameters" | "_buffers" | "__dict__")):
            return True
    return False
