"""All rules of a migration, and all its codes."""

from __future__ import annotations

from typing import Final

from rewrite.code import Code
from rewrite.migration.caching import Caching
from rewrite.migration.clipping import Clipping
from rewrite.migration.codes import OF_ALL_RULES
from rewrite.migration.contract import Rule
from rewrite.migration.geotorch import GeoTorch
from rewrite.migration.hooked_spectral import HookedSpectral
from rewrite.migration.hooked_weight import HookedWeight
from rewrite.migration.new_norms import Orthogonal, Spectral, Weight
from rewrite.migration.old_names import OldNames
from rewrite.migration.raw_transforms import RawTransform
from rewrite.migration.registering import Registering
from rewrite.migration.removing import RemovingParametrizations, RemovingSpectral, RemovingWeight

RULES: Final[tuple[Rule, ...]] = (
    HookedSpectral(),
    HookedWeight(),
    Spectral(),
    Weight(),
    Orthogonal(),
    Registering(),
    RemovingWeight(),
    RemovingSpectral(),
    RemovingParametrizations(),
    Caching(),
    GeoTorch(),
    RawTransform(),
    Clipping(),
    OldNames(),
)
MIGRATION_CODES: Final[tuple[Code, ...]] = (*(rule.told() for rule in RULES), *OF_ALL_RULES)
