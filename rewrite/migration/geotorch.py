"""CS211: the functions of GeoTorch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from rewrite.migration.arguments import NotUnderstoodError
from rewrite.migration.contract import Safety
from rewrite.migration.examples import Example
from rewrite.migration.known import KNOWN
from rewrite.migration.modules import Made
from rewrite.migration.norms import NormRule

SPECS = {"symmetric": "symmetric", "skew": "skew", "orthogonal": "orthogonal"}
NAMES = tuple(dict.fromkeys(each.name for each in KNOWN.values() if each.name.startswith("geotorch.")))


class GeoTorch(NormRule):
    """``geotorch.orthogonal(module, "weight")`` becomes ``constrain(module, weight="orthogonal")``."""

    code: ClassVar[str] = "CS211"
    safety: ClassVar[Safety] = Safety.UNSAFE
    title: ClassVar[str] = "functions of GeoTorch"
    explanation: ClassVar[str] = (
        "geotorch.orthogonal, symmetric and skew of a matrix have the same values here, by other raws: a state dict "
        "saved before does not load. Load it into the model as it was, surgery.adopt it, and save "
        "surgery.state_dict(model, format='plain'), which loads. Hence unsafe. The other functions, and tensors of "
        "more dimensions, which GeoTorch takes for batches, are left. Random numbers: GeoTorch draws where it samples "
        "its start, this package starts at the nearest admissible weight. Train mode and eval are alike in both."
    )
    names: ClassVar[tuple[str, ...]] = NAMES
    order: ClassVar[tuple[str, ...]] = ("module", "tensor_name", "lower", "triv")  # these two choose among paths
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "import geotorch",
            'self.layer = nn.Linear(4, 4)\ngeotorch.orthogonal(self.layer, "weight")',
            'self.layer = nn.Linear(4, 4)\nconstrain(self.layer, weight="orthogonal")',
            unsafe=True,
            runs=False,
        ),
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        'import geotorch\nfrom torch import nn\n\nlayer = nn.Linear(4, 4)\ngeotorch.low_rank(layer, "weight", 2)\n',
    )

    def spec(self, function: str, given: Mapping[str, ast.expr], module: Made, name: str) -> str:
        """That of the same matrices."""
        found = SPECS.get(function.rpartition(".")[2])
        if found is None:
            raise NotUnderstoodError("this package has no constraint of the same values")
        if not module.is_matrix(name):
            raise NotUnderstoodError(
                f"{name} is not known to be a matrix, and of more dimensions GeoTorch takes a batch"
            )
        return found
