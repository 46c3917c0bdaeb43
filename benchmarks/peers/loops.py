"""11, second part: how often a weight is evaluated in the graph of a loop that reads it at each step."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from benchmarks.peers.libraries import GEOTORCH, OURS, TORCH, Library
from benchmarks.peers.models import Case
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, plural

STEPS = 100
# what a context in the model adds around the operations in it
FRAMES = frozenset((torch.ops.higher_order.wrap_with_autocast, operator.getitem))


@dataclass(frozen=True, kw_only=True)
class Unrolled(Measure):
    """Evaluations in the graph."""

    evaluations: int

    def right(self) -> bool:
        """One."""
        return self.evaluations == 1

    def fact(self) -> str:
        """The count."""
        return plural(self.evaluations, "evaluation")


class Loop(nn.Module):
    """A recurrent step, many times."""

    def __init__(self, steps: int, *, cached: bool) -> None:
        super().__init__()
        self.steps = steps
        self.cached = cached
        self.cell = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """All steps, inside torch's own cache or without."""
        if not self.cached:
            return self.unrolled(x)
        with parametrize.cached():
            return self.unrolled(x)

    def unrolled(self, x: Tensor) -> Tensor:
        """All steps."""
        for _ in range(self.steps):
            x = F.linear(x, self.cell.weight)
        return x


CELL = Case(lambda: Loop(1, cached=False), lambda: torch.randn(2, 6), ("cell.weight",), ("cell",))


def operations(library: Library, kind: str | None, steps: int, *, cached: bool, strict: bool) -> int:
    """Calls in the exported graph of a loop."""
    model: nn.Module = Loop(steps, cached=cached)
    with asked():
        model = model if kind is None else library.insert(model, CELL, kind)
        program = torch.export.export(model.eval(), (CELL.draw(),), strict=strict)
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    return sum(node.op == "call_function" and node.target not in FRAMES for graph in graphs for node in graph.nodes)


def evaluations(library: Library, kind: str, *, cached: bool, strict: bool) -> int:
    """How many times what one evaluation adds to a plain loop is in the graph of many steps."""
    many, one = (
        operations(library, kind, steps, cached=cached, strict=strict)
        - operations(library, None, steps, cached=cached, strict=strict)
        for steps in (STEPS, 1)
    )
    return round(many / one)


def measure(library: Library, *, strict: bool) -> Unrolled:
    """The worst of the library's kinds, by its own best means."""
    kinds = [kind for kind in library.kinds if kind != "adapter"]
    uncached = {kind: evaluations(library, kind, cached=False, strict=strict) for kind in kinds}
    if library is OURS:
        return Unrolled(evaluations=max(uncached.values()))
    notes = grouped((kind, f"{count} without parametrize.cached()") for kind, count in uncached.items())
    cached = [evaluations(library, kind, cached=True, strict=strict) for kind in kinds]
    return Unrolled(evaluations=max(cached), notes=notes)


PROBES = (
    Probe(
        11,
        "A loop evaluates once",
        f"A loop of {STEPS} steps that reads one weight at each is exported in eval, torch's and GeoTorch's inside "
        "parametrize.cached(). What one evaluation adds to the graph is counted. PEFT multiplies with its factors at "
        "each step and evaluates no weight.",
        "one evaluation in the graph",
        "tests/life/test_ranked.py::test_11_a_loop_evaluates_once",
        by(partial(measure, strict=False), OURS, TORCH, GEOTORCH),
        part="b",
    ),
    Probe(
        11,
        "Also where Dynamo reads it",
        "The same loop, exported with strict=True: Dynamo reads the code of the model, as it does for torch.compile.",
        "one evaluation in the graph",
        "tests/life/test_ranked.py::test_11_a_loop_that_dynamo_reads",
        by(partial(measure, strict=True), OURS, TORCH, GEOTORCH),
        part="c",
    ),
)
