"""4: what becomes of a value that is written to a constrained weight."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.peers.libraries import LIBRARIES, PEFT, Library
from benchmarks.peers.models import PERCEPTRON, in_eval
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, refusal


def assign_data(layer: Any) -> None:
    """Another tensor as ``weight.data``."""
    layer.weight.data = torch.randn(6, 6)


WRITES: dict[str, Callable[[Any], object]] = {
    "nn.init.normal_(weight)": lambda layer: nn.init.normal_(layer.weight),
    "weight.copy_(t)": lambda layer: layer.weight.copy_(torch.randn(6, 6)),
    "weight.data.normal_()": lambda layer: layer.weight.data.normal_(),
    "weight.data = t": assign_data,
    "reset_parameters()": lambda layer: layer.reset_parameters(),
}


@dataclass(frozen=True, kw_only=True)
class Written(Measure):
    """How many writes changed nothing and raised nothing."""

    silent: int
    tried: int

    def right(self) -> bool:
        """None."""
        return self.silent == 0

    def fact(self) -> str:
        """The counts."""
        return f"{self.silent} of {self.tried} lost in silence"


def is_silent(library: Library, kind: str, write: Callable[[Any], object]) -> tuple[bool, str | None]:
    """Whether a layer computes the same after a write that raised nothing; and what was raised."""
    with asked():
        model = library.insert(PERCEPTRON.build(), PERCEPTRON, kind).eval()
    layer = model.get_base_model()[0] if library is PEFT else model[0]
    before = in_eval(layer, torch.eye(6))
    with torch.no_grad():
        raised = refusal(lambda: write(layer))
    return raised is None and in_eval(layer, torch.eye(6)).equal(before), raised


def measure(library: Library) -> Written:
    """Each way to write, for each kind of constraint."""
    tried = list(itertools.product(WRITES, library.kinds))
    found = {(name, kind): is_silent(library, kind, WRITES[name]) for name, kind in tried}
    lost = {name: [kind for kind in library.kinds if found[name, kind][0]] for name in WRITES}
    notes = [(name, f"lost under {', '.join(kinds)}") for name, kinds in lost.items() if kinds]
    notes += [(name, f"raises {raised}") for (name, _), (_, raised) in found.items() if raised]
    return Written(silent=sum(map(len, lost.values())), tried=len(tried), notes=grouped(notes))


PROBE = Probe(
    4,
    "No write is lost",
    "A constrained weight is written without gradients in five ways: by nn.init, copy_, .data.normal_, a new .data, "
    "and the layer's reset_parameters; for each kind of constraint.",
    "after each the layer computes something else, or the write raised",
    "tests/life/test_ranked.py::test_04_no_silent_writes",
    by(measure, *LIBRARIES),
)
