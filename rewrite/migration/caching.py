"""CS210: torch.nn.utils.parametrize.cached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from rewrite.code import Weight
from rewrite.migration.contract import Finding, Rule, Safety
from rewrite.migration.known import UTILS
from rewrite.migration.references import Use
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

NAME = f"{UTILS}.parametrize.cached"


class Caching(Rule):
    """The context in which parametrizations are computed once."""

    code: ClassVar[str] = "CS210"
    safety: ClassVar[Safety] = Safety.DIAGNOSED
    weight: ClassVar[Weight] = Weight.NOTE
    title: ClassVar[str] = "torch.nn.utils.parametrize.cached"
    explanation: ClassVar[str] = (
        "A computed parameter holds its value until a raw changes, without being asked: where all parametrizations are "
        "migrated, the context has no effect and can go. It is left, since it may be there for others, and it does no "
        "harm. Random draws and train mode are not touched."
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        "from torch.nn.utils import parametrize\n\n\ndef run(model, x):\n    with parametrize.cached():\n"
        "        return model(x)\n",
    )

    def find(self, tree: Tree, file: Scoped) -> Iterator[Finding]:
        """Where it is called."""
        if tree.target == "torch":
            return
        for each in tree.references(file):
            if each.known[0].name == NAME and each.use is Use.CALLED:
                yield Finding(file, each.node, self.code, "computed parameters hold their values without this context")
