"""Moving the settings of computed parameters while they are held: a bound, a sparsity, bits; for schedules."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from computed.chain_at_site import refusals
from computed.constraint import Constraint, IteratedConstraint
from computed.constraints.describing import Described
from computed.evaluation import arguments_by_link, full_precision
from computed.nearmiss import did_you_mean, near_misses
from computed.parameter import ComputedParameter
from computed.site import Site
from surgery.agreeing import agree_anew
from surgery.errors import SurgeryError
from surgery.finding import Found
from surgery.graph.factored import why_built_in
from surgery.listing import found_computed


@dataclass(frozen=True)
class _Move:
    """A constraint, and one of the same class with other settings."""

    parameter: ComputedParameter
    position: int
    to: Constraint


def configure(model: nn.Module, patterns: str | Iterable[str] | None, /, **settings: Any) -> nn.Module:
    """Move settings of computed parameters, such as ``bound``, ``sparsity`` or ``bits``; in place, returns the model.

    Raws stay: what was trained goes on from where it is. What a constraint finds from the weight by its settings is
    found anew from the raws: a mask, the scale of a grid; masks of ``scope="rule"`` rank those that one call moves
    together. All is moved, or nothing and one error.

    Args:
        model: any module.
        patterns: one pattern or several, as rules have them: of these; None means all that have the settings.
        settings: arguments of the constraints, by name. Of a chain those are moved that have the setting.

    Errors: SurgeryError for a pattern that matches no computed parameter, a setting that no constraint of one has, a
    value that it refuses, or one that changes the shapes of raws (a rank); with all problems.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(4, 4), {"weight": "mask(0.25)"})
        >>> for sparsity in (0.5, 0.75):
        ...     _ = configure(model, "weight", sparsity=sparsity)
        >>> model.weight.spec, int((model.weight == 0).sum())
        ('mask(sparsity=0.75)', 12)
    """
    moves: list[_Move] = []
    problems: list[str] = []
    for found in found_computed(model, patterns, "configure"):
        try:
            moves += _moves(found, settings, required=patterns is not None)
        except (ValueError, TypeError) as error:
            problems.append(f"{found.site.name}: {error}")
    if not moves and not problems:
        problems.append(f"no computed parameter has {_quoted(settings)}")
    if problems:
        raise SurgeryError("nothing was configured: " + "; ".join(problems))
    if "share" not in settings:
        agree_anew((move.parameter, move.position, move.to) for move in moves)
    for move in moves:
        _take_over(move)
    for parameter in dict.fromkeys(move.parameter for move in moves):
        _find_anew(parameter, [move.position for move in moves if move.parameter is parameter])
    return model


def _moves(found: Found, settings: Mapping[str, Any], *, required: bool) -> list[_Move]:
    parameter = found.computed
    assert parameter is not None
    for place in found.places:
        if reason := why_built_in(place.host, place.attribute):
            raise ValueError(reason)
    moves: list[_Move] = []
    unknown, known = dict(settings), set[str]()
    for position, link in enumerate(parameter.links):
        constraint = link.module
        if not isinstance(constraint, Constraint) or not isinstance(constraint, Described):
            continue
        arguments = inspect.signature(type(constraint)).parameters
        known |= set(arguments)
        given = {name: value for name, value in settings.items() if name in arguments}
        if given:
            others = [other.module for other in parameter.links if other is not link]
            moves.append(_Move(parameter, position, _with_settings(constraint, given, found.site, others)))
            unknown = {name: value for name, value in unknown.items() if name not in given}
    if unknown and (required or moves):
        hint = did_you_mean(near_misses(next(iter(unknown)), known))
        raise ValueError(f"{parameter.spec} has no {_quoted(unknown)}{hint}")
    return moves


def _quoted(settings: Mapping[str, Any]) -> str:
    return f"setting{'' if len(settings) == 1 else 's'} {', '.join(map(repr, settings))}"


def _with_settings(
    constraint: Constraint, given: Mapping[str, Any], site: Site, others: Sequence[nn.Module]
) -> Constraint:
    assert isinstance(constraint, Described)
    new: Constraint = type(constraint)(**{**constraint.settings(), **given})
    if reasons := refusals([new, *others], site):
        raise ValueError("; ".join(reasons))
    new.bind(site)
    assert site.shape is not None
    if new.raw_shapes(site.shape) != constraint.raw_shapes(site.shape):
        raise ValueError(f"{_quoted(given)} would change the shapes of raws; undo, and apply another rule")
    return new


def _take_over(move: _Move) -> None:
    """Give the constraint the attributes of the new one; its buffers are its own."""
    constraint, new = move.parameter.links[move.position].module, move.to
    for name, value in vars(new).items():
        if not name.startswith("_") and name != "training":
            setattr(constraint, name, value)
    for name, module in new._modules.items():
        constraint._modules[name] = module


def _find_anew(parameter: ComputedParameter, positions: list[int]) -> None:
    """Find what depends on settings from the raws: ``found_from_settings`` of each constraint that was moved."""
    if parameter.is_meta:
        return
    raws = parameter.raw_tensors()
    start = 0
    running: Tensor | None = None
    with torch.no_grad(), full_precision(parameter.device):
        for position, (link, own) in enumerate(arguments_by_link(parameter.links, raws)):
            constraint = link.module
            whole = own if running is None else (running, *own)
            if position in positions and isinstance(constraint, Constraint) and constraint.found_from_settings:
                preimage = constraint.right_inverse(whole[0])
                names = [role.name for role in constraint.roles]
                for name in set(names) & set(constraint.found_from_settings):
                    index = start + names.index(name) - (1 if position else 0)
                    raws[index].copy_(preimage.raws[names.index(name)])
                if isinstance(constraint, IteratedConstraint):
                    constraint.commit(preimage.state)
                own = list(arguments_by_link(parameter.links, raws))[position][1]
                whole = own if running is None else (running, *own)
            start += len(own)
            running = link.evaluate(whole, training=False)[0]
