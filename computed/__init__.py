"""computed: a weight is ``value = constraint(raw)``.

Names are loaded at first use, so that reading specs and the catalogue never imports torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from computed.uncollected import uncollected

if TYPE_CHECKING:
    from computed.constraint import Constraint as Constraint
    from computed.constraint import IteratedConstraint as IteratedConstraint
    from computed.constraint import Preimage as Preimage
    from computed.constraint import Role as Role
    from computed.constraints.conversions import function as function
    from computed.constraints.transposed import Transposed as Transposed
    from computed.controls import caching as caching
    from computed.controls import invalidate as invalidate
    from computed.evaluating_once import evaluate_once as evaluate_once
    from computed.parameter import ComputedParameter as ComputedParameter
    from computed.registry import catalogue as catalogue
    from computed.site import Site as Site

_PLACES = {
    "ComputedParameter": "computed.placement",
    "Constraint": "computed.constraint",
    "IteratedConstraint": "computed.constraint",
    "Preimage": "computed.constraint",
    "Role": "computed.constraint",
    "Site": "computed.site",
    "Transposed": "computed.constraints.transposed",
    "caching": "computed.controls",
    "catalogue": "computed.registry",
    "evaluate_once": "computed.evaluating_once",
    "function": "computed.constraints.conversions",
    "invalidate": "computed.controls",
}

__all__ = [
    "ComputedParameter",
    "Constraint",
    "IteratedConstraint",
    "Preimage",
    "Role",
    "Site",
    "Transposed",
    "caching",
    "catalogue",
    "evaluate_once",
    "function",
    "invalidate",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'computed' has no attribute {name!r}")
    with uncollected():  # what is imported stays, and looking through all of torch meanwhile takes a tenth of a second
        found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
