"""CS201: torch.nn.utils.spectral_norm."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from rewrite.migration.contract import Safety
from rewrite.migration.examples import Example
from rewrite.migration.known import HOOKED_SPECTRAL
from rewrite.migration.modules import Made
from rewrite.migration.norms import DRAWS, NormRule
from rewrite.migration.spectral_options import ORDER, spectral_spec


class HookedSpectral(NormRule):
    """The hook that divides a weight by its largest singular value."""

    code: ClassVar[str] = "CS201"
    safety: ClassVar[Safety] = Safety.SAFE
    title: ClassVar[str] = "torch.nn.utils.spectral_norm"
    explanation: ClassVar[str] = (
        "constrain(module, weight='spectral'). A state dict saved before loads strict=True, vectors included. Values "
        "in eval are equal to rounding where the vectors of the saved power iteration have converged, as training "
        "makes them; this package goes on to convergence in eval, torch does not, so a model saved after few steps "
        f"differs by what its estimate of the norm was wrong. {DRAWS}In training torch goes on with every forward, "
        "this package once with every step of the optimizer. With --target torch it is "
        "torch.nn.utils.parametrizations.spectral_norm, whose keys in state dicts are others and not converted: "
        "unsafe."
    )
    names: ClassVar[tuple[str, ...]] = (HOOKED_SPECTRAL,)
    order: ClassVar[tuple[str, ...]] = ORDER
    successor: ClassVar[str | None] = "torch.nn.utils.parametrizations.spectral_norm"
    to_torch: ClassVar[Safety] = Safety.UNSAFE
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            "from torch.nn.utils import spectral_norm",
            "self.layer = spectral_norm(nn.Conv2d(3, 8, 3), n_power_iterations=3)",
            'self.layer = constrain(nn.Conv2d(3, 8, 3), weight="spectral(n_power_iterations=3)")',
            takes=(2, 3, 5, 5),
        ),
        Example(
            "import torch.nn.utils.spectral_norm as SN",
            "self.layer = nn.Sequential(SN(nn.Linear(4, 4)), nn.ReLU(), SN(nn.Linear(4, 2), 'weight', 1, 1e-4))",
            'self.layer = nn.Sequential(constrain(nn.Linear(4, 4), weight="spectral"), nn.ReLU(), '
            'constrain(nn.Linear(4, 2), weight="spectral(eps=0.0001)"))',
        ),
        Example(
            "import torch.nn.utils",
            "self.layer = nn.ConvTranspose1d(4, 2, 3)\nSN(self.layer, dim=1)",
            'self.layer = nn.ConvTranspose1d(4, 2, 3)\nconstrain(self.layer, weight="spectral")',
            rest="\nSN = torch.nn.utils.spectral_norm",
            takes=(2, 4, 5),
        ),
        Example(
            "from torch.nn.utils import spectral_norm, weight_norm",
            "norm = spectral_norm if torch.get_num_threads() else weight_norm\nself.layer = norm(nn.Linear(4, 2))",
            'norm = (lambda module: constrain(module, weight="spectral")) if torch.get_num_threads() else '
            '(lambda module: constrain(module, weight="weight_norm"))\nself.layer = norm(nn.Linear(4, 2))',
        ),
        Example(
            "from torch.nn.utils import spectral_norm",
            "self.layer = spectral_norm(nn.Linear(4, 2))",
            "self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2))",
            added="",
            target="torch",
            unsafe=True,
        ),
    )
    unchanged: ClassVar[tuple[str, ...]] = (
        "from torch.nn.utils import spectral_norm\n\n\ndef normed(module, steps):\n"
        "    return spectral_norm(module, n_power_iterations=steps)\n",
        "from torch.nn.utils import spectral_norm\n\n\ndef block(build):\n    return build(norm=spectral_norm)\n",
        "from torch import nn\n\n\ndef spectral_norm(module, on=True):\n    return module if on else nn.Identity()\n"
        "\n\nlayer = spectral_norm(nn.Linear(4, 2))\n",
    )

    def spec(self, function: str, given: Mapping[str, ast.expr], module: Made, name: str) -> str:
        """Spectral, with its options."""
        return spectral_spec(given, module, name)
