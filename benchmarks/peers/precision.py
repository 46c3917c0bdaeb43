"""14: constraints of models in low precision, and under autocast."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import surgery
from benchmarks.peers.libraries import GEOTORCH, OURS, PEFT, TORCH, Library
from benchmarks.peers.models import PERCEPTRON
from benchmarks.peers.observing import LibraryError, Measure, Probe, asked, by, grouped, small
from benchmarks.peers.sets import SETS

WIDTH = 16
BEFORE_ROUNDING = 1e-5
WAYS = {"bfloat16": torch.bfloat16, "half": torch.float16, "autocast": torch.float32}
Insert = Callable[[nn.Linear], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Kept(Measure):
    """How many constraints raise, and the largest error of the others, as a multiple of what is allowed."""

    raising: int
    tried: int
    excess: float

    def right(self) -> bool:
        """None, and no more than is allowed."""
        return self.raising == 0 and self.excess <= 1

    def fact(self) -> str:
        """The figures."""
        return f"{self.raising} of {self.tried} raise, {small(self.excess)} x allowed"


def geotorched(name: str, layer: nn.Linear) -> nn.Module:
    """By a function of GeoTorch."""
    import geotorch

    getattr(geotorch, name)(layer, "weight")
    return layer


def adapted(layer: nn.Linear) -> nn.Module:
    """By LoRA."""
    return PEFT.insert(nn.Sequential(layer, nn.Tanh(), nn.Linear(WIDTH, 6)), PERCEPTRON, "adapter").get_base_model()[0]


def built_in(library: Library) -> Mapping[str, tuple[str, Insert]]:
    """What a library has, as the set that it promises, and how it is put into a layer."""
    if library is OURS:
        return {spec: (spec, partial(surgery.constrain, weight=spec)) for spec in SETS}
    if library is TORCH:
        maps = ("matrix_exp", "cayley", "householder")
        return {
            "spectral": ("spectral", parametrizations.spectral_norm),
            "weight norm": ("weight_norm", parametrizations.weight_norm),
            **{name: ("orthogonal", partial(parametrizations.orthogonal, orthogonal_map=name)) for name in maps},
        }
    if library is GEOTORCH:
        names = {"orthogonal": "orthogonal", "symmetric": "symmetric", "skew": "skew", "sphere": "unit_norm"}
        return {name: (promised, partial(geotorched, name)) for name, promised in names.items()}
    return {"adapter": ("lora(2)", adapted)}


def value(insert: Insert, way: str) -> Tensor:
    """The weight of a layer that has run forward and backward in train mode, in eval."""
    layer: Any = insert(nn.Linear(WIDTH, WIDTH))
    dtype = WAYS[way]
    layer = layer.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        layer.train()(torch.randn(4, WIDTH, dtype=dtype)).float().sum().backward()
        with torch.no_grad():
            layer.eval()(torch.randn(4, WIDTH, dtype=dtype))
            return layer.weight.detach().clone()


def measure(library: Library) -> Kept:
    """Each constraint in each way."""
    raising, excess, notes = 0, 0.0, []
    found = list(itertools.product(built_in(library).items(), WAYS.items()))
    for (name, (promised, insert)), (way, dtype) in found:
        try:
            with asked():
                weight = value(insert, way)
        except LibraryError as error:
            raising += 1
            notes.append((f"{name} ({way})", str(error)))
            continue
        rounding = float(torch.finfo(dtype).eps) / 2 if way != "autocast" else 0.0
        times = SETS[promised](weight.double().numpy()) / (BEFORE_ROUNDING + rounding)
        excess = max(excess, times)
        notes += [(f"{name} ({way})", f"{small(times)} x allowed")] if times > 1 else []
    return Kept(raising=raising, tried=len(found), excess=excess, notes=grouped(notes))


PROBE = Probe(
    14,
    "Low precision",
    f"Every constraint of each library (four of GeoTorch's) on a Linear({WIDTH}, {WIDTH}) in bfloat16, in half, and in "
    "float32 under autocast; forward, backward, then the error of the weight in eval, by NumPy in float64.",
    "none raises, and no weight is further from its set than 1e-5 before it is rounded to its dtype",
    "tests/life/test_ranked.py::test_14_low_precision",
    by(measure, OURS, TORCH, GEOTORCH, PEFT),
)
