"""12: what is in an exported graph."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.models import Case, train
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, refusal

CASE = Case(
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)),
    lambda: torch.randn(4, 3, 6, 6),
    ("0.weight", "3.weight"),
    ("0", "3"),
)


@dataclass(frozen=True, kw_only=True)
class Exported(Measure):
    """What a baked model's graph has more than a plain one's; and buffers that training writes, and lists."""

    extra: int
    listed: int
    written: int

    def right(self) -> bool:
        """Nothing, and all."""
        return self.extra == 0 and self.listed == self.written

    def fact(self) -> str:
        """The counts."""
        return f"{self.extra} extra nodes, {self.listed} of {self.written} listed"


def listed(program: ExportedProgram) -> set[str]:
    """The buffers that a program says it writes."""
    specs = program.graph_signature.output_specs
    return {str(spec.target) for spec in specs if spec.kind is OutputKind.BUFFER_MUTATION}


def written(program: ExportedProgram, inputs: Tensor) -> set[str]:
    """The buffers that are others after a run."""
    module = program.module()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module(inputs)
    return {name for name, buffer in module.named_buffers() if not buffer.equal(before[name])}


def nodes(model: nn.Module, inputs: Tensor) -> int:
    """How many there are in the graph of eval."""
    return len(torch.export.export(model.eval(), (inputs,)).graph.nodes)


def measure_kind(library: Library, kind: str) -> tuple[int, set[str], set[str], str | None]:
    """Extra nodes, buffers that are listed and that are written, and how the original fares when a copy is baked."""
    inputs = CASE.draw()
    with asked():
        model = train(library.insert(CASE.build(), CASE, kind), inputs, steps=2)
        program = torch.export.export(copy.deepcopy(model), (inputs,)).run_decompositions({})
        told, changed = listed(program), written(program, inputs)
        plain = library.bake(copy.deepcopy(model), CASE)
    extra = nodes(plain, inputs) - nodes(CASE.build(), inputs)
    return extra, told, changed, refusal(lambda: model(inputs))


def measure(library: Library) -> Exported:
    """The most extra nodes; buffers of all kinds."""
    extra, told, changed = 0, 0, 0
    notes: list[tuple[str, str]] = []
    for kind in library.kinds:
        more, names, really, raised = measure_kind(library, kind)
        extra, told, changed = max(extra, more), told + len(names & really), changed + len(really)
        notes += [(kind, f"the original raises after a copy of it was baked: {raised}")] if raised else []
    return Exported(extra=extra, listed=told, written=changed, notes=grouped(notes))


PROBE = Probe(
    12,
    "Exports say what they do",
    "A model with batch normalisation: the eval graph of a baked copy is counted against the plain model's; a train "
    "mode export, after run_decompositions({}), is run, and buffers that change are compared with those it lists.",
    "no node more, and each buffer that is written is listed",
    "tests/life/test_ranked.py::test_12_exports",
    by(measure, *LIBRARIES),
)
