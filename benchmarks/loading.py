"""What surgery itself takes: plan, apply and bake on models of many small parameters, and imports.

Blocks of two Linear(8, 8) and a LayerNorm; every matrix gets the constraint. What the constraints themselves take is
measured alone: ``projections`` is the right inverse and the value of each weight, once, with its largest singular
values before and after, which plans show; ``values`` is what a bake evaluates. What is beyond these is ours.

Imports are timed in processes of their own, after `import torch`, from the bytecode that an earlier process has left:
the facades, which load what is used, and the whole.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

import surgery
from benchmarks.timing import machine, table, units
from computed.parameter import ComputedParameter
from computed.preparing import Prepared, assemble, prepare
from computed.resolving import resolve
from computed.site import free_site
from surgery.measuring import measure

SIZES = (1_000, 10_000)
SPECS = ("symmetric", "spectral")
IMPORTS = {
    "import computed, surgery": "import computed, surgery",
    "and use them": "import computed, surgery; surgery.plan, surgery.bake, computed.ComputedParameter",
}


class Block(nn.Module):
    """Two matrices and a normalisation: six parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)


def model_of(parameters: int) -> nn.Module:
    """A model of about so many parameters."""
    return nn.Sequential(*[Block() for _ in range(parameters // 6)])


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Add how long the block takes, in seconds."""
    gc.collect()  # what others have left behind is not its own
    start = time.perf_counter()
    yield
    times.append(time.perf_counter() - start)


def projections(model: nn.Module, spec: str) -> list[Prepared]:
    """What the constraints compute for a plan."""
    found = []
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            site = free_site(weight, name)
            found.append(prepare(weight.detach(), resolve(spec, site), site, project=True))
            measure(weight.detach(), found[-1])
    return found


@torch.no_grad()
def values(parameters: list[ComputedParameter]) -> None:
    """What the constraints compute for a bake."""
    for parameter in parameters:
        parameter.evaluated(training=False)


def measured(parameters: int, spec: str, rounds: int = 3) -> list[str]:
    """A row: seconds of each part, the median of some rounds."""
    parts: dict[str, list[float]] = {"projections": [], "values": [], "plan": [], "apply": [], "bake": []}
    for _ in range(rounds):
        model = model_of(parameters)
        with timed(parts["projections"]):
            prepared = projections(model, spec)
        made = [assemble(nn.Parameter(torch.zeros(8, 8)), each) for each in prepared]
        with timed(parts["values"]):
            values(made)
        del prepared, made
        with timed(parts["plan"]):
            planned = surgery.plan(model, {"*@Linear.weight": spec})
        with timed(parts["apply"]):
            planned.apply()
        with timed(parts["bake"]):
            surgery.bake(model)
    seconds = {name: statistics.median(times) for name, times in parts.items()}
    ours = seconds["plan"] + seconds["apply"] + seconds["bake"]
    beyond = ours - seconds["projections"] - seconds["values"]
    return [f"{parameters:,}, {spec}", *[f"{seconds[name]:.2f}" for name in parts], f"{beyond:.2f}"]


def import_seconds(code: str, rounds: int = 5) -> float:
    """How much longer a process with torch takes with ``code`` as well: the median."""
    program = f"import time, torch; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
    command = [sys.executable, "-c", program]
    with tempfile.TemporaryDirectory() as bytecode:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        kept["PYTHONPYCACHEPREFIX"] = bytecode
        subprocess.run(command, capture_output=True, check=True, env=kept)
        runs = [subprocess.run(command, capture_output=True, text=True, check=True, env=kept) for _ in range(rounds)]
    return statistics.median([float(run.stdout) for run in runs])


def main(sizes: tuple[int, ...] = SIZES) -> None:
    """Print both tables."""
    torch.manual_seed(0)
    print(f"{machine()}; {units()}.\n")
    rows = [measured(size, spec) for size in sizes for spec in SPECS]
    print(table(("s, parameters", "projections", "values", "plan", "apply", "bake", "beyond"), rows))
    imports = [(name, f"{import_seconds(code):.3f}") for name, code in IMPORTS.items()]
    print("\n" + table(("after import torch", "s"), imports))


if __name__ == "__main__":
    main()
