"""Whole networks with the largest singular value of every weight set to one, beside the plain network.

Candidates take turns in one process, in random order within each round. One thread is timed by its CPU clock, two by
the wall clock. A figure is how many times as long as the plain network: of the first quartiles, of the medians, and of
the shortest samples. A quarter, since what disturbs a machine only makes longer; all three, since they tell each other.

``torch parametrize`` is `torch.nn.utils.parametrizations.spectral_norm`, ``cached()`` the same inside
`parametrize.cached()` for each step, ``hooks`` the older `torch.nn.utils.spectral_norm`.

In a step of ResNet-18 at batch 8 a scaled weight is made for 2 % of the constrained weights, the small ones; of all
others the input or output is scaled.

On the twelve small layers every figure is one of calls, not of arithmetic. What ours adds to a step there is, in
eighteenths: four for the power steps of all at once, two and a half for their derivative, three for snapshots and
addresses that show a write by anybody, one for the node in the graph, three and a half for what happens before the
optimizer steps (states are committed, snapshots let go), four for twelve reads and the bookkeeping of a value each.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.timing import Samples, interleaved, machine, table, units
from benchmarks.variants import PLAIN
from benchmarks.workloads import Workload, workloads

RESULTS = Path(__file__).parent / "results"


def measure(workload: Workload, rounds: int | None = None) -> Samples:
    """Time the candidates of a workload; each has a model of its own."""
    torch.set_num_threads(workload.threads)
    clock = time.thread_time if workload.threads == 1 else time.perf_counter
    samples = interleaved(
        workload.make(), rounds=rounds or workload.rounds, calls=workload.calls, clock=clock, shuffled=True
    )
    gc.collect()
    return samples


def figures(samples: Samples) -> dict[str, dict[str, float]]:
    """First quartile, median and least of each candidate in milliseconds, and their ratios to the plain one."""
    found = {}
    for name in samples.seconds:
        ours, plain = _three(samples, name), _three(samples, PLAIN)
        found[name] = {f"{kind} ms": 1e3 * value for kind, value in ours.items()}
        found[name] |= {f"{kind} ratio": value / plain[kind] for kind, value in ours.items()}
    return found


def _three(samples: Samples, name: str) -> dict[str, float]:
    first, median, _ = samples.quartiles(name)
    return {"quarter": first, "median": median, "least": min(samples.seconds[name])}


def row(workload: Workload, found: dict[str, dict[str, float]]) -> list[str]:
    """A line of the table."""
    threads = f", {workload.threads} threads" if workload.threads > 1 else ""
    kinds = ("quarter", "median", "least")
    others = [each for name, each in found.items() if name != PLAIN]
    ratios = [" / ".join(f"{each[f'{kind} ratio']:.2f}" for kind in kinds) for each in others]
    return [workload.title + threads, f"{found[PLAIN]['quarter ms']:.2f}", *ratios]


def main(wanted: str = "", rounds: int | None = None) -> None:
    """Print a table of all workloads whose title contains ``wanted``, and keep the figures as JSON."""
    where = machine()
    torch.set_num_threads(1)
    print(f"{where}; on one thread {units()}.\n")
    kept = []
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for workload in workloads():
        if wanted not in workload.title:
            continue
        found = figures(measure(workload, rounds))
        kept.append({"workload": workload.title, "threads": workload.threads, "figures": found})
        tables.setdefault(tuple(name for name in found if name != PLAIN), []).append(row(workload, found))
        print(f"({workload.title}: done)", file=sys.stderr, flush=True)
    for names, lines in tables.items():
        print(table(("times plain: 25 % / median / least", "plain, ms", *names), lines) + "\n")
    if not wanted and rounds is None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{where[:10]}.json").write_text(json.dumps({"machine": where, "results": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
