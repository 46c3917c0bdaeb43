"""The pass that stores weights on a grid as integers."""

import copy
import logging
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

from computed.constraints.integers import Integers, OnGrid
from computed.evaluation import last_arguments, promoted
from computed.guard import GuardedModules
from computed.parameter import ComputedParameter
from computed.placement import unguard
from surgery.errors import SurgeryError
from surgery.finding import Found, find_computed
from surgery.graph.integers import IntegerWeight
from surgery.listing import found_computed

logger = logging.getLogger("surgery")


def with_integer_weights(
    graph: nn.Module, patterns: str | Iterable[str] | None = None, *, blocked: bool = False
) -> fx.GraphModule:
    """A new graph whose weights on a grid are stored as int8 and scales, a quarter of float32; the one given stays.

    These are the computed parameters that `fake_quant` or `lsq` of at most 8 bits, `binary` or `ternary` have the last
    word about, as they are in eval. Their values are what they were, and are made at each read by an `IntegerWeight`,
    which stands in their place and is not trained. `torch.onnx.export` makes a DequantizeLinear of each, of int8
    numbers, with a scale in float32 and no zero point, which is 0. One INFO line says what was done.

    Args:
        graph: what ``apply_constraints(model, rules, via="fx")`` gives, or ``via="export"``.
        patterns: one pattern or several: only these; None means all that can be.
        blocked: groups become blocks of one DequantizeLinear, which needs ``torch.onnx.export(opset_version=21)`` or
            later, instead of rows of a reshaped weight, which any opset has.

    Errors: SurgeryError for what is no graph, for a pattern that matches no computed parameter, or one of which eight
    bits do not hold the value; without patterns, where there is no weight on a grid.

    Reference: the operator DequantizeLinear, onnx.ai/onnx/operators/onnx__DequantizeLinear.html.

    Example:
        >>> from surgery.constraining import apply_constraints
        >>> graph = apply_constraints(nn.Linear(4, 2), {"weight": "fake_quant(8)"}, via="fx")
        >>> {name: tensor.dtype for name, tensor in with_integer_weights(graph).state_dict().items()}
        {'bias': torch.float32, 'weight.numbers': torch.int8, 'weight.scale': torch.float32}
    """
    who = "with_integer_weights"
    if not isinstance(graph, fx.GraphModule):
        raise SurgeryError(
            f"{who}: {type(graph).__name__} has no graph; make one with apply_constraints(..., via='fx')"
        )
    made = copy.deepcopy(graph)
    total = len(find_computed(made))
    chosen = found_computed(made, patterns, who)
    reasons = {one.site.name: _why_not(one.computed) for one in chosen if one.computed is not None}
    refused = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    if refused and (patterns is not None or len(refused) == len(reasons)):
        raise SurgeryError(f"{who}: no integers of 8 bits for " + "; ".join(refused))
    if not chosen:
        raise SurgeryError(f"{who}: this {type(graph).__name__} has no computed parameters")
    taken = [one for one in chosen if reasons[one.site.name] is None]
    before = after = 0
    for one in taken:
        assert one.computed is not None
        before += sum(raw.tensor.nbytes for raw in one.computed.raw_slots())
        stored = _stored(one.site.name, one.computed, blocked=blocked)
        after += stored.numbers.nbytes + stored.scale.nbytes
        _replace(one, stored)
    logger.info("%d of %d stored as int8: %s -> %s bytes", len(taken), total, f"{before:,}", f"{after:,}")
    return made


def _why_not(parameter: ComputedParameter) -> str | None:
    last = parameter.links[-1].module
    if not isinstance(last, OnGrid):
        return f"{parameter.spec} puts it on no grid"
    return "it is on meta" if parameter.is_meta else last.why_no_integers()


def _stored(name: str, parameter: ComputedParameter, *, blocked: bool) -> IntegerWeight:
    last = parameter.links[-1].module
    assert isinstance(last, OnGrid)
    with torch.no_grad():
        value = parameter.baked_value()
        if not bool(value.isfinite().all()):
            raise SurgeryError(f"with_integer_weights: {name} has entries that are not finite, and integers have none")
        arguments = last_arguments(parameter.links, parameter.raw_tensors(), training=False)[0]
        stored = IntegerWeight(_integers(last, value, arguments), value.dtype, blocked=blocked)
        if not torch.equal(stored(), value):
            raise SurgeryError(
                f"with_integer_weights: {name}: the integers that {last!r} gives times their scale are not the value"
            )
    return stored.train(parameter.training)


def _integers(last: OnGrid, value: Tensor, arguments: tuple[Tensor, ...]) -> Integers:
    return last.integers(value, [promoted(argument) for argument in arguments])


def _replace(found: Found, stored: IntegerWeight) -> None:
    for slot in found.slots:
        modules = slot.host._modules
        assert isinstance(modules, GuardedModules)
        modules.release(slot.attribute)
        slot.host.add_module(slot.attribute, stored)
        unguard(slot.host)
