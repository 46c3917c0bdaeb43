"""CS203 to CS205: the norms of torch.nn.utils.parametrizations."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from rewrite.migration.arguments import NotUnderstoodError, literal
from rewrite.migration.contract import Safety
from rewrite.migration.examples import Example
from rewrite.migration.hooked_weight import SAME, weight_norm_spec
from rewrite.migration.known import UTILS
from rewrite.migration.modules import Made
from rewrite.migration.norms import DRAWS, NormRule
from rewrite.migration.spectral_options import ORDER, spectral_spec

MODULE = f"{UTILS}.parametrizations"


class Spectral(NormRule):
    """The parametrization that divides a weight by its largest singular value."""

    code: ClassVar[str] = "CS203"
    safety: ClassVar[Safety] = Safety.SAFE
    title: ClassVar[str] = "torch.nn.utils.parametrizations.spectral_norm"
    explanation: ClassVar[str] = (
        "constrain(module, weight='spectral'). A state dict saved before loads strict=True, vectors included. Values "
        "in eval are equal to rounding where the vectors of the saved power iteration have converged, as training "
        f"makes them. {DRAWS}In training torch goes on with every read of the weight, this package once with every "
        "step of the optimizer."
    )
    names: ClassVar[tuple[str, ...]] = (f"{MODULE}.spectral_norm",)
    order: ClassVar[tuple[str, ...]] = ORDER
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "from torch.nn.utils.parametrizations import spectral_norm as sn",
            "layers = [nn.Conv1d(4, 4, 1)]\nlayers += [sn(module) for module in [nn.Conv1d(4, 2, 3)]]\n"
            "layers.append(sn(nn.ConvTranspose1d(2, 3, 2) if layers else nn.Conv1d(2, 3, 2)))\n"
            "self.layer = nn.Sequential(*layers)",
            "layers = [nn.Conv1d(4, 4, 1)]\n"
            'layers += [constrain(module, weight="spectral") for module in [nn.Conv1d(4, 2, 3)]]\n'
            "layers.append(constrain(nn.ConvTranspose1d(2, 3, 2) if layers else nn.Conv1d(2, 3, 2), "
            'weight="spectral"))\n'
            "self.layer = nn.Sequential(*layers)",
            takes=(2, 4, 5),
        ),
    )

    def spec(self, function: str, given: Mapping[str, ast.expr], module: Made, name: str) -> str:
        """Spectral, with its options."""
        return spectral_spec(given, module, name)


class Weight(NormRule):
    """The parametrization that trains the lengths of a weight's slices apart from their directions."""

    code: ClassVar[str] = "CS204"
    safety: ClassVar[Safety] = Safety.SAFE
    title: ClassVar[str] = "torch.nn.utils.parametrizations.weight_norm"
    explanation: ClassVar[str] = SAME
    names: ClassVar[tuple[str, ...]] = (f"{MODULE}.weight_norm",)
    order: ClassVar[tuple[str, ...]] = ("module", "name", "dim")
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "import math",
            rest="\ntry:\n    from torch.nn.utils.parametrizations import weight_norm\n"
            "except ImportError:\n    from torch.nn.utils import weight_norm",
            before='self.layer = nn.LSTM(4, 3)\nweight_norm(self.layer, "weight_hh_l0", dim=0)',
            after='self.layer = nn.LSTM(4, 3)\nconstrain(self.layer, weight_hh_l0="weight_norm")',
            methods="def forward(self, x):\n    return self.layer(x)[0]",
        ),
    )

    def spec(self, function: str, given: Mapping[str, ast.expr], module: Made, name: str) -> str:
        """Weight norm, along its dimension."""
        return weight_norm_spec(given)


class Orthogonal(NormRule):
    """The parametrization by orthonormal rows or columns."""

    code: ClassVar[str] = "CS205"
    safety: ClassVar[Safety] = Safety.SAFE
    title: ClassVar[str] = "torch.nn.utils.parametrizations.orthogonal"
    explanation: ClassVar[str] = (
        "constrain(module, weight='orthogonal'), where the weight is known to be a matrix: of more dimensions torch "
        "makes a batch of small matrices, this package one large one. A state dict saved before loads strict=True by "
        "its value, with a warning, and values in eval are equal to 1e-5; training takes another path, since "
        "the raw is another one. "
        "orthogonal_map and use_trivialization choose among torch's paths, and a state dict does not say which: such "
        "calls are left. Random numbers: torch draws some where its map needs them, this package none. Train mode and "
        "eval are alike in both."
    )
    names: ClassVar[tuple[str, ...]] = (f"{MODULE}.orthogonal",)
    order: ClassVar[tuple[str, ...]] = ("module", "name", "orthogonal_map", "use_trivialization")
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "from torch.nn.utils import parametrizations",
            "self.layer = parametrizations.orthogonal(nn.Linear(4, 2, bias=False))",
            'self.layer = constrain(nn.Linear(4, 2, bias=False), weight="orthogonal")',
        ),
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        "from torch import nn\n\nlayer = nn.utils.parametrizations.orthogonal(nn.Conv2d(3, 8, 3))\n",
        "from torch import nn\n\nlayer = nn.utils.parametrizations.orthogonal(nn.Linear(3, 8), 'weight', 'cayley')\n",
    )

    def spec(self, function: str, given: Mapping[str, ast.expr], module: Made, name: str) -> str:
        """Orthogonal, of a matrix by torch's default path."""
        if literal(given, "orthogonal_map", None) is not None or literal(given, "use_trivialization", True) is not True:
            raise NotUnderstoodError("it chooses a path that its state dict does not tell")
        if not module.is_matrix(name):
            raise NotUnderstoodError(f"{name} is not known to be a matrix, and of more dimensions torch makes a batch")
        return "orthogonal"
