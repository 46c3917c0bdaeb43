"""The four libraries: how each constrains the weights of a case, takes that back, and makes it plain."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from torch import nn
from torch.nn.utils import parametrizations, parametrize

import surgery
from benchmarks.peers.models import Case, host_of

SPECS = {"spectral": "spectral", "orthogonal": "orthogonal", "weight norm": "weight_norm", "adapter": "lora(2)"}
NORMS = {
    "spectral": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight norm": parametrizations.weight_norm,
}


@dataclass(frozen=True)
class Library:
    """A library by its own best means; ``kinds`` are what it can make of a weight, the first one its usual."""

    name: str
    package: str
    distribution: str
    kinds: tuple[str, ...]
    insert: Callable[[nn.Module, Case, str], nn.Module]
    undo: Callable[[nn.Module, Case], nn.Module]
    bake: Callable[[nn.Module, Case], nn.Module]

    def installed(self) -> bool:
        """Whether it can be asked."""
        return importlib.util.find_spec(self.package) is not None

    def told(self) -> str:
        """What is installed of it."""
        return f"{self.distribution} {version(self.distribution)}"


def constrain(model: nn.Module, case: Case, kind: str) -> nn.Module:
    """By rules."""
    return surgery.apply_constraints(model, dict.fromkeys(case.weights, SPECS[kind]))


def taken_back(model: nn.Module, case: Case) -> nn.Module:
    """By undo."""
    return surgery.undo(model)


def baked(model: nn.Module, case: Case) -> nn.Module:
    """By bake."""
    return surgery.bake(model)


def parametrized(model: nn.Module, case: Case, kind: str) -> nn.Module:
    """By torch's own parametrizations."""
    for name in case.weights:
        host, attribute = host_of(model, name)
        NORMS[kind](host, attribute)
    return model


def geotorched(model: nn.Module, case: Case, kind: str) -> nn.Module:
    """By GeoTorch's orthogonal matrices."""
    import geotorch

    for name in case.weights:
        host, attribute = host_of(model, name)
        geotorch.orthogonal(host, attribute)
    return model


def removed(model: nn.Module, case: Case, *, keep_value: bool) -> nn.Module:
    """By torch's remove_parametrizations, which GeoTorch uses too."""
    for name in case.weights:
        host, attribute = host_of(model, name)
        if parametrize.is_parametrized(host, attribute):
            parametrize.remove_parametrizations(host, attribute, leave_parametrized=keep_value)
    return model


def adapted(model: nn.Module, case: Case, kind: str) -> nn.Module:
    """By LoRA: of modules where PEFT has a layer for them, else of parameters."""
    import peft

    targets = {"target_modules": list(case.modules)} if case.modules else {"target_parameters": list(case.weights)}
    return peft.get_peft_model(model, peft.LoraConfig(r=2, init_lora_weights=True, **targets))


def unloaded(model: nn.Module, case: Case) -> nn.Module:
    """By PEFT's unload."""
    return model.unload()


def merged(model: nn.Module, case: Case) -> nn.Module:
    """By PEFT's merge_and_unload; what it gave is no PEFT model any more."""
    import peft

    return model.merge_and_unload() if isinstance(model, peft.PeftModel) else model


OURS = Library("computed-surgery", "surgery", "computed-surgery", tuple(SPECS), constrain, taken_back, baked)
TORCH = Library(
    "torch parametrize",
    "torch",
    "torch",
    tuple(NORMS),
    parametrized,
    partial(removed, keep_value=False),
    partial(removed, keep_value=True),
)
GEOTORCH = Library("GeoTorch", "geotorch", "geotorch", ("orthogonal",), geotorched, TORCH.undo, TORCH.bake)
PEFT = Library("PEFT", "peft", "peft", ("adapter",), adapted, unloaded, merged)
LIBRARIES = (OURS, TORCH, GEOTORCH, PEFT)
