"""From one found tensor and the spec that won it to a row of a plan, or the reasons why not."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from computed.chain import Link
from computed.constraint import Constraint
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter
from computed.preparing import check_chain, prepare
from computed.resolving import resolve
from computed.site import Site
from surgery.finding import Found
from surgery.proposal import Action, Measures, PlannedSite
from surgery.refusing import host_refusals
from surgery.storing import numbers, stays_trained, stored_sizes

EXISTING = ("error", "chain", "replace")
REPLACE = "existing='replace' to take its place"


@dataclass(frozen=True)
class Proposal:
    """A row, or the reasons why there is none."""

    row: PlannedSite | None = None
    reasons: tuple[str, ...] = ()


def exempted(found: Found, rule: str) -> Proposal:
    """The row of a site that a rule exempts."""
    count, trainable = numbers(found.subject)
    action = Action.EXEMPT
    return Proposal(
        PlannedSite(found.site, action, rule, "none", count, count, trainable, trainable, Measures(), found)
    )


def frozen(found: Found, rule: str) -> Proposal:
    """The row of a site that is only frozen."""
    count, trainable = numbers(found.subject)
    action = Action.FREEZE if found.site.requires_grad else Action.ALREADY
    return Proposal(PlannedSite(found.site, action, rule, "frozen", count, count, trainable, 0, Measures(), found))


def constrained_by(
    found: Found, rule: str, spec: object, *, existing: str, project: bool, unsafe: bool = False
) -> Proposal:
    """The row of a site that becomes a computed parameter."""
    reasons = host_refusals(found)
    try:
        modules = resolve(spec, found.site)
    except ConstraintRefusedError as error:
        return Proposal(None, (*reasons, _without_name(error, found.site)))
    if not modules:
        return exempted(found, rule)
    reasons += check_chain(modules, found.site)
    if reasons:
        return Proposal(None, tuple(reasons))
    if found.site.shape is None:
        return _unknown(found, rule, modules)
    present = found.computed
    if present is not None:
        return _again(found, present, rule, modules, existing=existing, unsafe=unsafe)
    assert isinstance(found.subject, Tensor)
    return _prepared(found, rule, Action.CONSTRAIN, found.subject, modules, project=project, unsafe=unsafe)


def _again(
    found: Found, present: ComputedParameter, rule: str, modules: Sequence[nn.Module], *, existing: str, unsafe: bool
) -> Proposal:
    """A site that is constrained already: left where the spec is the same, else by the caller's choice."""
    wanted = _bound_spec(modules, found.site)
    if wanted == present.spec and all(map(_same_settings, modules, present.constraints)):
        count, trainable = numbers(present)
        action = Action.ALREADY
        row = PlannedSite(found.site, action, rule, wanted, count, count, trainable, trainable, Measures(), found)
        return Proposal(row)
    if existing == "error":
        return Proposal(
            None,
            (
                f"is constrained already by {present.spec!r}; pass existing='chain' to apply {wanted!r} after it, "
                f"or {REPLACE}",
            ),
        )
    if existing == "chain" and not present.links[0].roles:
        reason = f"is computed by {present.spec} without a raw, so nothing can be chained to it; pass {REPLACE}"
        return Proposal(None, (reason,))
    action = Action.CHAIN if existing == "chain" else Action.REPLACE
    chain = [*_copies(present), *modules] if existing == "chain" else list(modules)
    on_meta = torch.empty(present.shape, dtype=present.dtype, device="meta")
    value = on_meta if present.is_meta else present.baked_value()
    kept = present if action is Action.CHAIN else None
    return _prepared(found, rule, action, value, chain, project=True, present=kept, unsafe=unsafe)


def _same_settings(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same settings, which need not all be written in their specs."""
    mine, theirs = (
        {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
        for module in (one, other)
    )
    return mine.keys() == theirs.keys() and all(_same(value, theirs[key]) for key, value in mine.items())


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or bool(one == other)


def _copies(present: ComputedParameter) -> list[nn.Module]:
    return [copy.deepcopy(module) for module in present.constraints]


def _bound_spec(modules: Sequence[nn.Module], site: Site) -> str:
    for module in modules:
        if isinstance(module, Constraint):
            module.bind(site)
    return " | ".join(m.spec() if isinstance(m, Constraint) else type(m).__name__ for m in modules)


def _prepared(
    found: Found,
    rule: str,
    action: Action,
    value: Tensor,
    modules: Sequence[nn.Module],
    *,
    project: bool,
    present: ComputedParameter | None = None,
    unsafe: bool = False,
) -> Proposal:
    try:
        prepared = prepare(value, modules, found.site, project=project, present=present, unsafe=unsafe)
    except ConstraintRefusedError as error:
        return Proposal(None, (_without_name(error, found.site),))
    except Exception as error:
        error.add_note(f"while preparing {found.site.name} for rule {rule!r}; the model is unchanged")
        raise
    before, trainable_before = numbers(found.subject)
    sizes = stored_sizes(prepared, requires_grad=stays_trained(found.subject))
    after, trainable = sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
    constraint = " | ".join(link_text(link) for link in prepared.links)
    return Proposal(
        PlannedSite(
            found.site,
            action,
            rule,
            constraint,
            before,
            after,
            trainable_before,
            trainable,
            Measures(),
            found,
            prepared,
        )
    )


def link_text(link: Link) -> str:
    """How tables name a constraint."""
    return link.module.spec() if isinstance(link.module, Constraint) else type(link.module).__name__


def _unknown(found: Found, rule: str, modules: Sequence[nn.Module]) -> Proposal:
    text = " | ".join(m.spec() if isinstance(m, Constraint) else type(m).__name__ for m in modules)
    return Proposal(PlannedSite(found.site, Action.UNKNOWN, rule, text, 0, 0, 0, 0, Measures(), found))


def _without_name(error: ConstraintRefusedError, site: Site) -> str:
    return str(error).removeprefix(f"{site.name}: ")
