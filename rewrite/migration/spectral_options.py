"""The options of torch's spectral norms as those of the spec."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from rewrite.migration.arguments import NotUnderstoodError, dimension, number
from rewrite.migration.modules import Made
from rewrite.migration.norms import written

ORDER = ("module", "name", "n_power_iterations", "eps", "dim")
DEFAULTS = {"n_power_iterations": 1, "eps": 1e-12}


def spectral_spec(given: Mapping[str, ast.expr], module: Made, name: str) -> str:
    """Options that are not at the default: ``spectral(n_power_iterations=3)``.

    Rows run along the first dimension where nothing is said, along the second of transposed convolutions; of an
    author's own class that must be said, since this package does not guess it.
    """
    if "bias" in name:
        raise NotUnderstoodError(f"{name} is a vector, and the spectral norm here is one of matrices")
    options: dict[str, object] = {}
    for option, default in DEFAULTS.items():
        found = number(given, option, default)
        if found != default:
            options[option] = found
    dim = dimension(given, None)
    if dim is None and module.own:
        dim = 0
    default_dim = None if module.transposed is None else int(module.transposed)
    if dim is not None and dim != default_dim:
        options["dim"] = dim
    return written("spectral", options)
