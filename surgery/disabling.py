"""Constraints that stand aside for a while: adapters read as their base, masks as the weight behind them."""

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn

from computed.constraint import Constraint
from computed.epoch import advance
from surgery.errors import SurgeryError
from surgery.finding import Found
from surgery.graph.factored import why_built_in
from surgery.listing import found_computed


@contextlib.contextmanager
def disabled(model: nn.Module, patterns: str | Iterable[str] | None = None) -> Iterator[nn.Module]:
    """A context in which adapters of ``model`` read as their base, and masked weights as what the mask hides.

    Bit for bit what stood there before, in training, eval and compiled code alike; nothing is moved, and what is inside
    may be nested. Of a chain those constraints stand aside that have a plain weight. Not for several threads at once.

    Args:
        model: any module with computed parameters.
        patterns: one pattern or several: only these; None means all that have a plain weight.

    Errors: SurgeryError, before anything is done, for a pattern that matches no computed parameter, and for one that
    has no plain weight: bounds and parametrisations keep none, nor does ``lora(init='pissa')``. In a graph whose rules
    have an adapter built in.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> layer = torch.nn.Linear(2, 2)
        >>> before = layer.weight.detach().clone()
        >>> masked = apply_constraints(layer, {"weight": "mask(0.5)"})
        >>> with disabled(masked):
        ...     print(torch.equal(masked.weight, before))
        True
        >>> int((masked.weight == 0).sum())
        2
    """
    found = found_computed(model, patterns, "disabled")
    problems = [problem for one in found for problem in _problems(one, named=patterns is not None)]
    chosen = [constraint for one in found for constraint in _plain(one)]
    if not chosen and not problems:
        problems = [f"this {type(model).__name__} has no computed parameter with a plain weight"]
    if problems:
        raise SurgeryError("\n".join(("disabled: nothing was done:", *problems)))
    mine = [constraint for constraint in chosen if not constraint.disabled]
    try:
        _set(mine, aside=True)
        yield model
    finally:
        _set(mine, aside=False)


def _plain(found: Found) -> list[Constraint]:
    parameter = found.computed
    assert parameter is not None
    modules = [link.module for link in parameter.links]
    return [module for module in modules if isinstance(module, Constraint) and module.keeps_weight()]


def _problems(found: Found, *, named: bool) -> Iterator[str]:
    parameter = found.computed
    assert parameter is not None
    if not _plain(found):
        if named:
            yield f"{found.site.name}: {parameter.spec} keeps no plain weight; surgery.undo gives back what was there"
        return
    reasons = {why_built_in(place.host, place.attribute) for place in found.places}
    yield from (f"{found.site.name}: {reason}" for reason in reasons if reason is not None)


def _set(constraints: Iterable[Constraint], *, aside: bool) -> None:
    for constraint in constraints:
        # on the instance alone while it lasts, so that nothing is left that a comparison of settings would find
        if aside:
            vars(constraint)["disabled"] = True
        else:
            vars(constraint).pop("disabled", None)
    advance()
