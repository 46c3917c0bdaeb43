"""The computed parameters of a model, by name."""

from collections import OrderedDict
from collections.abc import Iterable

from torch import nn

from computed.parameter import ComputedParameter
from surgery.finding import Found, find_computed
from surgery.matching import chosen_by


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
    return OrderedDict((found.site.name, computed) for found, computed in find_computed(model))


def found_computed(model: nn.Module, patterns: str | Iterable[str] | None, doing: str) -> list[Found]:
    """The finds with a computed parameter that one of ``patterns`` matches by any of their names; None means all.

    Errors: RuleError for patterns that cannot be read, SurgeryError for one that matches no computed parameter.
    """
    found = [one for one, _ in find_computed(model)]
    return found if patterns is None else chosen_by(patterns, found, model, doing, "computed parameter")
