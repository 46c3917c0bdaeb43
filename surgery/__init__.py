"""surgery: rules matched over a model; plan, apply, undo, bake, check.

Names are loaded at first use, so that reading rules never imports torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from computed.uncollected import uncollected

if TYPE_CHECKING:
    from surgery.adopting import adopt as adopt
    from surgery.baking import bake as bake
    from surgery.certifying import certify as certify
    from surgery.checking import Check as Check
    from surgery.checking import check as check
    from surgery.checkpoint import state_dict as state_dict
    from surgery.configuring import configure as configure
    from surgery.constraining import apply_constraints as apply_constraints
    from surgery.constraining import constrain as constrain
    from surgery.constraining import constrained as constrained
    from surgery.disabling import disabled as disabled
    from surgery.errors import PlanError as PlanError
    from surgery.errors import StaleOptimizerError as StaleOptimizerError
    from surgery.errors import SurgeryError as SurgeryError
    from surgery.errors import TraceRefusedError as TraceRefusedError
    from surgery.errors import UndoError as UndoError
    from surgery.graph.drawing import draw as draw
    from surgery.graph.passes.integer_weights import with_integer_weights as with_integer_weights
    from surgery.jacobians import log_jacobian as log_jacobian
    from surgery.listing import computed_parameters as computed_parameters
    from surgery.peft_loading import load_peft as load_peft
    from surgery.peft_saving import save_peft as save_peft
    from surgery.planned import Plan as Plan
    from surgery.planned import plan as plan
    from surgery.saving import load_checkpoint as load_checkpoint
    from surgery.saving import save_checkpoint as save_checkpoint
    from surgery.stretching import LipschitzBound as LipschitzBound
    from surgery.stretching import lipschitz_bound as lipschitz_bound
    from surgery.undoing import Undo as Undo
    from surgery.undoing import undo as undo

_PLACES = {
    "Check": "surgery.checking",
    "LipschitzBound": "surgery.stretching",
    "Plan": "surgery.planned",
    "PlanError": "surgery.errors",
    "StaleOptimizerError": "surgery.errors",
    "SurgeryError": "surgery.errors",
    "TraceRefusedError": "surgery.errors",
    "Undo": "surgery.undoing",
    "UndoError": "surgery.errors",
    "adopt": "surgery.adopting",
    "apply_constraints": "surgery.constraining",
    "bake": "surgery.baking",
    "certify": "surgery.certifying",
    "check": "surgery.checking",
    "computed_parameters": "surgery.listing",
    "configure": "surgery.configuring",
    "constrain": "surgery.constraining",
    "constrained": "surgery.constraining",
    "disabled": "surgery.disabling",
    "draw": "surgery.graph.drawing",
    "lipschitz_bound": "surgery.stretching",
    "load_checkpoint": "surgery.saving",
    "load_peft": "surgery.peft_loading",
    "log_jacobian": "surgery.jacobians",
    "plan": "surgery.planned",
    "save_checkpoint": "surgery.saving",
    "save_peft": "surgery.peft_saving",
    "state_dict": "surgery.checkpoint",
    "undo": "surgery.undoing",
    "with_integer_weights": "surgery.graph.passes.integer_weights",
}

__all__ = [
    "Check",
    "LipschitzBound",
    "Plan",
    "PlanError",
    "StaleOptimizerError",
    "SurgeryError",
    "TraceRefusedError",
    "Undo",
    "UndoError",
    "adopt",
    "apply_constraints",
    "bake",
    "certify",
    "check",
    "computed_parameters",
    "configure",
    "constrain",
    "constrained",
    "disabled",
    "draw",
    "lipschitz_bound",
    "load_checkpoint",
    "load_peft",
    "log_jacobian",
    "plan",
    "save_checkpoint",
    "save_peft",
    "state_dict",
    "undo",
    "with_integer_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    with uncollected():  # what is imported stays, and looking through all of torch meanwhile takes a tenth of a second
        found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
