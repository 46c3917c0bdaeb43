"""What rules would do to a model, site by site: a plan changes nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from computed.resolving import build
from computed.spec import parse_spec
from computed.uncollected import uncollected
from surgery.adapter_advice import training_advice
from surgery.agreeing import Agreement, agreed
from surgery.errors import SurgeryError
from surgery.finding import Found, find
from surgery.grouping import Trouble, grouped
from surgery.measuring import measure
from surgery.pretrained import saving_advice
from surgery.progress import tracked
from surgery.proposal import Action, PlannedSite
from surgery.proposing import EXISTING, Proposal, constrained_by, exempted, frozen
from surgery.quantised_bases import quantised_refusals
from surgery.refusing import holding_refusals, inference_refusals, overlapping, shared_storage
from surgery.rules.deciding import Candidate, decide
from surgery.rules.ruleset import Rule, RuleSet
from surgery.splitting import frozen_together, given_copies, parts_of
from surgery.storing import makes_parameters
from surgery.wrapping import Wrapping, freezing_refusals, reduction_refusals, sharding_refusals, wrapping

TIES = ("share", "error", "split")
Rules = Mapping[str, object] | Iterable[tuple[str, object]]
Resolve = Callable[[RuleSet], tuple[RuleSet, tuple[str, ...]]]


@dataclass(frozen=True)
class Options:
    """How a plan treats what rules leave open."""

    strict: bool = True
    existing: str = "error"
    tie: str = "share"
    project: bool = True
    measures: bool = True
    unsafe: bool = False

    def __post_init__(self) -> None:
        for name, got, known in (("existing", self.existing, EXISTING), ("tie", self.tie, TIES)):
            if got not in known:
                raise SurgeryError(f"{name}={got!r}; it is one of {', '.join(map(repr, known))}")


@dataclass(frozen=True)
class Draft:
    """What planning found: rows in the order of the model, problems that forbid it, notes that do not, advice.

    ``found`` is all that stands in the model.
    """

    rows: tuple[PlannedSite, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    untouched: int
    advice: tuple[str, ...] = ()
    found: tuple[Found, ...] = ()


class Surroundings(NamedTuple):
    """What the whole model says of each parameter: who shares memory, what it is wrapped in, what rules agreed on."""

    shared: dict[int, str]
    wrapping: Wrapping
    agreement: Agreement


@uncollected()
def draft(model: nn.Module, rules: Rules, options: Options, resolve: Resolve | None = None) -> Draft:
    """Match ``rules`` over ``model`` and propose a change for each site that one of them decides.

    ``resolve`` finds what rules that need a graph are about; without it they are refused.
    """
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"expected a torch.nn.Module, got {type(model).__name__}")
    ruleset, problems = RuleSet.read(rules)
    if resolve is not None:
        ruleset, unknown = resolve(ruleset)
        problems += unknown
    problems += ruleset.refused_operations("tree") if resolve is None else ()
    broken = argument_problems(ruleset)
    problems += tuple(broken.values())
    found = everything = find(model)
    shared = overlapping(found)
    if options.tie == "split":
        found = tuple(part for one in found for part in parts_of(one))
    decision = decide(ruleset, [_candidate(one) for one in found])
    decided = [(one, index) for one, index in zip(found, decision.winner, strict=True) if index is not None]
    decided = [pair for pair in decided if pair[1] not in broken]
    surroundings = Surroundings(shared, wrapping(model), agreed(decided, ruleset, project=options.project))
    rows: list[PlannedSite] = []
    troubles: list[Trouble] = []
    for place, (one, index) in enumerate(tracked(decided, "planning", len(decided))):
        rule = ruleset.rules[index]
        proposal = _proposal(one, rule, surroundings, options, place)
        troubles += [Trouble(rule.text, rule.spec, one.site, reason) for reason in proposal.reasons]
        if proposal.row is not None:
            rows.append(_without_value(_measured(proposal.row, one, options)))
    if options.tie == "split":
        problems += tuple(frozen_together(rows, found))
        rows = list(given_copies(rows, found))
    problems = (*problems, *grouped(troubles))
    made = _judged(tuple(rows), problems, decision.hints, options, untouched=len(found) - len(decided))
    undecided = [one for one, index in zip(found, decision.winner, strict=True) if index is None]
    constrains = any(row.changes and row.action is not Action.FREEZE for row in rows)
    advice = (training_advice(rows, undecided), saving_advice(model) if constrains else None)
    return replace(made, advice=tuple(text for text in advice if text is not None), found=everything)


def _judged(
    rows: tuple[PlannedSite, ...], problems: Sequence[str], hints: Sequence[str], options: Options, *, untouched: int
) -> Draft:
    if options.strict:
        return Draft(rows, (*problems, *hints), (), untouched)
    return Draft(rows, tuple(problems), tuple(hints), untouched)


def _candidate(found: Found) -> Candidate:
    return Candidate(found.site.names, found.site.host_types, buffer=found.site.buffer)


def argument_problems(ruleset: RuleSet) -> dict[int, str]:
    """For each rule whose spec names constraints that refuse their arguments, what is wrong, by the rule's position."""
    found: dict[int, str] = {}
    for index, rule in enumerate(ruleset.rules):
        if isinstance(rule.spec, str) and not (rule.exempts or rule.freezes):
            try:
                for call in parse_spec(rule.spec):
                    build(call)
            except (ValueError, TypeError, ImportError) as error:
                found[index] = f"rule {rule}: {error}"
    return found


def _proposal(found: Found, rule: Rule, surroundings: Surroundings, options: Options, place: int) -> Proposal:
    if rule.exempts:
        return exempted(found, rule.text)
    if found.holder is not None:
        return Proposal(None, tuple(holding_refusals(found)))
    if rule.freezes:
        refused = inference_refusals(found) + freezing_refusals(found, surroundings.wrapping)
        refused = refused if found.site.requires_grad else []
        return Proposal(None, tuple(refused)) if refused else frozen(found, rule.text)
    reasons = _tie_reasons(found, options) + inference_refusals(found) + shared_storage(found, surroundings.shared)
    reasons += sharding_refusals(found, surroundings.wrapping) + quantised_refusals(found)
    agreement = surroundings.agreement
    reasons += [agreement.reasons[place]] if place in agreement.reasons else []
    if reasons:
        return Proposal(None, tuple(reasons))
    spec = agreement.chains.get(place, rule.spec)
    proposal = constrained_by(
        found, rule.text, spec, existing=options.existing, project=options.project, unsafe=options.unsafe
    )
    row = proposal.row
    if row is not None and row.prepared is not None and makes_parameters(found, row.prepared):
        refused = reduction_refusals(surroundings.wrapping)
        return Proposal(None, tuple(refused)) if refused else proposal
    return proposal


def _tie_reasons(found: Found, options: Options) -> list[str]:
    if options.tie != "error" or len(found.slots) == 1:
        return []
    others = ", ".join(found.site.aliases)
    return [f"is tied to {others}; pass tie='share' for one computed parameter in all places, or tie='split'"]


def _without_value(row: PlannedSite) -> PlannedSite:
    """A plan keeps preimages only: values of all sites would be a second model."""
    return row if row.prepared is None else replace(row, prepared=replace(row.prepared, value=None))


def _measured(row: PlannedSite, found: Found, options: Options) -> PlannedSite:
    if not options.measures or row.prepared is None:
        return row
    present = found.computed
    value = present.peek() if present is not None else found.subject
    assert isinstance(value, Tensor)
    return replace(row, measures=measure(value.detach(), row.prepared))
