"""11, first part: how often a compiler starts anew for blocks that are alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.models import Case
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, plural, refusal

BLOCKS = 24


@dataclass(frozen=True, kw_only=True)
class Compiled(Measure):
    """How many graphs all blocks took, and whether that ended in an error."""

    compiles: int
    stopped: bool

    def right(self) -> bool:
        """One."""
        return self.compiles == 1 and not self.stopped

    def fact(self) -> str:
        """The count."""
        return plural(self.compiles, "compile") + ", then an error" * self.stopped


class Block(nn.Module):
    """Two layers beside what goes past them."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 6)
        self.down = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """The input, and what the layers make of it."""
        return x + self.down(torch.relu(self.up(x)))


BLOCK = Case(Block, lambda: torch.randn(2, 6), ("up.weight", "down.weight"), ("up", "down"))


def compiles(library: Library, kind: str) -> tuple[int, str | None]:
    """Graphs for all blocks through one compiled function, and what it raised."""
    torch.compiler.reset()
    with asked():
        blocks = [library.insert(BLOCK.build(), BLOCK, kind) for _ in range(BLOCKS)]
    counter, inputs = CompileCounter(), BLOCK.draw()

    def run(block: nn.Module, x: Tensor) -> Tensor:
        return block(x)

    compiled = torch.compile(run, fullgraph=True, backend=counter)
    raised = refusal(lambda: [compiled(block, inputs) for block in blocks])
    return counter.frame_count, raised


def measure(library: Library) -> Compiled:
    """The worst of the library's kinds."""
    found = {kind: compiles(library, kind) for kind in library.kinds}
    return Compiled(
        compiles=max(count for count, _ in found.values()),
        stopped=any(raised for _, raised in found.values()),
        notes=grouped((kind, f"raises {raised}") for kind, (_, raised) in found.items() if raised),
    )


PROBE = Probe(
    11,
    "Blocks compile once",
    f"{BLOCKS} constrained blocks run through one function under torch.compile(fullgraph=True), in train mode; the "
    "worst kind counts.",
    "one compile, as for plain blocks",
    "tests/life/test_ranked.py::test_11_blocks_compile_once",
    by(measure, *LIBRARIES),
    part="a",
)
