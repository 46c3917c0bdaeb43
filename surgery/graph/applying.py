"""Constraining by rules, with a graph as the result; the model is untouched."""

import copy
import logging
from collections.abc import Callable, Mapping

from torch import nn

from surgery.errors import PlanError, SurgeryError, TraceRefusedError
from surgery.graph.arguments import call_of, example_of
from surgery.graph.checking import compare
from surgery.graph.choosing import Uses, resolved, uses_by_trace, uses_in_export
from surgery.graph.exporting import exported, placed, recorded_text, tensors_in
from surgery.graph.lowering import Lowering
from surgery.graph.module import ConstrainedGraph
from surgery.graph.refusing import refuse_what_no_graph_keeps
from surgery.graph.surroundings import kept_generators
from surgery.graph.tracing import drop_hooks, hook_refusals, modules_to_inline, traced
from surgery.planned import apply_rows
from surgery.planning import Options, Rules, draft
from surgery.rules.ruleset import Rule

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
    """The graph of a constrained copy of ``model``, traced symbolically; see `apply_constraints`."""
    given = example_of(example)
    call = call_of(model, given)
    copied = copied_model(model)
    refuse_what_no_graph_keeps(model, copied, lower or {})
    with kept_generators():
        _constrain(copied, rules, options, lambda some: uses_by_trace(some, copied, call, lower or {}))
        inlined = modules_to_inline(copied)
        _without_hooks(copied, inlined, hooks)
        reference = None if given is None else copy.deepcopy(copied)
        made = traced(copied, call, inlined=inlined, lower=lower or {})
        if reference is not None and given is not None:
            compare(made, reference, call.inputs, given, (True, False))
    logger.info("traced %s: a new GraphModule, the model is untouched", type(model).__name__)
    return made


def export_of(
    model: nn.Module,
    rules: Rules,
    options: Options,
    *,
    example: object,
    dynamic_shapes: object = None,
    hooks: str = "refuse",
) -> ConstrainedGraph:
    """The graph of a constrained copy of ``model``, recorded by `torch.export`; see `apply_constraints`."""
    given = example_of(example)
    if given is None:
        raise SurgeryError("via='export' runs the model: pass example=(args, kwargs), as it would be called with")
    copied = copied_model(model)
    _without_hooks(copied, frozenset(name for name, _ in copied.named_modules()), hooks)
    call = call_of(model, given)
    refuse_what_no_graph_keeps(model, copied, {})
    with kept_generators():
        module = exported(copied, call, dynamic_shapes)
        _constrain(copied, rules, options, lambda some: uses_in_export(some, copied, module))
        made = placed(module, copied, recorded_text(copied, call, dynamic_shapes))
        compare(made, copied, tensors_in(call), given, (copied.training,))
    logger.info("exported %s: a new GraphModule, the model is untouched", type(model).__name__)
    return made


def copied_model(model: nn.Module) -> nn.Module:
    """A copy of ``model``.

    Errors: SurgeryError where it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({error}), and a graph is made of a copy. Weights that hooks of "
            f"torch.nn.utils.weight_norm compute are a reason: surgery.adopt(model), or remove_weight_norm first"
        ) from error


def _constrain(model: nn.Module, rules: Rules, options: Options, ask: Callable[[list[Rule]], Uses]) -> None:
    """Constrain in place, as the tree route does it; rules may be about operations and uses, too."""
    made = draft(model, rules, options, lambda ruleset: resolved(ruleset, ask))
    if made.problems:
        raise PlanError(made.problems)
    apply_rows(model, made.rows, keep_undo=False)


def _without_hooks(model: nn.Module, names: frozenset[str], hooks: str) -> None:
    """Remove the hooks of modules that a graph does not call, where that is what ``hooks`` says."""
    if hooks not in HOOKS:
        raise SurgeryError(f"hooks={hooks!r}; it is one of {', '.join(map(repr, HOOKS))}")
    hooked = hook_refusals(model, names)
    if hooked and hooks == "refuse":
        raise TraceRefusedError(
            f"{'; '.join(hooked)}: a graph does not call these modules and would lose the hooks; remove them, or pass "
            f"hooks='ignore'"
        )
    drop_hooks(model, names)
