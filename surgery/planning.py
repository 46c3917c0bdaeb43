"""What rules would do to a model, site by site: a plan changes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from computed.site import Site
from surgery.errors import SurgeryError
from surgery.finding import Found, Place, find
from surgery.grouping import Trouble, grouped
from surgery.measuring import measure
from surgery.progress import tracked
from surgery.proposal import PlannedSite
from surgery.proposing import EXISTING, Proposal, constrained_by, exempted, frozen
from surgery.refusing import distribution_refusals, overlapping, shared_storage
from surgery.rules.deciding import Candidate, decide
from surgery.rules.ruleset import Rule, RuleSet

TIES = ("share", "error", "split")
Rules = Mapping[str, object] | Iterable[tuple[str, object]]


@dataclass(frozen=True)
class Options:
    """How a plan treats what rules leave open."""

    strict: bool = True
    existing: str = "error"
    tie: str = "share"
    project: bool = True
    measures: bool = True

    def __post_init__(self) -> None:
        for name, got, known in (("existing", self.existing, EXISTING), ("tie", self.tie, TIES)):
            if got not in known:
                raise SurgeryError(f"{name}={got!r}; it is one of {', '.join(map(repr, known))}")


@dataclass(frozen=True)
class Draft:
    """What planning found: rows in the order of the model, problems that forbid it, notes that do not."""

    rows: tuple[PlannedSite, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    untouched: int


def draft(model: nn.Module, rules: Rules, options: Options) -> Draft:
    """Match ``rules`` over ``model`` and propose a change for each site that one of them decides."""
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"expected a torch.nn.Module, got {type(model).__name__}")
    ruleset, problems = RuleSet.read(rules)
    problems += ruleset.refused_operations("tree")
    found = find(model)
    if options.tie == "split":
        found = tuple(part for one in found for part in _split(one))
    decision = decide(ruleset, [_candidate(one) for one in found])
    decided = [(one, index) for one, index in zip(found, decision.winner, strict=True) if index is not None]
    shared = overlapping(found)
    rows: list[PlannedSite] = []
    troubles: list[Trouble] = []
    for one, index in tracked(decided, "planning", len(decided)):
        rule = ruleset.rules[index]
        proposal = _proposal(model, one, rule, shared, options)
        troubles += [Trouble(rule.text, rule.spec, one.site, reason) for reason in proposal.reasons]
        if proposal.row is not None:
            rows.append(_measured(proposal.row, one, options))
    problems = (*problems, *grouped(troubles))
    return _judged(tuple(rows), problems, decision.hints, options, untouched=len(found) - len(decided))


def _judged(
    rows: tuple[PlannedSite, ...], problems: Sequence[str], hints: Sequence[str], options: Options, *, untouched: int
) -> Draft:
    if options.strict:
        return Draft(rows, (*problems, *hints), (), untouched)
    return Draft(rows, tuple(problems), tuple(hints), untouched)


def _candidate(found: Found) -> Candidate:
    return Candidate(found.site.names, found.site.host_types, buffer=found.site.buffer)


def _split(found: Found) -> list[Found]:
    """One find for each attribute of a tie, so that each is decided and constrained on its own."""
    if found.computed is not None or len(found.slots) == 1:
        return [found]
    parts = []
    for slot in found.slots:
        places = tuple(p for p in found.places if p.host is slot.host and p.attribute == slot.attribute)
        parts.append(Found(_renamed(found, places), places, found.subject))
    return parts


def _renamed(found: Found, places: tuple[Place, ...]) -> Site:
    names = tuple(place.name for place in places)
    types = tuple(found.site.host_types[found.site.names.index(name)] for name in names)
    return replace(found.site, names=names, host_type=type(places[0].host), host_types=types)


def _proposal(model: nn.Module, found: Found, rule: Rule, shared: dict[int, str], options: Options) -> Proposal:
    if rule.exempts:
        return exempted(found, rule.text)
    if rule.freezes:
        return frozen(found, rule.text)
    reasons = _tie_reasons(found, options) + shared_storage(found, shared)
    reasons += distribution_refusals(model, found, adds_raws=False)
    if reasons:
        return Proposal(None, tuple(reasons))
    proposal = constrained_by(found, rule.text, rule.spec, existing=options.existing, project=options.project)
    row = proposal.row
    if row is not None and row.prepared is not None and row.parameters_after != row.parameters_before:
        return Proposal(row, tuple(distribution_refusals(model, found, adds_raws=True)))
    return proposal


def _tie_reasons(found: Found, options: Options) -> list[str]:
    if options.tie != "error" or len(found.slots) == 1:
        return []
    others = ", ".join(found.site.aliases)
    return [f"is tied to {others}; pass tie='share' for one computed parameter in all places, or tie='split'"]


def _measured(row: PlannedSite, found: Found, options: Options) -> PlannedSite:
    if not options.measures or row.prepared is None:
        return row
    present = found.computed
    value = present.peek() if present is not None else found.subject
    assert isinstance(value, Tensor)
    return replace(row, measures=measure(value.detach(), row.prepared))
