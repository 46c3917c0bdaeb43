"""What rewriting a source file takes, in units of LibCST's ``parse_module`` on the same file.

The files are the modeling_*.py of transformers. For each rule four kinds are told apart: those that its filter rejects
by their bytes, those that pass it and have nothing that it matches, those that it matches and that are left, with the
reason, and those that are changed. Figures are sums over files: CPU time of one thread, the least of three runs; the
first kind in milliseconds a file, the others over the time that LibCST takes to parse the same files in the same run.
The results are read again as Python, as always; what is written is rewritten a second time before, which is not in
these figures. The last row is of all rules together.

The last lines give files per second of the whole command, with one process and with two.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import libcst
import transformers

from benchmarks.timing import machine, table
from rewrite.prefilter import Prefilter
from rewrite.rewriting import ruleset
from rewrite.running import Asked, Read, alone

RULES = (
    *("*.conv*.weight", "*.query.weight", "*@Linear.weight", "*.{q,v}_proj.weight", "*@{Conv1d,Conv2d}.weight"),
    "*.out_proj.weight",
)
SPEC = "spectral"
RUNS = 3
EVERY = 8  # the files are many and much alike


def least(act: Callable[[], object]) -> float:
    """Seconds of CPU time, the least of some runs."""
    times = []
    for _ in range(RUNS):
        begin = time.process_time()
        act()
        times.append(time.process_time() - begin)
    return min(times)


def sources(every: int) -> list[Read]:
    """Files of transformers, each so many-th."""
    folder = Path(transformers.__file__).parent / "models"
    files = sorted(folder.glob("*/modeling_*.py"))[::every]
    return [Read(str(file), file.read_bytes(), f"transformers.models.{file.parent.name}.{file.stem}") for file in files]


@dataclass
class Figures:
    """Seconds for the files of each kind: of those that are read, ours and those of LibCST."""

    rejected: list[float]
    spent: dict[str, list[tuple[float, float]]]

    def row(self, name: str) -> list[str]:
        """A row of the table."""
        count = len(self.rejected)
        cells = [f"{count}", f"{1e3 * sum(self.rejected) / count:.2f} ms" if count else "-"]
        for times in self.spent.values():
            ours, theirs = (sum(each) for each in zip(*times, strict=True)) if times else (0.0, 0.0)
            cells += [f"{len(times)}", f"{ours / theirs:.2f}" if theirs else "-"]
        return [name, *cells]


def figures(pattern: str, files: list[Read], parsing: dict[str, float]) -> Figures:
    """Those of one rule."""
    asked = Asked(ruleset({pattern: SPEC}), again=False)
    prefilter = Prefilter.of(rule.pattern for rule in asked.rules.rules)
    rejected: list[float] = []
    spent: dict[str, list[tuple[float, float]]] = {"no hit": [], "left": [], "changed": []}
    for file in files:
        if not prefilter.passes(file.data):
            rejected.append(least(lambda file=file: prefilter.passes(file.data)))
            continue
        outcome = alone(asked, prefilter, file)
        seconds = least(lambda file=file: alone(asked, prefilter, file))
        kind = "changed" if outcome.changed else "left" if outcome.matched else "no hit"
        spent[kind].append((seconds, parsing[file.path]))
    return Figures(rejected, spent)


def together(every: Iterable[Figures]) -> Figures:
    """Those of all rules."""
    every = list(every)
    kinds = every[0].spent
    rejected = [each for figures in every for each in figures.rejected]
    return Figures(rejected, {kind: [each for figures in every for each in figures.spent[kind]] for kind in kinds})


def files_per_second(jobs: int) -> str:
    """Of the whole command on all files, its start included."""
    folder = Path(transformers.__file__).parent / "models"
    command = [sys.executable, "-m", "rewrite", "rewrite", str(folder), "-r", f"{RULES[0]}={SPEC}", "-q"]
    begin = time.perf_counter()
    ran = subprocess.run([*command, "-j", str(jobs)], capture_output=True, check=False)
    seconds = time.perf_counter() - begin
    if ran.returncode not in (0, 1):
        raise SystemExit(ran.stderr.decode())
    return f"{len(list(folder.rglob('*.py'))) / seconds:.0f} files/s"


def main(each_so_many: int = EVERY) -> None:
    """Print the figures."""
    files = sources(each_so_many)
    size = sum(len(file.data) for file in files) // len(files) // 1000
    print(f"{machine()}, 1 thread; {len(files)} files of {size} kB on average.\n")
    parsing = {file.path: least(lambda file=file: libcst.parse_module(file.data)) for file in files}
    head = ["rule", "rejected", "each", "no hit", "x parse", "left", "x parse", "changed", "x parse"]
    every = {pattern: figures(pattern, files, parsing) for pattern in RULES}
    rows = [each.row(f"`{pattern}`") for pattern, each in every.items()]
    print(table(head, [*rows, together(every.values()).row("all of them")]))
    if each_so_many == EVERY:
        print(f"\nthe whole of `transformers/models`: {files_per_second(1)}, with `-j 2` {files_per_second(2)}")


if __name__ == "__main__":
    main()
