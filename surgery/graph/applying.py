"""Constraining by rules, with a graph as the result; the model is untouched."""

import copy
import logging
from collections.abc import Mapping

from torch import nn

from surgery.errors import PlanError, SurgeryError, TraceRefusedError
from surgery.graph.arguments import Call, call_of, example_of
from surgery.graph.checking import compare
from surgery.graph.choosing import resolved
from surgery.graph.lowering import Lowering
from surgery.graph.module import ConstrainedGraph
from surgery.graph.tracing import drop_hooks, hook_refusals, modules_to_inline, traced
from surgery.planned import apply_rows
from surgery.planning import Options, Rules, draft

logger = logging.getLogger("surgery")
HOOKS = ("refuse", "ignore")


def graph_of(
    model: nn.Module,
    rules: Rules,
    options: Options,
    *,
    example: object = None,
    hooks: str = "refuse",
    lower: Mapping[type[nn.Module], Lowering] | None = None,
) -> ConstrainedGraph:
    """The graph of a constrained copy of ``model``; see `apply_constraints`."""
    if hooks not in HOOKS:
        raise SurgeryError(f"hooks={hooks!r}; it is one of {', '.join(map(repr, HOOKS))}")
    given = example_of(example)
    call = call_of(model, given)
    copied = constrained_copy(model, rules, options, call, lower or {})
    inlined = modules_to_inline(copied)
    hooked = hook_refusals(copied, inlined)
    if hooked and hooks == "refuse":
        raise TraceRefusedError(
            f"{'; '.join(hooked)}: a graph does not call these modules and would lose the hooks; remove them, or pass "
            f"hooks='ignore'"
        )
    drop_hooks(copied, inlined)
    reference = None if given is None else copy.deepcopy(copied)
    made = traced(copied, call, inlined=inlined, lower=lower or {})
    if reference is not None and given is not None:
        compare(made, reference, call, given)
    logger.info("traced %s: a new GraphModule, the model is untouched", type(model).__name__)
    return made


def constrained_copy(
    model: nn.Module, rules: Rules, options: Options, call: Call, lower: Mapping[type[nn.Module], Lowering]
) -> nn.Module:
    """A copy of ``model`` that is constrained as the tree route does it; rules may be about operations, too.

    Errors: PlanError with all problems; SurgeryError where the model cannot be copied.
    """
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({error}), and a graph is made of a copy. Weights that hooks of "
            f"torch.nn.utils.weight_norm compute are a reason: surgery.adopt(model), or remove_weight_norm first"
        ) from error
    made = draft(copied, rules, options, lambda ruleset: resolved(ruleset, copied, call, lower))
    if made.problems:
        raise PlanError(made.problems)
    apply_rows(copied, made.rows, keep_undo=False)
    return copied
