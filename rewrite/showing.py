"""What a person sees: the diff, the diagnostics, the summary; in colour where a terminal shows it."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from rewrite.code import Weight
from rewrite.codes import CODES
from rewrite.diagnostics import Diagnostic
from rewrite.outcome import Outcome
from rewrite.source import lines_of

BOLD, RED, GREEN, CYAN, YELLOW, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[33m", "\x1b[0m"
OF_WEIGHT = {Weight.EDIT: GREEN, Weight.LEFT: YELLOW, Weight.NOTE: CYAN, Weight.FAILED: RED}


def in_colour(stream: TextIO) -> bool:
    """Whether to colour: a terminal that shows it, unless the environment says otherwise (https://no-color.org)."""
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def diff(outcome: Outcome, *, colour: bool) -> str:
    """A unified diff that ``patch -p0`` takes."""
    lines = difflib.unified_diff(
        lines_of(outcome.before),
        lines_of(outcome.after),
        outcome.path,
        outcome.path,
    )
    return "".join(_coloured(line) if colour else line for line in map(_ended, lines))


def told(diagnostic: Diagnostic, *, colour: bool) -> str:
    """A diagnostic on one line."""
    if not colour:
        return str(diagnostic)
    place = f"{diagnostic.path}:{diagnostic.line}:{diagnostic.column}"
    return (
        f"{BOLD}{place}{PLAIN}: {OF_WEIGHT[CODES[diagnostic.code].weight]}{diagnostic.code}{PLAIN} {diagnostic.message}"
    )


def summary(outcomes: Sequence[Outcome], others: Iterable[Diagnostic], *, written: bool) -> str:
    """What was changed, what was left, what failed."""
    changed = [each for each in outcomes if each.changed]
    edits = sum(len(each.edits) for each in changed)
    left = sum(len(each.left) for each in outcomes) + sum(CODES[each.code].weight is Weight.LEFT for each in others)
    failed = sum(each.failed for each in outcomes)
    verb = "changed" if written else "would change"
    parts = [f"{_count(len(changed), 'file')} {verb} ({_count(edits, 'edit')})" if changed else f"nothing {verb}"]
    if written is False and not changed:
        parts = ["nothing to change"]
    if left:
        parts.append(f"{_count(left, 'place')} left, with the reason above")
    if failed:
        parts.append(f"{_count(failed, 'file')} failed")
    return ", ".join((*parts, f"{_count(len(outcomes), 'file')} looked at"))


def statistics(diagnostics: Iterable[Diagnostic]) -> str:
    """How often each code occurs, most often first."""
    counts = Counter(each.code for each in diagnostics)
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join(f"{count:>6}  {code}  {CODES[code].title}" for code, count in rows)


def explanation(code: str) -> str:
    """The text of ``--explain``."""
    found = CODES[code]
    return f"{found.name} ({found.weight.value}): {found.title}\n\n{found.explanation}"


def _ended(line: str) -> str:
    """A last line without newline, as diff and patch write it."""
    return line if line.endswith(("\n", "\r")) else f"{line}\n\\ No newline at end of file\n"


def _coloured(line: str) -> str:
    for begin, colour in (("---", BOLD), ("+++", BOLD), ("@@", CYAN), ("-", RED), ("+", GREEN)):
        if line.startswith(begin):
            return f"{colour}{line.rstrip(chr(10))}{PLAIN}\n"
    return line


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def sorted_all(outcomes: Iterable[Outcome], others: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
    """All diagnostics, file by file, those of the run as a whole last."""
    for outcome in outcomes:
        yield from sorted(outcome.diagnostics)
    yield from others
