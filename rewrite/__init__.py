"""rewrite: the same change in source text, and the command line; torch is never imported here.

Names are loaded at first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewrite.analysis import UnknownRootError as UnknownRootError
    from rewrite.emitting import codemod as codemod
    from rewrite.live_plan import SourcePlan as SourcePlan
    from rewrite.live_plan import source_plan as source_plan
    from rewrite.outcome import Outcome as Outcome
    from rewrite.rewriting import rewrite_source as rewrite_source
    from rewrite.source import UnreadableError as UnreadableError

_PLACES = {
    "Outcome": "rewrite.outcome",
    "SourcePlan": "rewrite.live_plan",
    "UnknownRootError": "rewrite.analysis",
    "UnreadableError": "rewrite.source",
    "codemod": "rewrite.emitting",
    "rewrite_source": "rewrite.rewriting",
    "source_plan": "rewrite.live_plan",
}

__all__ = [
    "Outcome",
    "SourcePlan",
    "UnknownRootError",
    "UnreadableError",
    "codemod",
    "rewrite_source",
    "source_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'rewrite' has no attribute {name!r}")
    found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
