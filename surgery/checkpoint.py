"""State dicts of a constrained model: its own, and the plain one that an unconstrained model loads."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from computed.guard import GuardedModules
from computed.parameter import ComputedParameter
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
    originals = _Originals()
    for host, prefix in hosts(model):
        if isinstance(host._modules, GuardedModules):
            originals.note(host._modules, prefix, own)
    found: OrderedDict[str, Any] = OrderedDict()
    for key, entry in own.items():
        for prefix in _prefixes(key):
            found.update(originals.first.pop(prefix, ()))
        if not originals.replace(key):
            found[key] = entry
            found.update(originals.behind.pop(key, ()))
    for rest in originals.first.values():
        found.update(rest)
    metadata = getattr(own, "_metadata", OrderedDict())
    kept = [(path, about) for path, about in metadata.items() if not originals.replace(f"{path}.")]
    found._metadata = OrderedDict(kept)  # type: ignore[attr-defined] # as Module.state_dict does
    return found


class _Originals:
    """The original keys of computed parameters, with their values, by the place where they belong.

    A host's entries stand together: ``first`` are those that come where they begin, by the host's prefix; ``behind``
    those that come behind another entry of their host.
    """

    def __init__(self) -> None:
        self.first: dict[str, list[tuple[str, Tensor]]] = {}
        self.behind: dict[str, list[tuple[str, Tensor]]] = {}
        self._prefixes: set[str] = set()
        self._values: dict[int, Tensor] = {}

    def note(self, modules: GuardedModules, prefix: str, own: Mapping[str, object]) -> None:
        """Note the computed parameters of one host."""
        place = self.first.setdefault(prefix, [])
        for name in (*modules.order, *modules.buffers):
            key = prefix + name
            if name in modules.computed:
                self._prefixes.add(f"{key}.")
                if modules[name].persistent:
                    place.append((key, self._value(modules[name])))
            elif key in own:
                place = self.behind.setdefault(key, [])

    def replace(self, key: str) -> bool:
        """Whether ``key`` belongs to a computed parameter: its original key stands for it."""
        return any(prefix in self._prefixes for prefix in _prefixes(key))

    def _value(self, parameter: ComputedParameter) -> Tensor:
        # by object: tied names share one tensor
        if id(parameter) not in self._values:
            self._values[id(parameter)] = parameter.baked_value()
        return self._values[id(parameter)]


def _prefixes(key: str) -> list[str]:
    """The prefixes of the modules around ``key``, the root's first."""
    parts = key.split(".")
    return [".".join((*parts[:depth], "")) for depth in range(len(parts))]
