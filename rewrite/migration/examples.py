"""Examples of rules: whole modules of which a page shows the lines that differ."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent
from typing import Final

TORCH: Final = "from torch import nn"
CONSTRAIN: Final = "from surgery import constrain"


@dataclass(frozen=True)
class Example:
    """Statements before and after in the ``__init__`` of a module ``Net``, which takes a tensor of the shape ``takes``.

    ``imports`` stand above it, then what a migration ``added`` to them, and the ``rest``; ``methods`` stand below,
    ``methods_after`` where they are changed. ``runs``: whether all that it imports comes with this package.
    """

    imports: str
    before: str
    after: str
    added: str = CONSTRAIN
    rest: str = ""
    methods: str = "def forward(self, x):\n    return self.layer(x)"
    methods_after: str = ""
    takes: tuple[int, ...] = (2, 4)
    target: str = "surgery"
    unsafe: bool = False
    runs: bool = True

    @property
    def text_before(self) -> str:
        """The whole module before."""
        return _module((self.imports, self.rest), self.before, self.methods)

    @property
    def text_after(self) -> str:
        """The whole module after."""
        return _module((self.imports, self.added, self.rest), self.after, self.methods_after or self.methods)


def _module(head: tuple[str, ...], body: str, methods: str) -> str:
    lines = "\n".join(each for each in ("import torch", TORCH, *head) if each)
    return (
        f"{lines}\n\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        f"        super().__init__()\n{indent(body, ' ' * 8)}\n\n{indent(methods, ' ' * 4)}\n"
    )
