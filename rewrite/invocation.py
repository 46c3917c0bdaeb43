"""One call of the command: what was asked on the line and in files, the run, and what is printed of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rewrite.complaints import complaining, refuse
from rewrite.configuration import Configuration, Rule, RuleTextError, configured, split_rule
from rewrite.diagnostics import Diagnostic
from rewrite.discovery import Discovery, MissingPathsError, discover
from rewrite.outcome import Outcome
from rewrite.reporting import FOUND, Show, progress, report
from rewrite.toml_table import ConfigurationError
from surgery.rules.errors import RuleError

if TYPE_CHECKING:
    from rewrite.work import Work
    from surgery.rules.ruleset import RuleSet


@dataclass(frozen=True)
class Invocation:
    """What was asked for on the command line."""

    show: Show
    texts: tuple[str, ...]
    rules_file: Path | None
    roots: tuple[str, ...]
    style: str | None
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    config: Path | None
    isolated: bool
    extend_exclude: tuple[str, ...]
    jobs: int | None
    add_noqa: bool
    migrate: bool = False
    unsafe_fixes: bool = False
    target: str | None = None
    verify: str | None = None

    def on_model(self, model: str, paths: Sequence[str], root_only: bool, emit: Path | None) -> int:
        """Rewrite the files of a model that is built for it; the exit code."""
        from rewrite.running_code import emitted, planned, same, shown, written

        pairs = self._pairs(self._configured([Path(paths[0])]))
        plan = planned(model, pairs, Path(paths[0]), root_only=root_only)
        if self.verify is not None and not same(self.verify, plan.outcomes, pairs):
            return FOUND
        if emit is not None:
            emitted(plan, emit)
        outcomes = written(plan) if self.show.write else shown(plan)
        for text in plan.proposals:
            typer.echo(text, err=True)
        return report(self.show, outcomes, [])

    def on_files(self, paths: Sequence[Path]) -> int:
        """Rewrite files and folders; the exit code."""
        from rewrite.running import read_files, write

        found = self._configured(paths)
        work = self._work(found)
        try:
            excluded = (*found.extend_exclude, *self.extend_exclude)
            discovered = discover(paths, extend_exclude=excluded, anchor=found.anchor)
        except MissingPathsError as error:
            refuse(str(error))
        files = read_files(discovered.files)
        outcomes: list[Outcome] = []
        with _Roots(), progress(self.show, len(files)) as advance:
            results = work.outcomes(files, self.jobs or cpu_count() or 1)
            if self.verify is not None:
                results = iter(compared := list(results))
                if not self._same(found, compared):
                    return FOUND
            for file, outcome in zip(files, results, strict=True):
                if self.add_noqa:
                    outcome = _silenced(outcome)
                if (self.show.write or self.add_noqa) and not isinstance(file, Outcome):
                    outcome = write(outcome, file.data)
                outcomes.append(outcome)
                advance()
        return report(self.show, outcomes, [*_of_discovery(discovered), *work.others(outcomes)])

    def on_standard_input(self, data: bytes, name: str) -> int:
        """Rewrite standard input; with ``--write`` the text goes to standard output, changed or not."""
        from rewrite.running import Read

        work = self._work(self._configured([Path(name if name != "<stdin>" else ".")]))
        with _Roots():
            [outcome] = work.outcomes([Read(name, data, "stdin")], 1)
        if self.show.write:
            sys.stdout.buffer.write(_result(outcome, data))
            sys.stdout.buffer.flush()
        return report(self.show, [outcome], work.others([outcome]))

    def _configured(self, paths: Sequence[Path]) -> Configuration:
        try:
            return configured(paths, config=self.config, isolated=self.isolated, rules=self.rules_file)
        except ConfigurationError as error:
            refuse(str(error))

    def _work(self, found: Configuration) -> Work:
        from rewrite.running import Asked, Codes, Migration
        from rewrite.work import OldIdioms, Rules

        codes = Codes(self.select or found.select, self.ignore or found.ignore)
        if self.migrate:
            target = self.target or found.target or "surgery"
            return OldIdioms(Migration(self.unsafe_fixes, target, codes, again=self.show.write))
        style = self.style or found.style or "auto"
        return Rules(Asked(self._rules(found), self.roots or found.root, style, codes, again=self.show.write))

    def _same(self, found: Configuration, outcomes: Sequence[Outcome]) -> bool:
        from rewrite.running_code import same

        assert self.verify is not None
        return same(self.verify, outcomes, self._pairs(found))

    def _rules(self, found: Configuration) -> RuleSet:
        from rewrite.rewriting import ruleset

        try:
            with complaining():
                return ruleset(self._pairs(found))
        except RuleError as error:
            refuse(str(error))

    def _pairs(self, found: Configuration) -> list[Rule]:
        pairs: list[Rule] = []
        for text in self.texts:
            try:
                pairs.append(split_rule(text))
            except RuleTextError as error:
                refuse(error.reason, error.text, error.position)
        pairs = pairs or list(found.rules)
        if not pairs:
            refuse("no rules: give -r 'PATTERN=SPEC', --rules FILE, or rules in [tool.computed-surgery]")
        return pairs


class _Roots(AbstractContextManager[None]):
    """Says that a root is not there, and exits."""

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        from rewrite.analysis import UnknownRootError

        if isinstance(error, UnknownRootError):
            refuse(str(error))


def _silenced(outcome: Outcome) -> Outcome:
    """The file with comments that silence what was left in it, and nothing else changed."""
    from rewrite.pragmas import add_noqa
    from rewrite.source import Source

    codes: dict[int, list[str]] = {}
    for each in outcome.left:
        codes.setdefault(each.line, []).append(each.code)
    text = add_noqa(Source(outcome.path, outcome.before), codes)
    return replace(
        outcome, after=text, diagnostics=tuple(each for each in outcome.diagnostics if each not in outcome.left)
    )


def _result(outcome: Outcome, data: bytes) -> bytes:
    from rewrite.source import Source

    return Source.read(outcome.path, data).encoded(outcome.after) if outcome.changed else data


def _of_discovery(found: Discovery) -> Iterator[Diagnostic]:
    for path in found.notebooks:
        yield Diagnostic(str(path), 1, 1, "CS132", "a notebook: rewrite the modules that it imports")
    for link in found.links:
        yield Diagnostic(str(link.path), 1, 1, "CS133", link.reason)
    for each in found.unreadable:
        yield Diagnostic(str(each.path), 1, 1, "CS130", each.reason)
