"""The formats in which a state dict is written: what each has for a computed parameter, and where."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from computed.adopted_keys import hook_keys, listed_keys
from computed.constraint import Constraint
from computed.constraints.norms import WeightScale
from computed.constraints.slice_scaling import lengths
from computed.constraints.spectral import Spectral
from computed.parameter import ComputedParameter
from computed.unhooked import Unhooked

Entries = list[tuple[str, Tensor]]


@dataclass(frozen=True)
class Written:
    """What a format has for one computed parameter.

    ``original`` stands where the Parameter stood, ``parameters`` and ``buffers`` behind the host's others, ``children``
    behind its children. ``paths`` are the modules that it adds below the host, ``about`` goes into the host's metadata.
    """

    original: Entries = field(default_factory=list)
    parameters: Entries = field(default_factory=list)
    buffers: Entries = field(default_factory=list)
    children: Entries = field(default_factory=list)
    paths: tuple[str, ...] = ()
    about: Mapping[str, dict[str, int]] = field(default_factory=dict)


class Format(ABC):
    """One way to write computed parameters."""

    name: ClassVar[str]

    @abstractmethod
    def why_not(self, parameter: ComputedParameter) -> str | None:
        """Why the format cannot say exactly what ``parameter`` is, or None."""

    @abstractmethod
    def write(self, name: str, parameter: ComputedParameter) -> Written:
        """What it has for ``parameter``, which its host calls ``name``."""


class Plain(Format):
    """The values that eval uses, under the original keys."""

    name: ClassVar[str] = "plain"

    def why_not(self, parameter: ComputedParameter) -> str | None:
        """Every value can be written, where a plain model has a place of its shape."""
        return "its value has another shape than the plain model's" if parameter.reshapes else None

    def write(self, name: str, parameter: ComputedParameter) -> Written:
        """The value."""
        return Written(original=[(name, parameter.baked_value())] if parameter.persistent else [])


class HookedWeightNorm(Format):
    """As `torch.nn.utils.weight_norm` writes it."""

    name: ClassVar[str] = "weight_norm"

    def why_not(self, parameter: ComputedParameter) -> str | None:
        """Only weight norm itself can be written."""
        return None if _was_hook(parameter, self.name) else _why_not_weight_norm(parameter)

    def write(self, name: str, parameter: ComputedParameter) -> Written:
        """``g`` and ``v``."""
        if _was_hook(parameter, self.name):
            return Written(parameters=_renamed(parameter, hook_keys(parameter, name)))
        g, v = _weight_norm_parts(parameter)
        return Written(parameters=[(f"{name}_g", g), (f"{name}_v", v)])


class HookedSpectralNorm(Format):
    """As `torch.nn.utils.spectral_norm` writes it."""

    name: ClassVar[str] = "spectral_norm"

    def why_not(self, parameter: ComputedParameter) -> str | None:
        """Only a spectral norm of one can be written."""
        return None if _was_hook(parameter, self.name) else _why_not_spectral_norm(parameter)

    def write(self, name: str, parameter: ComputedParameter) -> Written:
        """The raw, and the vectors: converged ones of ours, those that are there of an adopted one."""
        if _was_hook(parameter, self.name):
            raw, u, v = (tensor for _, tensor in _renamed(parameter, hook_keys(parameter, name)))
        else:
            raw, u, v = _spectral_norm_parts(parameter)
        return Written(
            parameters=[(f"{name}_orig", raw)],
            buffers=[(f"{name}_u", u), (f"{name}_v", v)],
            about={"spectral_norm": {f"{name}.version": 1}},  # without it torch takes the vectors for old ones
        )


class Parametrizations(Format):
    """As `torch.nn.utils.parametrize` writes it: weight norm and spectral norm, and whatever was adopted from there."""

    name: ClassVar[str] = "parametrizations"

    def why_not(self, parameter: ComputedParameter) -> str | None:
        """Only these two can be written, and modules that are no constraints of ours."""
        if _was_listed(parameter):
            return None
        reasons = [_why_not_weight_norm(parameter), _why_not_spectral_norm(parameter)]
        return None if None in reasons else "it is neither a weight norm nor a spectral norm of one"

    def write(self, name: str, parameter: ComputedParameter) -> Written:
        """``original0`` and ``original1``, or ``original``, ``_u`` and ``_v``."""
        path = f"parametrizations.{name}"
        inner = (f"{i}.{below}" for i, one in enumerate(parameter.constraints) for below, _ in one.named_modules())
        paths = ("parametrizations", path, *(f"{path}.{each}".rstrip(".") for each in inner))
        if _was_listed(parameter):
            return Written(children=_renamed(parameter, listed_keys(parameter, name)), paths=paths)
        if isinstance(parameter.links[0].module, WeightScale):
            g, v = _weight_norm_parts(parameter)
            return Written(children=[(f"{path}.original0", g), (f"{path}.original1", v)], paths=paths)
        raw, u, v = _spectral_norm_parts(parameter)
        entries = [(f"{path}.original", raw), (f"{path}.0._u", u), (f"{path}.0._v", v)]
        return Written(children=entries, paths=paths)


def _was_hook(parameter: ComputedParameter, format: str) -> bool:
    """Whether it was adopted from the hook that wrote this format."""
    module = parameter.links[0].module
    return len(parameter.links) == 1 and isinstance(module, Unhooked) and module.format == format


def _was_listed(parameter: ComputedParameter) -> bool:
    """Whether it is made of modules alone that ``torch.nn.utils.parametrize`` could list."""
    ours = any(isinstance(link.module, Constraint | Unhooked) for link in parameter.links)
    return not ours and bool(parameter.links[0].roles)


def _renamed(parameter: ComputedParameter, keys: Mapping[str, str]) -> Entries:
    own = parameter.state_dict()
    return [(keys[key], own[key]) for key in own]


def _why_not_weight_norm(parameter: ComputedParameter) -> str | None:
    constraint = parameter.links[0].module
    if len(parameter.links) != 1 or not isinstance(constraint, WeightScale):
        return "it is no weight norm"
    if not bool((lengths(parameter.raws["v"].detach(), constraint.dim) > 0).all()):
        return "a slice of its v is zero, of which torch's weight norm makes NaN"
    return None


def _weight_norm_parts(parameter: ComputedParameter) -> tuple[Tensor, Tensor]:
    constraint = parameter.links[0].module
    assert isinstance(constraint, WeightScale)
    g, v = parameter.raws["g"].detach(), parameter.raws["v"].detach()
    return (g.reshape(()) if constraint.dim is None else g), v


def _why_not_spectral_norm(parameter: ComputedParameter) -> str | None:
    constraint = parameter.links[0].module
    if len(parameter.links) != 1 or not isinstance(constraint, Spectral):
        return "it is no spectral norm"
    return None if constraint.sets_norm(1.0) else "torch's spectral norm sets the norm to one, and nothing else"


def _spectral_norm_parts(parameter: ComputedParameter) -> tuple[Tensor, Tensor, Tensor]:
    constraint = parameter.links[0].module
    assert isinstance(constraint, Spectral)
    raw = parameter.raws["raw"].detach()
    with torch.no_grad():
        u, v = constraint.settled_state(raw.to(constraint.u.dtype))
    return raw, u.to(raw.dtype), v.to(raw.dtype)


FORMATS: Mapping[str, Format] = {
    each.name: each for each in (Plain(), HookedWeightNorm(), HookedSpectralNorm(), Parametrizations())
}
