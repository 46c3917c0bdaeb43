"""How torch's own norms and masks are written in state dicts, and the value that they mean.

Hooks write ``weight_g``, ``weight_v`` (weight norm), ``weight_orig``, ``weight_u``, ``weight_v`` (spectral norm) and
``weight_orig``, ``weight_mask`` (pruning) beside the host's other parameters; parametrizations write
``parametrizations.weight.original...``: https://pytorch.org/docs/stable/nn.html#utilities
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from computed.constraints.norms import WeightScale
from computed.constraints.spectral import Spectral
from computed.linalg import as_matrix
from computed.parameter import ComputedParameter

HOOKS = {
    "weight norm": {"g": "_g", "v": "_v"},
    "spectral norm": {"original": "_orig", "u": "_u", "v": "_v"},
    "mask": {"original": "_orig", "mask": "_mask"},
}
PARAMETRIZED = {
    "weight norm": {"g": "original0", "v": "original1"},
    "spectral norm": {"original": "original", "u": "0._u", "v": "0._v"},
    "orthogonal": {"original": "original", "base": "0.base"},
}


@dataclass(frozen=True, eq=False)
class Foreign:
    """One parameter as a state dict of torch's own norms has it: its parts by role, and their keys."""

    kind: str
    parts: Mapping[str, Tensor]
    keys: tuple[str, ...]


def foreign_entry(state_dict: Mapping[str, object], host: nn.Module, prefix: str, name: str) -> Foreign | None:
    """What ``state_dict`` has for the parameter ``name`` of ``host`` in one of torch's formats; None for nothing."""
    for kind, keys in _layouts(prefix, name):
        parts = {role: state_dict.get(key) for role, key in keys.items()}
        taken = any(key[len(prefix) :] in (*host._parameters, *host._buffers) for key in keys.values())
        if not taken and all(isinstance(part, Tensor) for part in parts.values()):
            found = {role: part for role, part in parts.items() if isinstance(part, Tensor)}
            return Foreign(kind, found, tuple(keys.values()))
    return None


def _layouts(prefix: str, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    for kind, suffixes in HOOKS.items():
        yield kind, {role: f"{prefix}{name}{suffix}" for role, suffix in suffixes.items()}
    for kind, places in PARAMETRIZED.items():
        yield kind, {role: f"{prefix}parametrizations.{name}.{place}" for role, place in places.items()}


def shape_of(foreign: Foreign) -> torch.Size:
    """The shape of the value."""
    return foreign.parts["v" if foreign.kind == "weight norm" else "original"].shape


def raws_of(foreign: Foreign, parameter: ComputedParameter) -> dict[str, Tensor] | None:
    """The parts by the keys of ``parameter`` where they mean the same there, bit for bit; None where only a value can.

    So for weight norm along the same dimension, and for a spectral norm that is set to one.
    """
    if len(parameter.links) != 1:
        return None
    constraint = parameter.links[0].module
    shapes = {raw.name: raw.tensor.shape for raw in parameter.raw_slots()}
    if foreign.kind == "weight norm" and isinstance(constraint, WeightScale):
        g = foreign.parts["g"]
        if (g.dim() and g.shape != shapes["g"]) or g.numel() != shapes["g"].numel():
            return None
        return {"v": foreign.parts["v"], "g": g.reshape(shapes["g"])}
    if foreign.kind == "spectral norm" and isinstance(constraint, Spectral) and constraint.sets_norm(1.0):
        state = {f"constraints.0.{name}": foreign.parts[name] for name in constraint.state_names}
        if all(part.shape == old.shape for part, old in zip(state.values(), constraint.state(), strict=True)):
            return {"raw": foreign.parts["original"], **state}
    return None


def value_of(foreign: Foreign, dim: int) -> Tensor:
    """The value that the parts mean; ``dim`` is where the host's rows run."""
    parts = {role: part.detach() for role, part in foreign.parts.items()}
    if foreign.kind == "weight norm":
        return _normed(parts["v"], parts["g"])
    if foreign.kind == "spectral norm":
        return _divided(parts["original"], parts["u"], parts["v"], dim)
    if foreign.kind == "mask":
        return parts["original"] * parts["mask"]
    return _orthogonal(parts["original"], parts["base"])


def _normed(v: Tensor, g: Tensor) -> Tensor:
    """``g v / |v|``, with lengths over all dimensions in which ``g`` has size one."""
    exact = v.double()
    dims = [dim for dim in range(v.dim()) if g.dim() == 0 or g.shape[dim] == 1]
    length = torch.linalg.vector_norm(exact, dim=dims, keepdim=True) if dims else exact.abs()
    return (exact * (g.double() / length)).to(v.dtype)


def _divided(original: Tensor, u: Tensor, v: Tensor, dim: int) -> Tensor:
    """``W / (uᵀ W v)``, with rows along ``dim`` where that fits ``u``, else along the first dimension that does."""
    rows = next(each for each in (dim, *range(original.dim())) if original.shape[each] == u.numel())
    matrix = as_matrix(original, rows).double()
    return (original.double() / torch.dot(u.double(), torch.mv(matrix, v.double()))).to(original.dtype)


def _orthogonal(original: Tensor, base: Tensor) -> Tensor:
    """As torch's own module computes it, by the map that it takes where none is named."""
    host = nn.Module()
    host.weight = nn.Parameter(torch.eye(*original.shape[-2:]).expand(original.shape).clone().to(original.dtype))
    with torch.random.fork_rng(devices=[]):
        parametrizations.orthogonal(host)
    warnings.warn(
        "a checkpoint of torch's orthogonal parametrization does not say with which orthogonal_map it was made; it is "
        "read with the default one",
        UserWarning,
        stacklevel=2,
    )
    host.load_state_dict({"parametrizations.weight.original": original, "parametrizations.weight.0.base": base})
    with torch.no_grad():
        value: Tensor = host.weight
    return value.detach()
