"""Baking: computed parameters become plain ones that hold their values."""

import copy
import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from computed.parameter import ComputedParameter
from computed.placement import put_back
from computed.uncollected import uncollected
from surgery.declared_ties import redeclare
from surgery.errors import SurgeryError
from surgery.finding import Found, find_computed
from surgery.history import release_disturbed
from surgery.matching import chosen_by
from surgery.optimizers import Exchange, Following, Optimizers, listed, standing
from surgery.staleness import replacements
from surgery.storing import numbers, stays_trained
from surgery.wrapping import warn_of_reduction

logger = logging.getLogger("surgery")


def bake(model: nn.Module, patterns: str | Iterable[str] | None = None, *, optimizer: Optimizers = None) -> nn.Module:
    """Replace computed parameters by plain ones that hold the values which eval uses; in place, returns the model.

    Of a graph a new one is returned, and the one that was given stays.

    From train mode as from eval: what is pending is dropped. The original Parameter object takes the value where it is
    still a raw, a new one where not, in the original order. Outputs are bit-equal to those of the constrained model in
    eval; equal to rounding where an operation is done by factors (``lora``), and where torch's fused path for
    Transformers, which is off while constrained, comes back. One INFO line says what was done. Afterwards an apply
    before it cannot be undone.

    Args:
        model: any module.
        patterns: one pattern or several: only these; None means all. One name of a tie bakes the tie.
        optimizer: a torch optimizer, or several, that follow: the plain Parameter takes the place of its raws, with
            the state of the raw that it is, or none.

    Errors: SurgeryError for a pattern that matches no computed parameter; nothing is baked then.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(3, 2), {"weight": "positive"})
        >>> type(bake(model).weight).__name__, bool((model.weight > 0).all())
        ('Parameter', True)
    """
    if isinstance(model, fx.GraphModule):
        from surgery.graph.passes.plain_reads import with_plain_reads  # loaded for a graph only

        if optimizer is not None:
            raise SurgeryError(
                "optimizer= follows a change in place; a graph that is baked is new: make a new optimizer"
            )
        return with_plain_reads(bake_in_place(copy.deepcopy(model), patterns, ()))
    return bake_in_place(model, patterns, listed(optimizer))


@uncollected()
def bake_in_place(model: nn.Module, patterns: str | Iterable[str] | None, optimizers: Sequence[Optimizer]) -> nn.Module:
    """Bake what ``patterns`` match; see `bake`."""
    every = [one for one, _ in find_computed(model)]
    chosen = every if patterns is None else chosen_by(patterns, every, model, "bake", "computed parameter")
    total = len(every)
    # evaluated before anything is changed: an error leaves the model as it was
    values = [(one, one.computed.baked_value()) for one in chosen if one.computed is not None]
    before = sum(numbers(one.subject)[0] for one in chosen)
    warn_of_reduction(model, [one.computed for one in chosen if one.computed is not None], "baked")
    exchanges = [_bake(one, value) for one, value in values]
    replacements.note(exchanges)
    for following in map(Following, optimizers):
        following.follow(exchanges)
    redeclare(model)
    release_disturbed(model)
    _report(len(values), total, before, sum(value.numel() for _, value in values))
    return model


def _bake(found: Found, value: Tensor) -> Exchange:
    parameter = found.computed
    assert parameter is not None
    old = standing(found.site.name, parameter)
    plain: Tensor = value
    if not parameter.buffer:
        plain = _plain_parameter(parameter, value, requires_grad=stays_trained(parameter))
    for slot in found.slots:
        put_back(slot.host, slot.attribute, plain, buffer=parameter.buffer, persistent=parameter.persistent)
    return Exchange(found.site.name, old, standing(found.site.name, plain))


def _plain_parameter(parameter: ComputedParameter, value: Tensor, *, requires_grad: bool) -> nn.Parameter:
    parameter.reset()
    raws = parameter.raw_slots()
    if not raws or raws[0].tensor.shape != value.shape or raws[0].tensor.dtype != value.dtype:
        return nn.Parameter(value, requires_grad=requires_grad)
    original = raws[0].tensor
    if original.stride() == value.stride():
        with torch.no_grad():
            original.copy_(value)
    else:
        original.data = value  # kernels are chosen by strides, and a foreign module's value may have others
    original.grad = None
    original.requires_grad_(requires_grad)
    return original


def _report(baked: int, total: int, before: int, after: int) -> None:
    if not baked:
        logger.info("nothing to bake")
        return
    dense = f"; dense again: {before:,} -> {after:,} parameters" if before != after else ""
    logger.info("baked %d of %d%s", baked, total, dense)
