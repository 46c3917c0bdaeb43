"""Every parameter of a model that rules can be about: one find for each tensor, with all its names and hosts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from computed.guard import GuardedModules
from computed.parameter import ComputedParameter
from computed.site import Site, class_of, site_of
from surgery.holders import Holder, holders


@dataclass(frozen=True, eq=False)
class Place:
    """One attribute of one module, under one dotted name."""

    host: nn.Module
    attribute: str
    name: str


@dataclass(frozen=True, eq=False)
class Found:
    """A tensor of a model, or the computed parameter that stands for one.

    ``places`` has one entry for each name; a module that is itself shared gives several names to one attribute. Where
    something else holds the weight (a hook, a parametrization), ``holder`` names it, and the subject is its last raw.
    """

    site: Site
    places: tuple[Place, ...]
    subject: Tensor | ComputedParameter
    holder: str | None = None

    @property
    def computed(self) -> ComputedParameter | None:
        """The computed parameter that stands here already, or None."""
        return self.subject if isinstance(self.subject, ComputedParameter) else None

    @property
    def slots(self) -> tuple[Place, ...]:
        """One place for each attribute of a module, whatever the number of its names."""
        seen: dict[tuple[int, str], Place] = {}
        for place in self.places:
            seen.setdefault((id(place.host), place.attribute), place)
        return tuple(seen.values())


@dataclass(frozen=True, eq=False)
class Subject:
    """What stands in a model, and where, before anything is asked about it."""

    subject: Tensor | ComputedParameter
    places: list[Place]
    holder: Holder | None


def find(model: nn.Module) -> tuple[Found, ...]:
    """Every parameter and buffer of ``model``, in the order of its original state dict; raws are not among them."""
    return tuple(map(_found, subjects(model)))


def find_computed(model: nn.Module) -> tuple[tuple[Found, ComputedParameter], ...]:
    """The computed parameters of ``model``, in the order of its original state dict."""
    return tuple((_found(one), one.subject) for one in subjects(model) if isinstance(one.subject, ComputedParameter))


def subjects(model: nn.Module) -> list[Subject]:
    """What `find` finds, before anything is asked about it."""
    places: dict[int, list[Place]] = {}
    found: dict[int, Tensor | ComputedParameter] = {}
    held: dict[int, Holder] = {}
    for host, prefix in hosts(model):
        holding = holders(host)
        parts = {part for holder in holding.values() for part in holder.parts}
        own = [(name, subject) for name, subject in own_subjects(host) if name not in parts]
        for attribute, holder in holding.items():
            raws = [raw for raw in holder.raws if isinstance(raw, Tensor)]
            if raws:
                own.append((attribute, raws[-1]))
                held[id(raws[-1])] = holder
        for attribute, subject in own:
            places.setdefault(id(subject), []).append(Place(host, attribute, prefix + attribute))
            found[id(subject)] = subject
    return [Subject(found[key], stands, held.get(key)) for key, stands in places.items()]


def hosts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every module that is no part of a computed parameter, with the prefix of its names; shared ones several times."""
    stack: list[tuple[nn.Module, str]] = [(model, "")]
    while stack:
        host, prefix = stack.pop()
        if isinstance(host, ComputedParameter):
            continue
        yield host, prefix
        # torch keeps the raws of its own parametrizations under this name: they are never sites
        children = [(name, child) for name, child in host._modules.items() if name != "parametrizations"]
        stack += [(child, f"{prefix}{name}.") for name, child in reversed(children) if child is not None]


def own_subjects(host: nn.Module) -> list[tuple[str, Tensor | ComputedParameter]]:
    """The parameters, computed parameters and buffers that ``host`` owns itself, in original order."""
    return [(name, subject) for name, subject in (*_parameters(host), *_buffers(host))]


def _parameters(host: nn.Module) -> Iterator[tuple[str, Tensor | ComputedParameter]]:
    modules = host._modules
    return _registered(host._parameters, modules, modules.order if isinstance(modules, GuardedModules) else ())


def _buffers(host: nn.Module) -> Iterator[tuple[str, Tensor | ComputedParameter]]:
    modules = host._modules
    return _registered(host._buffers, modules, modules.buffers if isinstance(modules, GuardedModules) else ())


def _registered(
    registry: Mapping[str, Tensor | None], modules: Mapping[str, nn.Module | None], order: Sequence[str]
) -> Iterator[tuple[str, Tensor | ComputedParameter]]:
    """What stands under the names of a registry: in original order, then what was registered since."""
    # a scripted module's registries answer items() and little else
    own = dict(registry.items())
    for name in (*order, *[name for name in own if name not in order]):
        subject = own[name] if name in own else modules.get(name)
        if isinstance(subject, Tensor | ComputedParameter):
            yield name, subject


def _found(one: Subject) -> Found:
    subject, places, holder = one.subject, tuple(one.places), one.holder
    names = tuple(place.name for place in places)
    host = places[0].host
    others = tuple(place.host for place in places[1:])
    host_types = tuple(type_names(place.host) for place in places)
    if isinstance(subject, ComputedParameter):
        like = nn.Parameter(
            torch.empty(subject.shape, dtype=subject.dtype, device="meta"), requires_grad=subject.requires_grad
        )
        shape, device = subject.shape, subject.device
        site = site_of(host, names, like, shape=shape, host_types=host_types, device=device, others=others)
        return Found(site, places, subject)
    known = None if is_lazy(subject) else subject.shape
    site = site_of(host, names, subject, shape=known, host_types=host_types, others=others)
    return Found(site, places, subject, None if holder is None else holder.called)


def type_names(host: nn.Module) -> tuple[str, ...]:
    """The names of the classes in the method resolution order of ``host``."""
    kind = class_of(host)
    names = _names.get(kind)
    if names is None:
        _names[kind] = names = tuple(cls.__name__ for cls in kind.__mro__)
    return names


_names: "WeakKeyDictionary[type[nn.Module], tuple[str, ...]]" = WeakKeyDictionary()
