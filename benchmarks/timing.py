"""Interleaved timing: all candidates by turns in one process, so that what disturbs one disturbs all.

What runs on one thread is timed by that thread's CPU clock, which stands still while another process has the core;
what runs on several by the wall clock.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import torch

Candidates = Mapping[str, Callable[[], object]]
Clock = Callable[[], float]

WARM_UP = 3  # calls of each candidate before the first that counts


@dataclass(frozen=True)
class Samples:
    """Seconds a call for each candidate, one entry a round; entries at one position were taken side by side."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """The median of a candidate, in seconds."""
        return median(self.seconds[name])

    def quartiles(self, name: str) -> tuple[float, float, float]:
        """First quartile, median and third quartile of a candidate, in seconds."""
        first, second, third = quantiles(self.seconds[name], n=4, method="inclusive")
        return first, second, third

    def excess(self, name: str, base: str) -> float:
        """The median over the rounds of how much longer ``name`` took than ``base``, in seconds."""
        return median(ours - theirs for ours, theirs in self._pairs(name, base))

    def ratios(self, name: str, base: str) -> tuple[float, float, float]:
        """Quartiles over the rounds of how many times as long ``name`` took as ``base``."""
        first, second, third = quantiles(
            [ours / theirs for ours, theirs in self._pairs(name, base)], n=4, method="inclusive"
        )
        return first, second, third

    def _pairs(self, name: str, base: str) -> zip[tuple[float, float]]:
        return zip(self.seconds[name], self.seconds[base], strict=True)


def interleaved(
    candidates: Candidates, *, rounds: int, calls: int, clock: Clock = time.thread_time, shuffled: bool = False
) -> Samples:
    """Time ``calls`` calls of each candidate in turn, ``rounds`` times.

    Each round begins with another one; where they are ``shuffled``, it goes through them in an order of its own.
    """
    order = random.Random(0)
    names = list(candidates)
    for call in candidates.values():
        for _ in range(WARM_UP):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()  # what was left behind is nobody's; the collector stays on, as it is where models are used
    for turn in range(rounds):
        shift = turn % len(names)
        turns = order.sample(names, len(names)) if shuffled else names[shift:] + names[:shift]
        for name in turns:
            seconds[name].append(_timed(candidates[name], calls, clock))
    return Samples(seconds)


def _timed(call: Callable[[], object], calls: int, clock: Clock) -> float:
    repeated = range(calls)
    start = clock()
    for _ in repeated:
        call()
    return (clock() - start) / calls


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: names to the left, figures to the right."""
    widths = [max(len(line[column]) for line in (heads, *rows)) for column in range(len(heads))]
    ruler = [("-" * width if column == 0 else "-" * (width - 1) + ":") for column, width in enumerate(widths)]
    lines = [_line(heads, widths), f"| {' | '.join(ruler)} |", *(_line(row, widths) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def machine() -> str:
    """Date, versions and machine, as they stand beside figures; the load tells how quiet it was."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    return f"{datetime.now(UTC):%Y-%m-%d}, {versions}, {processor()}, {os.cpu_count()} cores, {load}"


def units(device: str = "cpu") -> str:
    """What the machine takes for the least call, and what it copies and multiplies: other machines have other figures.

    On one thread, the best of some runs; a call by the wall clock, since on an accelerator it is a launch.
    """
    few, many, square = (torch.ones(size, device=device) for size in ((8,), (1 << 24,), (1024, 1024)))
    target = torch.empty_like(many)
    call = _best(lambda: few + few, 2000, device)
    copied = 2 * many.numel() * many.element_size() / _best(lambda: target.copy_(many), 5, device)
    multiplied = 2 * square.shape[0] ** 3 / _best(lambda: square @ square, 5, device)
    rates = f"copies {copied / 1e9:.0f} GB/s, products {multiplied / 1e9:.0f} GFLOP/s"
    return f"an addition of 8 numbers {1e6 * call:.1f} us, {rates}"


def _best(call: Callable[[], object], calls: int, device: str) -> float:
    found = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if device != "cpu":
            torch.accelerator.synchronize()
        found.append((time.perf_counter() - start) / calls)
    return min(found)


def processor() -> str:
    """What the machine calls its processor."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
