"""State dicts of a constrained model: its own, and those that a plain model or one with norms of torch's loads."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from computed.guard import GuardedModules
from computed.parameter import ComputedParameter
from surgery.errors import SurgeryError
from surgery.finding import find, hosts
from surgery.formats import FORMATS, Entries, Format, Written


def state_dict(model: nn.Module, format: str = "own") -> "OrderedDict[str, Any]":
    """The state dict of ``model``; changes nothing.

    ``"own"`` is ``model.state_dict()``: raws and state under the names of the computed parameters. The others have the
    original keys in the original order with the original ``_metadata``:

    * ``"plain"``: the values that eval uses. Loads with ``strict=True`` into the model as it was before any constraint;
    * ``"weight_norm"``: ``weight_g`` and ``weight_v``, as the hook `torch.nn.utils.weight_norm` writes them;
    * ``"spectral_norm"``: ``weight_orig``, ``weight_u``, ``weight_v``, as the hook `torch.nn.utils.spectral_norm` does;
    * ``"parametrizations"``: as `torch.nn.utils.parametrizations` writes either.

    Tensors are detached and share their memory with the raws; tied names share one tensor, as they do in a plain state
    dict.

    Errors: SurgeryError for another format, and for one that cannot say exactly what some computed parameters are: it
    names all of them.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(3, 2), {"weight": "spectral"})
        >>> list(state_dict(model))
        ['bias', 'weight.raw', 'weight.constraints.0.u', 'weight.constraints.0.v']
        >>> list(state_dict(model, format="plain"))
        ['weight', 'bias']
        >>> list(state_dict(model, format="spectral_norm"))
        ['bias', 'weight_orig', 'weight_u', 'weight_v']
    """
    if format != "own" and format not in FORMATS:
        raise SurgeryError(f"state_dict: format={format!r}; it is one of {', '.join(map(repr, ('own', *FORMATS)))}")
    own: OrderedDict[str, Any] = model.state_dict()  # type: ignore[assignment] # torch says dict, gives this
    return own if format == "own" else _rewritten(model, own, FORMATS[format])


def _rewritten(model: nn.Module, own: "OrderedDict[str, Any]", format: Format) -> "OrderedDict[str, Any]":
    """``own`` with the keys of each computed parameter replaced by those that ``format`` has for it."""
    inexact = [
        f"{one.site.name}: {reason}"
        for one in find(model)
        if one.computed is not None and (reason := format.why_not(one.computed)) is not None
    ]
    if inexact:
        raise SurgeryError(
            "\n".join((f"state_dict: format={format.name!r} cannot write all of this model exactly:", *inexact))
        )
    places = _Places(format)
    for host, prefix in hosts(model):
        if isinstance(host._modules, GuardedModules):
            places.note(host._modules, prefix, own)
    found: OrderedDict[str, Any] = OrderedDict()
    for key, entry in own.items():
        for prefix in _prefixes(key):
            found.update(places.first.pop(prefix, ()))
            found.update(places.instead.pop(prefix, ()))
        if not places.replaces(key):
            found[key] = entry
            found.update(places.behind.pop(key, ()))
    for rest in places.first.values():
        found.update(rest)
    found._metadata = places.metadata(own)  # type: ignore[attr-defined] # as Module.state_dict does
    return found


class _Places:
    """What a format has for computed parameters, by the place where it belongs.

    A host's entries stand together: ``first`` are those that come where they begin, by the host's prefix; ``behind``
    those that come behind another entry of their host; ``instead`` those that come where its own keys stand.
    """

    def __init__(self, format: Format) -> None:
        self.format = format
        self.first: dict[str, Entries] = {}
        self.behind: dict[str, Entries] = {}
        self.instead: dict[str, Entries] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._about: dict[str, dict[str, dict[str, int]]] = {}
        self._written: dict[int, Written] = {}

    def note(self, modules: GuardedModules, prefix: str, own: Mapping[str, object]) -> None:
        """Note the computed parameters of one host."""
        written = {name: self._write(name, modules[name]) for name in modules.computed}
        place = self.first.setdefault(prefix, [])
        ends = [each.parameters for each in written.values()], [each.buffers for each in written.values()]
        for names, end in zip((modules.order, modules.buffers), ends, strict=True):
            for name in names:
                key = prefix + name
                if name in written:
                    place += _below(prefix, written[name].original)
                elif key in own:
                    place = self.behind.setdefault(key, [])
            for entries in end:
                place += _below(prefix, entries)
        for name, each in written.items():
            self.instead[f"{prefix}{name}."] = _below(prefix, each.children)
            self._paths[prefix + name] = tuple(prefix + path for path in each.paths)
            about = self._about.setdefault(prefix.rstrip("."), {})
            for topic, versions in each.about.items():
                about.setdefault(topic, {}).update(versions)

    def replaces(self, key: str) -> bool:
        """Whether ``key`` belongs to a computed parameter."""
        return any(prefix.rstrip(".") in self._paths for prefix in _prefixes(key))

    def metadata(self, own: "OrderedDict[str, Any]") -> "OrderedDict[str, Any]":
        """The versions of the modules that the format knows."""
        found: OrderedDict[str, Any] = OrderedDict()
        for path, about in getattr(own, "_metadata", OrderedDict()).items():
            if path in self._paths:
                found.update((added, {"version": 1}) for added in self._paths[path] if added not in found)
            elif not self.replaces(f"{path}."):
                found[path] = about | self._about.get(path, {})
        return found

    def _write(self, name: str, parameter: ComputedParameter) -> Written:
        known = self._written.get(id(parameter))
        if known is not None and known.original:
            # a value is made once: tied names share one tensor
            return replace(known, original=[(name, value) for _, value in known.original])
        self._written[id(parameter)] = written = self.format.write(name, parameter)
        return written


def _below(prefix: str, entries: Entries) -> Entries:
    return [(prefix + key, value) for key, value in entries]


def _prefixes(key: str) -> list[str]:
    """The prefixes of the modules around ``key``, the root's first."""
    parts = key.split(".")
    return [".".join((*parts[:depth], "")) for depth in range(len(parts))]
