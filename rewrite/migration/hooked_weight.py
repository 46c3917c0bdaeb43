"""CS202: torch.nn.utils.weight_norm."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from rewrite.migration.arguments import NotUnderstoodError, dimension
from rewrite.migration.contract import Safety
from rewrite.migration.examples import Example
from rewrite.migration.known import HOOKED_WEIGHT
from rewrite.migration.modules import Made
from rewrite.migration.norms import NormRule, written

SAME = (
    "constrain(module, weight='weight_norm'). A state dict saved before loads strict=True, and values in eval are "
    "equal to rounding; where a slice of v is zero torch has NaN and this package zero. No random numbers are drawn, "
    "by neither; train mode differs in nothing. An initialiser that writes to the weight afterwards was lost with the "
    "hook, which computes the weight anew in every forward; a computed parameter takes it."
)


def weight_norm_spec(given: Mapping[str, ast.expr]) -> str:
    """The spec; torch takes dim=-1 for None, which is the whole tensor."""
    dim = dimension(given, 0)
    if dim is not None and dim < -1:
        raise NotUnderstoodError(f"dim={dim} counts from the end")
    return written("weight_norm", {} if dim == 0 else {"dim": None if dim == -1 else dim})


class HookedWeight(NormRule):
    """The hook that trains the lengths of a weight's slices apart from their directions."""

    code: ClassVar[str] = "CS202"
    safety: ClassVar[Safety] = Safety.SAFE
    title: ClassVar[str] = "torch.nn.utils.weight_norm"
    explanation: ClassVar[str] = (
        f"{SAME} With --target torch it is torch.nn.utils.parametrizations.weight_norm, which loads old state "
        "dicts too."
    )
    names: ClassVar[tuple[str, ...]] = (HOOKED_WEIGHT,)
    order: ClassVar[tuple[str, ...]] = ("module", "name", "dim")
    successor: ClassVar[str | None] = "torch.nn.utils.parametrizations.weight_norm"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "from torch.nn.utils import weight_norm",
            "self.layer = nn.Sequential()\nfor width in (4, 3):\n    self.layer.append(\n        weight_norm(\n"
            "            nn.Linear(width, width - 1),\n            dim=None,  # one length\n        )\n    )",
            "self.layer = nn.Sequential()\nfor width in (4, 3):\n    self.layer.append(\n        constrain(\n"
            '            nn.Linear(width, width - 1), weight="weight_norm(dim=None)",  # one length\n        )\n    )',
        ),
        Example(
            "import torch.nn.utils as utils",
            "def conv(*args, **kwargs):\n    return utils.weight_norm(nn.Conv1d(*args, **kwargs))\n\n"
            "wn = lambda x: utils.weight_norm(x)\n"
            "self.layer = nn.Sequential(conv(4, 2, kernel_size=3), wn(nn.Linear(3, 2)))",
            'def conv(*args, **kwargs):\n    return constrain(nn.Conv1d(*args, **kwargs), weight="weight_norm")\n\n'
            'wn = lambda x: constrain(x, weight="weight_norm")\n'
            "self.layer = nn.Sequential(conv(4, 2, kernel_size=3), wn(nn.Linear(3, 2)))",
            takes=(2, 4, 5),
        ),
        Example(
            "from torch.nn.utils import weight_norm",
            "self.layer = nn.Linear(4, 2)\nself.layer = nn.utils.weight_norm(self.layer, name='weight')",
            "self.layer = nn.Linear(4, 2)\n"
            "self.layer = nn.utils.parametrizations.weight_norm(self.layer, name='weight')",
            added="",
            target="torch",
        ),
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        "from torch.nn.utils import weight_norm\n\n\ndef normed(*modules):\n    return weight_norm(*modules)\n",
        "from torch.nn.utils import weight_norm\n\n\ndef frozen(module):\n    module = weight_norm(module)\n"
        "    module.weight_g.data.fill_(1)\n    return module\n",
    )

    def spec(self, function: str, given: Mapping[str, ast.expr], module: Made, name: str) -> str:
        """Weight norm, along its dimension."""
        return weight_norm_spec(given)
