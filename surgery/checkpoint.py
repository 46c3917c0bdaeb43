"""State dicts of a constrained model: its own, and the plain one that an unconstrained model loads."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from computed.placement import GuardedModules
from surgery.errors import SurgeryError
from surgery.finding import hosts

FORMATS = ("own", "plain")


def state_dict(model: nn.Module, format: str = "own") -> "OrderedDict[str, Any]":
    """The state dict of ``model``; changes nothing.

    ``"own"`` is ``model.state_dict()``: raws and state under the names of the computed parameters. ``"plain"`` has the
    values that eval uses, detached, under the original keys in the original order with the original ``_metadata``: it
    loads with ``strict=True`` into the model as it was before any constraint. Tied names share one tensor, as they do
    in a plain state dict.

    Errors: SurgeryError for another format.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(3, 2), {"weight": "spectral"})
        >>> list(state_dict(model))
        ['bias', 'weight.raw', 'weight.constraints.0.u', 'weight.constraints.0.v']
        >>> list(state_dict(model, format="plain"))
        ['weight', 'bias']
    """
    if format not in FORMATS:
        raise SurgeryError(f"state_dict: format={format!r}; it is one of {', '.join(map(repr, FORMATS))}")
    own: OrderedDict[str, Any] = model.state_dict()  # type: ignore[assignment] # torch says dict, gives this
    return own if format == "own" else plain(model, own)


def plain(model: nn.Module, own: "OrderedDict[str, Any]") -> "OrderedDict[str, Any]":
    """``own`` with each computed parameter's keys replaced by its original one, in its original position."""
    values: dict[int, Tensor] = {}
    metadata = dict(getattr(own, "_metadata", {}))
    entries = list(own.items())
    for host, prefix in hosts(model):
        modules = host._modules
        if not isinstance(modules, GuardedModules):
            continue
        for name in modules.computed:
            parameter = modules[name]
            key = prefix + name
            # a host's entries stand together: where they begin, also where the raws are all that it has
            start = next((i for i, (other, _) in enumerate(entries) if other.startswith(prefix)), len(entries))
            entries = [entry for entry in entries if not entry[0].startswith(key + ".")]
            _drop(metadata, key)
            if parameter.persistent:
                if id(parameter) not in values:
                    values[id(parameter)] = parameter.baked_value()
                earlier = _earlier(name, [*modules.order, *modules.buffers], prefix)
                behind = [index + 1 for index, (other, _) in enumerate(entries) if other in earlier]
                entries.insert(behind[-1] if behind else start, (key, values[id(parameter)]))
    found: OrderedDict[str, Any] = OrderedDict(entries)
    found._metadata = metadata  # type: ignore[attr-defined] # as Module.state_dict does
    return found


def _earlier(name: str, order: list[str], prefix: str) -> set[str]:
    """The keys of its host's own tensors that come before it."""
    return {prefix + other for other in order[: order.index(name)]}


def _drop(metadata: dict[str, Any], key: str) -> None:
    for path in _below(metadata, key):
        del metadata[path]


def _below(paths: Iterable[str], key: str) -> list[str]:
    return [path for path in paths if path == key or path.startswith(key + ".")]
