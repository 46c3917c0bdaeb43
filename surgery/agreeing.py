"""What the constraints of one rule settle together, before each of them is prepared: shares of a mask."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from computed.constraints.agreeing import Agreeing, agree
from computed.evaluation import arguments_by_link, full_precision
from computed.parameter import ComputedParameter
from computed.registry import lookup
from computed.resolving import resolve
from computed.spec import parse_spec
from surgery.finding import Found
from surgery.rules.ruleset import Rule, RuleSet

Decided = Sequence[tuple[Found, int]]
SOURCE = "which source text and decorated classes do not have when they are made; use surgery.apply_constraints"


class Agreement(NamedTuple):
    """Chains with their shares by the position of their site, and why others have none."""

    chains: Mapping[int, list[nn.Module]]
    reasons: Mapping[int, str]


def agreed(decided: Decided, ruleset: RuleSet, *, project: bool) -> Agreement:
    """For each rule that ranks all its sites together: their chains, with what each of them leaves out."""
    chains: dict[int, list[nn.Module]] = {}
    reasons: dict[int, str] = {}
    for index in dict.fromkeys(index for _, index in decided):
        rule = ruleset.rules[index]
        if not _may_agree(rule):
            continue
        places = [place for place, (_, each) in enumerate(decided) if each == index]
        own = {place: resolve(rule.spec, decided[place][0].site) for place in places}
        members = [(place, chain[-1]) for place, chain in own.items() if isinstance(chain[-1], Agreeing)]
        for place, chain in own.items():
            reason = _why_not(chain, decided[place][0], project=project)
            if reason is not None:
                reasons[place] = reason
        if members and not any(place in reasons for place in places):
            agree([last for _, last in members], [_value(decided[place][0]) for place, _ in members])
            chains |= {place: own[place] for place, _ in members}
    return Agreement(chains, reasons)


def _may_agree(rule: Rule) -> bool:
    """Whether the rule's spec has a constraint that ranks; factories are asked once a site, and not for this."""
    spec = rule.spec
    if rule.exempts or rule.freezes:
        return False
    if isinstance(spec, str):
        return any(lookup(call.name).joint for call in parse_spec(spec)) and "rule" in spec
    parts = spec if isinstance(spec, list) else [spec]
    return any(
        (isinstance(part, Agreeing) and part.agrees) or (isinstance(part, str) and "rule" in part) for part in parts
    )


def _why_not(chain: Sequence[nn.Module], found: Found, *, project: bool) -> str | None:
    ranking = [module for module in chain if isinstance(module, Agreeing) and module.agrees]
    if not ranking:
        return None
    if ranking != [chain[-1]]:
        return "scope='rule' ranks weights, so it must be the last of a chain"
    if not project:
        return f"scope='rule' ranks the weights of all its sites, {SOURCE}"
    if found.site.shape is None or found.site.device.type == "meta":
        return "scope='rule' ranks the weights of all its sites, and this one has none yet; load the model first"
    return None


def _value(found: Found) -> Tensor:
    present = found.computed
    value = found.subject if present is None else present.baked_value()
    assert isinstance(value, Tensor)
    return value


def agree_anew(moved: Iterable[tuple[ComputedParameter, int, nn.Module]]) -> None:
    """Rank again what settings were moved of: constraints at a position of a computed parameter, by their raws."""
    together: dict[float, list[tuple[Agreeing, Tensor]]] = {}
    with torch.no_grad():
        for parameter, position, to in moved:
            if isinstance(to, Agreeing) and to.scope == "rule":
                together.setdefault(to.sparsity, []).append((to, _incoming(parameter, position)))
    for members in together.values():
        agree([to for to, _ in members], [value for _, value in members])


def _incoming(parameter: ComputedParameter, position: int) -> Tensor:
    """What the link at a position is given: its own raw, or the value of the links before it."""
    running: Tensor | None = None
    with full_precision(parameter.device):
        for place, (link, own) in enumerate(arguments_by_link(parameter.links, parameter.raw_tensors())):
            whole = own if running is None else (running, *own)
            if place == position:
                return whole[0]
            running = link.evaluate(whole, training=False)[0]
    raise IndexError(position)
