"""The functions of old idioms by their full names: what each does, and to which family of norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

UTILS = "torch.nn.utils"
HOOKED_SPECTRAL = "torch.nn.utils.spectral_norm"
HOOKED_WEIGHT = "torch.nn.utils.weight_norm"
PARAMETRIZED = "torch.nn.utils.parametrize"


@dataclass(frozen=True)
class Known:
    """A function. Those of one ``kind`` are called alike and mean the same."""

    name: str
    kind: str
    family: str


_ALL = (
    Known(f"{UTILS}.spectral_norm", "spectral", HOOKED_SPECTRAL),
    Known(f"{UTILS}.weight_norm", "weight_norm", HOOKED_WEIGHT),
    Known(f"{UTILS}.parametrizations.spectral_norm", "spectral", PARAMETRIZED),
    Known(f"{UTILS}.parametrizations.weight_norm", "weight_norm", PARAMETRIZED),
    Known(f"{UTILS}.parametrizations.orthogonal", "orthogonal", PARAMETRIZED),
    Known(f"{UTILS}.parametrize.register_parametrization", "register", PARAMETRIZED),
    Known(f"{UTILS}.remove_spectral_norm", "remove_spectral", HOOKED_SPECTRAL),
    Known(f"{UTILS}.remove_weight_norm", "remove_weight", HOOKED_WEIGHT),
    Known(f"{UTILS}.parametrize.remove_parametrizations", "remove", PARAMETRIZED),
    Known(f"{UTILS}.parametrize.cached", "cached", PARAMETRIZED),
    *(
        Known(f"geotorch.{name}", f"geotorch.{name}", PARAMETRIZED)
        for name in (
            *("symmetric", "skew", "sphere", "orthogonal", "grassmannian", "almost_orthogonal", "invertible", "sln"),
            *("low_rank", "fixed_rank", "positive_definite", "positive_semidefinite"),
            *("positive_semidefinite_low_rank", "positive_semidefinite_fixed_rank"),
        )
    ),
)
KNOWN: Final[Mapping[str, Known]] = {
    **{each.name: each for each in _ALL},
    # the modules of torch where the functions stand, and that of geotorch
    **{
        f"{UTILS}.{module}.{name}": next(each for each in _ALL if each.name == f"{UTILS}.{name}")
        for module, name in (
            ("spectral_norm", "spectral_norm"),
            ("spectral_norm", "remove_spectral_norm"),
            ("weight_norm", "weight_norm"),
            ("weight_norm", "remove_weight_norm"),
        )
    },
    **{
        each.name.replace("geotorch.", "geotorch.constraints."): each
        for each in _ALL
        if each.name.startswith("geotorch.")
    },
}
LAST_NAMES: Final = frozenset(name.rpartition(".")[2] for name in KNOWN)
