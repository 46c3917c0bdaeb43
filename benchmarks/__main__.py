"""Run every benchmark in a process of its own, print what it prints, and write docs/benchmarks.md."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
NAMES = ("reading", "minilm", "training", "rewriting")
HEAD = """# Benchmarks

What a computed parameter costs, beside what it replaces: `make bench` writes this page. Candidates take turns in one
process. What runs on one thread is timed by that thread's CPU clock, what runs on several by the wall clock, which
means little on a machine that is busy with other things.
"""


def section(name: str, printed: str) -> str:
    """A benchmark's part of the page: its docstring, the command, and what it printed."""
    told = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""
    title, _, body = told.partition("\n")
    return f"\n## {title.rstrip('.')}\n\n{body.strip()}\n\n`python -m benchmarks.{name}`: {printed.strip()}\n"


def run(name: str) -> str:
    """What a benchmark prints, passed on line by line; an error in it ends the program."""
    command = [sys.executable, "-W", "error::UserWarning", "-m", f"benchmarks.{name}"]
    printed = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    if process.returncode:
        raise SystemExit(f"benchmarks.{name} ended with {process.returncode}; {PAGE.name} is as it was")
    return "".join(printed)


def main(names: Sequence[str] = NAMES) -> None:
    """Run all, then write the page."""
    sections = []
    for name in names:
        print(f"\nbenchmarks.{name}\n{'-' * (11 + len(name))}")
        sections.append(section(name, run(name)))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(HEAD + "".join(sections))
    print(f"\nwritten: {os.path.relpath(PAGE)}")


if __name__ == "__main__":
    main()
