"""What a call of the command does with files: write rules into them, or migrate old idioms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rewrite.diagnostics import Diagnostic
from rewrite.outcome import Outcome
from rewrite.rewriting import unmatched
from rewrite.running import Asked, Migration, Read, migrate, run


class Work(Protocol):
    """Something that can be done with files."""

    def outcomes(self, files: Sequence[Read | Outcome], jobs: int) -> Iterator[Outcome]:
        """What becomes of each file, in their order."""
        ...

    def others(self, outcomes: Sequence[Outcome]) -> list[Diagnostic]:
        """What is told of the run as a whole."""
        ...


@dataclass(frozen=True)
class Rules:
    """Rules are written into files."""

    asked: Asked

    def outcomes(self, files: Sequence[Read | Outcome], jobs: int) -> Iterator[Outcome]:
        """What becomes of each file; raises `UnknownRootError`."""
        return run(self.asked, files, jobs=jobs)

    def others(self, outcomes: Sequence[Outcome]) -> list[Diagnostic]:
        """The rules that match nothing anywhere."""
        matched = frozenset[int]().union(*(each.matched for each in outcomes))
        told = unmatched(self.asked.rules, matched, "<rules>")
        return [each for each in told if self.asked.selected(each.code)]


@dataclass(frozen=True)
class OldIdioms:
    """Old idioms are migrated."""

    asked: Migration

    def outcomes(self, files: Sequence[Read | Outcome], jobs: int) -> Iterator[Outcome]:
        """What becomes of each file."""
        return migrate(self.asked, files)

    def others(self, outcomes: Sequence[Outcome]) -> list[Diagnostic]:
        """Nothing."""
        return []
