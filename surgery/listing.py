"""The computed parameters of a model, by name."""

from collections import OrderedDict
from collections.abc import Iterable

from torch import nn

from computed.parameter import ComputedParameter
from surgery.errors import SurgeryError
from surgery.finding import Found, find
from surgery.rules.errors import RuleError
from surgery.rules.pattern import Pattern


def computed_parameters(model: nn.Module) -> "OrderedDict[str, ComputedParameter]":
    """The computed parameters of ``model``: name -> ComputedParameter, in the order of the original parameters.

    A tied one stands under its first name. Each has ``.raws`` (role -> Parameter), ``.constraints`` and ``.spec``.
    Changes nothing.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(3, 2), {"weight": "spectral"})
        >>> for name, weight in computed_parameters(model).items():
        ...     print(name, weight.spec, list(weight.raws))
        weight spectral(norm=1.0) ['raw']
    """
    return OrderedDict((found.site.name, found.computed) for found in find(model) if found.computed is not None)


def found_computed(model: nn.Module, patterns: str | Iterable[str] | None, doing: str) -> list[Found]:
    """The finds with a computed parameter that one of ``patterns`` matches by any of their names; None means all.

    Errors: RuleError for patterns that cannot be read, SurgeryError for one that matches no computed parameter.
    """
    found = [one for one in find(model) if one.computed is not None]
    if patterns is None:
        return found
    read = [Pattern.parse(text) for text in ([patterns] if isinstance(patterns, str) else patterns)]
    unmatched = [pattern.text for pattern in read if not any(_matches(pattern, one) for one in found)]
    if unmatched:
        names = ", ".join(one.site.name for one in found[:5]) or "none"
        raise SurgeryError(
            f"{doing}: no computed parameter matches {', '.join(map(repr, unmatched))}; this "
            f"{type(model).__name__} has {len(found)}: {names}{', ...' if len(found) > 5 else ''}"
        )
    operations = [pattern.text for pattern in read if pattern.operation is not None]
    if operations:
        raise RuleError([f"{text!r}: an operation needs a graph; {doing} takes names" for text in operations])
    return [one for one in found if any(_matches(pattern, one) for pattern in read)]


def _matches(pattern: Pattern, found: Found) -> bool:
    site = found.site
    return any(pattern.matches(name, types) for name, types in zip(site.names, site.host_types, strict=True))
