"""What a run prints, to whom, and with which exit code it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import typer

from rewrite.code import Weight
from rewrite.codes import CODES
from rewrite.diagnostics import Diagnostic
from rewrite.outcome import Outcome
from rewrite.showing import diff, in_colour, sorted_all, statistics, summary, told

DONE, FOUND, UNREADABLE = 0, 1, 3
SHOWN_FROM = 20  # files for which progress is shown


@dataclass(frozen=True)
class Show:
    """How results are shown."""

    output_format: str
    write: bool
    check: bool
    statistics: bool
    quiet: bool
    verbose: bool


def progress(show: Show, files: int) -> AbstractContextManager[Callable[[], None]]:
    """A bar on standard error that advances by a call; nothing where nobody looks, or there are few files."""
    if files < SHOWN_FROM or show.quiet or not sys.stderr.isatty():
        return nullcontext(lambda: None)
    return _Progress(files)


def report(show: Show, outcomes: Sequence[Outcome], others: Sequence[Diagnostic]) -> int:
    """Print the results; the exit code."""
    every = list(sorted_all(outcomes, others))
    if show.output_format != "text":
        _print_for_programs(show.output_format, every)
    else:
        _print(show, outcomes, every)
        if not show.quiet:
            typer.echo(summary(outcomes, others, written=show.write), err=True)
    if show.statistics:
        typer.echo(statistics(every))
    return _exit_code(every, written=show.write)


def _print(show: Show, outcomes: Sequence[Outcome], every: Sequence[Diagnostic]) -> None:
    colour = in_colour(sys.stderr)
    for each in every:
        if _is_told(show, each):
            typer.echo(told(each, colour=colour), err=True)
    for outcome in outcomes if not show.write else ():
        if outcome.changed and show.check:
            typer.echo(f"would rewrite {outcome.path}", err=True)
        elif outcome.changed:
            _print_text(diff(outcome, colour=in_colour(sys.stdout)))


def _is_told(show: Show, each: Diagnostic) -> bool:
    """Edits are seen in the diff; notes are for who asks for them."""
    weight = CODES[each.code].weight
    if weight in (Weight.LEFT, Weight.FAILED):
        return not show.quiet or weight is Weight.FAILED
    return show.verbose and not show.quiet


class _Progress(AbstractContextManager[Callable[[], None]]):
    """A bar on standard error."""

    def __init__(self, files: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("rewriting", total=files)

    def __enter__(self) -> Callable[[], None]:
        self._bar.start()
        return lambda: self._bar.advance(self._task)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._bar.stop()


def _exit_code(every: Sequence[Diagnostic], *, written: bool) -> int:
    weights = {CODES[each.code].weight for each in every}
    if Weight.FAILED in weights:
        return UNREADABLE
    if Weight.LEFT in weights or (Weight.EDIT in weights and not written):
        return FOUND
    return DONE


def _print_for_programs(output_format: str, every: Sequence[Diagnostic]) -> None:
    from rewrite.formats import as_github, as_json, as_sarif

    text = {"json": as_json, "sarif": as_sarif, "github": as_github}[output_format](every)
    if text:
        typer.echo(text)


def _print_text(text: str) -> None:
    """To standard output as it is: newlines are those of the file."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()
