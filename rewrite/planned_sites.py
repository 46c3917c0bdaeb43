"""A plan of rules on a live model, as the choice of edits needs it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from rewrite.live_choosing import Planned
from surgery.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from torch import nn

    from computed.site import Site
    from surgery.finding import Found


def planned_sites(model: nn.Module, pairs: Sequence[tuple[str, str | None]], rules: RuleSet) -> list[Planned]:
    """Every parameter that a rule decides, in the order of the model; raises PlanError with all problems."""
    from surgery.errors import PlanError
    from surgery.planned import plan
    from surgery.proposal import Action

    proposed = plan(model, pairs)
    lazy = [row.name for row in proposed.sites if row.action is Action.UNKNOWN]
    cure = "has no shape yet (a lazy module); run one batch through the model in the builder"
    problems = (*proposed.problems, *(f"{name} {cure}" for name in lazy))
    if problems:
        raise PlanError(problems)
    names = {id(tensor): name for name, tensor in model.named_parameters(remove_duplicate=False)}
    changed = {(id(slot.host), slot.attribute) for row in proposed.sites if row.changes for slot in row.found.slots}
    skipping = _skipping(model)
    return [
        Planned(
            row.site.names,
            _taking(row.site, rules),
            row.changes,
            tied=len(row.found.slots) > 1,
            buffer=row.site.buffer,
            raws=tuple(names[id(raw)] for raw in _raws(row.found) if id(raw) in names),
            initialised=next((why for slot in row.found.slots if (why := _steps(slot.host, changed, skipping))), ""),
        )
        for row in proposed.sites
    ]


def _raws(found: Found) -> Iterator[nn.Parameter]:
    """What a constraint that stands here already computes the parameter from."""
    return iter(()) if found.computed is None else found.computed.parameters()


def _steps(host: nn.Module, changed: Collection[tuple[int, str]], skipping: Collection[int]) -> str:
    """Why a parameter of ``host`` has other values at first where it is constrained when it is made; or nothing."""
    from torch import nn

    if isinstance(host, nn.Embedding | nn.EmbeddingBag) and host.padding_idx is not None:
        return "its row for padding is set to zero"
    kept = [name for name, _ in host.named_parameters(recurse=False) if (id(host), name) not in changed]
    if id(host) in skipping and not kept and not list(host.buffers(recurse=False)):
        return "transformers skips a module that has no other parameters"
    return ""


def _skipping(model: nn.Module) -> set[int]:
    """The modules of which those that have no parameters of their own count as initialised, as loaded ones do.

    https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/modeling_utils.py, _initialize_weights
    """
    from surgery.pretrained import is_pretrained

    custom = [
        each
        for each in model.modules()
        if is_pretrained(type(each)) and not type(each).__module__.startswith("transformers.")
    ]
    return {id(below) for each in custom for below in each.modules()}


def _taking(site: Site, rules: RuleSet) -> tuple[int, ...]:
    """The rules that match one of the names; a buffer is reached only by a last name that is written out."""
    return tuple(
        index
        for index, rule in enumerate(rules.rules)
        if (rule.pattern.names_leaf or not site.buffer)
        and any(rule.pattern.matches(name, types) for name, types in zip(site.names, site.host_types, strict=True))
    )
