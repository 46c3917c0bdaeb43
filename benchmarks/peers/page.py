"""docs/peers.md: a table of what was observed, and how each row is measured."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.observing import Observation, Probe

HEAD = """# Beside other libraries

What four libraries do with fifteen tasks at which users report failures. Each cell is a verdict and the figure that it
comes from: *right* or *wrong* by the criterion below the table, *not offered*, or - where a library has no such thing.
GeoTorch puts its constraints into torch's parametrizations and shares what these do. PEFT has adapters and no
constraints. Models are small, so figures tell what happens and not how much of it there is in a large model.

`make peers` installs the others in an environment of their own, measures, and writes this page.

"""
HOW = "\n## How it is measured\n\nBelow each task: what was raised or lost, where the cell has no room for it.\n"
CELL = 40  # letters of a cell, but for a link's target
WIDTH = 120

Results = Mapping[tuple[Probe, Library], Observation]


def page(measured: str, probes: Sequence[Probe], results: Results) -> str:
    """The whole page; ``measured`` says when and on what."""
    heads = ("#", "what is asked", *(library.name for library in LIBRARIES), "test")
    rows = [row(probe, results) for probe in probes]
    details = [section(probe, results) for probe in probes]
    return f"{HEAD}{measured}.\n\n{table(heads, rows)}\n{HOW}\n{''.join(details)}"


def row(probe: Probe, results: Results) -> tuple[str, ...]:
    """A line of the table."""
    found = [str(results[probe, library]) for library in LIBRARIES]
    return (probe.label, probe.asks, *found, link(probe.test))


def link(test: str) -> str:
    """A test's name, leading to its file."""
    file, _, name = test.partition("::")
    return f"[{name}](../{file})"


def section(probe: Probe, results: Results) -> str:
    """How a probe measures, and what has no room in the table."""
    lines = [bullet("* ", f"**{probe.label} {probe.asks}.** {probe.how} Right: {probe.criterion}.")]
    for library in LIBRARIES:
        notes = results[probe, library].notes
        lines += [bullet("  * ", f"{library.name}: {'; '.join(notes)}")] if notes else []
    return "".join(lines)


def bullet(mark: str, text: str) -> str:
    """A point of a list, in lines that fit a screen."""
    indent = " " * len(mark)
    lines = textwrap.wrap(text, WIDTH, initial_indent=mark, subsequent_indent=indent, break_long_words=False)
    return "\n".join(lines) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    cells = [[cell.replace("|", r"\|") for cell in line] for line in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    ruler = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in (lines[0], ruler, *lines[1:]))
