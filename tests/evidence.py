"""The figures of a full run: collected from the tests that pass, merged into docs/evidence.md."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

HEAD = """# Evidence

What the tests measured at full size: `make test-full` writes this file, and a run of some tests leaves the
lines of the others as they are. A line is there only if its test passed.

| claim | figure | test | measured |
| --- | --- | --- | --- |
"""
CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Row:
    """One figure: what is claimed, what was measured, by which test, when and on what."""

    claim: str
    figure: str
    test: str = ""
    measured: str = ""

    def __str__(self) -> str:
        cells = (self.claim, self.figure, f"`{self.test}`", self.measured)
        return f"| {' | '.join(_escaped(cell) for cell in cells)} |"

    @classmethod
    def read(cls, line: str) -> Row:
        """The row that ``str`` gave."""
        claim, figure, test, measured = (_unescaped(cell) for cell in CELL.split(line.strip())[1:-1])
        return cls(claim, figure, test.strip("`"), measured)


def rows_of(text: str) -> list[Row]:
    """The rows of a file of evidence."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [Row.read(line) for line in table[2:]]


def merged(before: Iterable[Row], ran: Mapping[str, Iterable[Row]], root: Path) -> list[Row]:
    """All rows after a run: those of the tests that ran are new, those of a file that is gone are gone."""
    kept = [row for row in before if row.test not in ran and Path(root, row.test.split("::")[0]).is_file()]
    new = [row for rows in ran.values() for row in rows]
    return sorted([*kept, *new], key=lambda row: row.test)


def rendered(rows: Iterable[Row]) -> str:
    """The file."""
    return HEAD + "".join(f"{row}\n" for row in rows)


def machine() -> str:
    """Date and machine, as they stand beside each figure."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {versions}, {platform.machine()}, {os.cpu_count()} cores"


class Evidence:
    """A plugin of pytest that collects the figures and writes the file when the run ends."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.measured = machine()
        self.ran: dict[str, list[Row]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a passed test gives; a failed one loses what it had; a skip changes nothing."""
        if report.failed or (report.when == "call" and report.passed):
            rows = [
                Row(*map(str, value), report.nodeid, self.measured)
                for name, value in report.user_properties
                if name == "evidence" and isinstance(value, list)
            ]
            self.ran[report.nodeid] = rows if report.passed else []

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the file, where a test that ran has figures, or had some."""
        before = rows_of(self.file.read_text()) if self.file.is_file() else []
        rows = merged(before, self.ran, session.config.rootpath)
        if rows != before:
            self.file.parent.mkdir(exist_ok=True)
            self.file.write_text(rendered(rows))


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", r"\|")


def _unescaped(cell: str) -> str:
    return cell.strip().replace(r"\|", "|")
