"""11, second part: how often a weight is evaluated in the graph of a loop that reads it at each step."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import computed
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

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.cell = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """All steps, inside nothing."""
        return self.unrolled(x)

    def unrolled(self, x: Tensor) -> Tensor:
        """All steps."""
        for _ in range(self.steps):
            x = F.linear(x, self.cell.weight)
        return x


class InCached(Loop):
    """Inside torch's own cache."""

    def forward(self, x: Tensor) -> Tensor:
        """All steps."""
        with parametrize.cached():
            return self.unrolled(x)


class InEvaluateOnce(Loop):
    """Inside ours."""

    def forward(self, x: Tensor) -> Tensor:
        """All steps."""
        with computed.evaluate_once():
            return self.unrolled(x)


CELL = Case(lambda: Loop(1), lambda: torch.randn(2, 6), ("cell.weight",), ("cell",))


def operations(library: Library, kind: str | None, loop: nn.Module, *, strict: bool) -> int:
    """Calls in the exported graph of a loop."""
    model = loop
    with asked():
        model = model if kind is None else library.insert(model, CELL, kind)
        program = torch.export.export(model.eval(), (CELL.draw(),), strict=strict)
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    return sum(node.op == "call_function" and node.target not in FRAMES for graph in graphs for node in graph.nodes)


def evaluations(library: Library, kind: str, loop: type[Loop], *, strict: bool) -> int:
    """How many times what one evaluation adds to a plain loop is in the graph of many steps."""
    many, one = (
        operations(library, kind, loop(steps), strict=strict) - operations(library, None, loop(steps), strict=strict)
        for steps in (STEPS, 1)
    )
    return round(many / one)


def measure(library: Library, *, strict: bool) -> Unrolled:
    """The worst of the library's kinds, by its own best means; ours needs one where Dynamo reads the loop alone."""
    kinds = [kind for kind in library.kinds if kind != "adapter"]
    if library is OURS and not strict:
        return Unrolled(evaluations=max(evaluations(library, kind, Loop, strict=strict) for kind in kinds))
    means, called = (
        (InEvaluateOnce, "computed.evaluate_once()") if library is OURS else (InCached, "parametrize.cached()")
    )
    without = grouped((kind, f"{evaluations(library, kind, Loop, strict=strict)} without {called}") for kind in kinds)
    counts = [evaluations(library, kind, means, strict=strict) for kind in kinds]
    return Unrolled(evaluations=max(counts), notes=without)


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
        "The same loop, exported with strict=True: Dynamo reads the code of the model, as it does for torch.compile. "
        "Ours is inside computed.evaluate_once() here.",
        "one evaluation in the graph",
        "tests/life/test_ranked.py::test_11_a_loop_that_dynamo_reads",
        by(partial(measure, strict=True), OURS, TORCH, GEOTORCH),
        part="c",
    ),
)
