"""How densities change: the logarithm of the determinants of what maps raws to values."""

import math
from collections.abc import Iterable, Sequence
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn import functional

from computed.chain import Link
from computed.constraint import Constraint
from computed.constraints.affine import Affine, EqualizedRate
from computed.constraints.bounded import Bounded
from computed.constraints.conversions import TransformConstraint
from computed.constraints.elementwise import Above, Interval
from computed.constraints.exponential import Exponential
from computed.constraints.less_than import LessThan
from computed.constraints.on_slices import OnSlices
from computed.evaluation import arguments_by_link, full_precision
from computed.parameter import ComputedParameter
from surgery.errors import SurgeryError
from surgery.listing import found_computed


class _NoDeterminantError(Exception):
    """A constraint whose map has no determinant that is known; its text says why."""


def log_jacobian(model: nn.Module, patterns: str | Iterable[str] | None = None) -> Tensor:
    """The sum of ``log |det d value / d raw|`` over computed parameters: what a change of variables adds.

    A prior on values is a density of raws only with this term: ``log p(raw) = log p(value) + log |det J|``. With it
    a sampler may walk over raws, which know no bounds, and a mode over raws is one that a normal approximation may be
    laid around. Differentiable with respect to raws, in at least float32; a tied parameter counts once, and a model
    without computed parameters has 0. For chains the terms of all constraints are added up.

    Known are `torch.distributions` Transforms that state theirs, ``positive``, ``greater_than``, ``less_than``,
    ``interval``, ``exp``, ``affine``, ``equalized_lr``, ``bounded`` with its map tanh, and ``cat`` and ``stack`` of
    these. ``exp`` gives minus infinity where it cuts off at the end of the dtype.

    Args:
        model: any module.
        patterns: one pattern or several, as rules have them: only computed parameters that one of these matches.

    Errors: SurgeryError for a pattern that matches no computed parameter, and for constraints that are no bijection, or
    whose determinant is not known; it names all of them.

    Example:
        >>> from torch.distributions import LogNormal, Normal
        >>> from surgery.constraining import apply_constraints
        >>> model = nn.Linear(1, 3, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> _ = apply_constraints(model, {"weight": "exp"})
        >>> of_raws = LogNormal(0.0, 1.0).log_prob(model.weight.value()).sum() + log_jacobian(model)
        >>> torch.testing.assert_close(of_raws, Normal(0.0, 1.0).log_prob(model.weight.raws["raw"]).sum())
    """
    terms: list[Tensor] = []
    problems: list[str] = []
    for found in found_computed(model, patterns, "log_jacobian"):
        assert found.computed is not None
        try:
            terms.append(_of_chain(found.computed))
        except _NoDeterminantError as reason:
            problems.append(f"{found.site.name}: {reason}")
    if problems:
        raise SurgeryError(
            "log_jacobian: " + "; ".join(problems) + "; leave these out: log_jacobian(model, patterns) takes only what "
            "patterns match"
        )
    total = torch.zeros((), device=terms[0].device if terms else None)
    for term in terms:
        total = total + term.to(total.device)
    return total


def _of_chain(parameter: ComputedParameter) -> Tensor:
    terms: list[Tensor] = []
    running: Tensor | None = None
    with full_precision(parameter.device):
        for link, own in arguments_by_link(parameter.links, list(parameter.raws.values())):
            whole = own if running is None else (running, *own)
            terms.append(_of_link(link, whole))
            running = link.evaluate(whole, training=False)[0]
    return torch.stack(terms).sum()


def _of_link(link: Link, arguments: Sequence[Tensor]) -> Tensor:
    module = link.module
    if not isinstance(module, Constraint):
        raise _NoDeterminantError(f"of {type(module).__name__} no determinant is known")
    if len(arguments) != 1:
        raise _NoDeterminantError(f"{module.spec()} has {len(arguments)} raws, and is no bijection")
    return log_slopes(module, arguments[0]).sum()


@singledispatch
def log_slopes(constraint: Constraint, raw: Tensor) -> Tensor:
    """``log |f'(raw)|``, or whatever sums to ``log |det J|``, for the map ``f`` of a constraint."""
    raise _NoDeterminantError(f"of {constraint.spec()} no determinant is known")


@log_slopes.register
def _of_above(constraint: Above, raw: Tensor) -> Tensor:
    return functional.logsigmoid(raw)


@log_slopes.register
def _of_less_than(constraint: LessThan, raw: Tensor) -> Tensor:
    return functional.logsigmoid(-raw)


@log_slopes.register
def _of_interval(constraint: Interval, raw: Tensor) -> Tensor:
    width = constraint.highest - constraint.lowest
    if width == 0:
        raise _NoDeterminantError(f"{constraint.spec()} leaves one number of its dtype, and is no bijection")
    return math.log(width) + functional.logsigmoid(raw) + functional.logsigmoid(-raw)


@log_slopes.register
def _of_exponential(constraint: Exponential, raw: Tensor) -> Tensor:
    return torch.where(raw <= constraint.highest, raw, -math.inf)


@log_slopes.register
def _of_affine(constraint: Affine, raw: Tensor) -> Tensor:
    return torch.full_like(raw, math.log(abs(constraint.scale)))


@log_slopes.register
def _of_equalized_rate(constraint: EqualizedRate, raw: Tensor) -> Tensor:
    return torch.full_like(raw, math.log(constraint.factor()))


@log_slopes.register
def _of_bounded(constraint: Bounded, raw: Tensor) -> Tensor:
    if constraint.map != "tanh":
        raise _NoDeterminantError(f"{constraint.spec()} is no bijection")
    ratio = raw / constraint.top
    # log(1 - tanh²), which is zero to rounding where tanh is one
    return 2 * (math.log(2) - ratio - functional.softplus(-2 * ratio, threshold=40.0))


@log_slopes.register
def _of_slices(constraint: OnSlices, raw: Tensor) -> Tensor:
    terms = [
        log_slopes(part, own).sum()
        for part, own in zip(constraint.parts, constraint.cut(raw), strict=True)
        if isinstance(part, Constraint)
    ]
    return torch.stack(terms) if terms else torch.zeros_like(raw)


@log_slopes.register
def _of_transform(constraint: TransformConstraint, raw: Tensor) -> Tensor:
    transform = constraint.transform
    if not transform.bijective:
        raise _NoDeterminantError(f"{transform} is no bijection")
    try:
        slopes: Tensor = transform.log_abs_det_jacobian(raw, transform(raw))
    except NotImplementedError:
        raise _NoDeterminantError(f"{transform} states no log_abs_det_jacobian") from None
    # one for each event: some state a constant one once for all
    return slopes.expand(raw.shape[: raw.dim() - transform.domain.event_dim])
