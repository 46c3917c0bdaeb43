"""Run every benchmark in a process of its own, print what it prints, and write the page.

``python -m benchmarks`` writes docs/benchmarks.md, and keeps it in benchmarks/results by its date;
``python -m benchmarks peers`` writes docs/benchmarks-peers.md.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = ("speed", "kinds", "reading", "minilm", "training", "adapters", "loading", "memory", "rewriting")
OF_PEERS = ("constraints",)
RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# Benchmarks

What a computed parameter costs, beside what it replaces: `make bench` writes this page. Candidates take turns in one
process. What runs on one thread is timed by that thread's CPU clock, what runs on several by the wall clock, which
means little on a machine that is busy with other things.
"""
HEAD_OF_PEERS = """# Benchmarks against other libraries

Written by `make bench-peers`, in an environment that has the other libraries; candidates take turns in one process.
"""


@dataclass(frozen=True)
class Page:
    """A page of benchmarks: which, where, what stands at its top, and options of Python."""

    names: tuple[str, ...]
    path: Path
    head: str
    options: tuple[str, ...]


OWN = Page(NAMES, ROOT / "docs" / "benchmarks.md", HEAD, ("-W", "ignore"))
# other libraries warn of much that is not about this one
PEERS = Page(OF_PEERS, ROOT / "docs" / "benchmarks-peers.md", HEAD_OF_PEERS, ("-W", "ignore"))


def section(name: str, printed: str) -> str:
    """A benchmark's part of the page: its docstring, the command, and what it printed."""
    told = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""
    title, _, body = told.partition("\n")
    return f"\n## {title.rstrip('.')}\n\n{body.strip()}\n\n`python -m benchmarks.{name}`: {printed.strip()}\n"


def run(name: str, page: Page = OWN) -> str:
    """What a benchmark prints, passed on line by line; an error in it ends the program."""
    command = [sys.executable, *page.options, "-m", f"benchmarks.{name}"]
    printed = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    if process.returncode:
        raise SystemExit(f"benchmarks.{name} ended with {process.returncode}; {page.path.name} is as it was")
    return "".join(printed)


def main(page: Page = OWN) -> None:
    """Run all, then write the page."""
    sections = []
    for name in page.names:
        print(f"\nbenchmarks.{name}\n{'-' * (11 + len(name))}")
        sections.append(section(name, run(name, page)))
    page.path.parent.mkdir(exist_ok=True)
    text = page.head + "".join(sections)
    page.path.write_text(text)
    if page is OWN:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)
    print(f"\nwritten: {os.path.relpath(page.path)}")


if __name__ == "__main__":
    main(PEERS if sys.argv[1:] == ["peers"] else OWN)
