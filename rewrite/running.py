"""A run over files: read, decided alone or together, written; what became of each comes back in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

from computed.uncollected import uncollected
from rewrite.code import Weight
from rewrite.codes import CODES
from rewrite.diagnostics import Diagnostic
from rewrite.grouping import grouped
from rewrite.migration.migrating import migrate_sources
from rewrite.outcome import Outcome
from rewrite.prefilter import Prefilter
from rewrite.project import module_name
from rewrite.rewriting import How, rewrite_sources
from rewrite.source import Source, UnreadableError
from rewrite.writing import UnwritableError, write_atomically
from surgery.rules.ruleset import RuleSet

TOGETHER = 30  # more files than these are read together only where a root is named
CHUNK = 4


@dataclass(frozen=True)
class Codes:
    """Which codes are asked for: those that begin with one of ``select``, and with none of ``ignore``."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __call__(self, code: str) -> bool:
        """Whether a code is asked for; that a file could not be rewritten is always told."""
        if CODES[code].weight is Weight.FAILED:
            return True
        return code.startswith(self.select or ("",)) and not code.startswith(self.ignore or (" ",))


@dataclass(frozen=True)
class Asked:
    """What a run is asked for.

    ``again``: results are rewritten once more, to see that a second run would change nothing; this is asked before
    anything is written.
    """

    rules: RuleSet
    roots: tuple[str, ...] = ()
    style: str = "auto"
    selected: Codes = Codes()
    again: bool = True

    def how(self, *, find_root: bool) -> How:
        """What is asked of each rewriting."""
        return How(self.rules, self.roots, self.style, find_root, self.selected)


@dataclass(frozen=True)
class Migration:
    """What a migration is asked for; ``again`` as in `Asked`."""

    unsafe: bool = False
    target: str = "surgery"
    selected: Codes = Codes()
    again: bool = True


@dataclass(frozen=True)
class Read:
    """One file: its path as messages name it, what it holds, its dotted name."""

    path: str
    data: bytes
    module: str


def read_files(paths: Sequence[Path]) -> list[Read | Outcome]:
    """The bytes of files; an `Outcome` of one that cannot be read."""
    folders = {folder for path in paths for folder in path.absolute().parents}
    packages = {PurePath(folder) for folder in folders if folder.joinpath("__init__.py").is_file()}
    found: list[Read | Outcome] = []
    for path in paths:
        try:
            found.append(Read(str(path), path.read_bytes(), module_name(path.absolute(), packages)))
        except OSError as error:
            found.append(_failed(str(path), error.strerror or str(error)))
    return found


def run(asked: Asked, files: Sequence[Read | Outcome], *, jobs: int = 1) -> Iterator[Outcome]:
    """What becomes of each file, in their order. A process each for up to ``jobs`` at once, where files stand alone.

    Where a root is named, or there are few files, they are read together: names lead from one to another.
    Raises `UnknownRootError`.
    """
    readable = [each for each in files if isinstance(each, Read)]
    joined = asked.roots or len(readable) <= TOGETHER
    found = iter(together(asked, readable)) if joined else _alone(asked, readable, jobs)
    for each in files:
        yield next(found) if isinstance(each, Read) else each


def together(asked: Asked, files: Sequence[Read], *, find_root: bool = True) -> list[Outcome]:
    """What becomes of files that are read as one project."""
    with uncollected():
        return _together(asked, files, find_root=find_root)


def _together(asked: Asked, files: Sequence[Read], *, find_root: bool) -> list[Outcome]:
    found: dict[str, Outcome] = {}
    sources: list[tuple[Source, str]] = []
    for each in files:
        try:
            sources.append((Source.read(each.path, each.data), each.module))
        except UnreadableError as error:
            found[each.path] = _failed(each.path, error.reason, error.line, error.column)
    outcomes = rewrite_sources(sources, asked.how(find_root=find_root), again=asked.again)
    found |= {each.path: each for each in outcomes}
    return [found[each.path] for each in files]


def migrate(asked: Migration, files: Sequence[Read | Outcome]) -> Iterator[Outcome]:
    """What becomes of each file by migration, in their order; files that import each other are read together."""
    found: dict[str, Outcome] = {}
    sources: list[tuple[Source, str]] = []
    with uncollected():
        for each in files:
            if isinstance(each, Outcome):
                found[each.path] = each
                continue
            try:
                sources.append((Source.read(each.path, each.data), each.module))
            except UnreadableError as error:
                found[each.path] = _failed(each.path, error.reason, error.line, error.column)
        for group in grouped(sources):
            outcomes = migrate_sources(
                group, unsafe=asked.unsafe, target=asked.target, selected=asked.selected, again=asked.again
            )
            found |= {each.path: each for each in outcomes}
    yield from (found[each.path] for each in files)


def write(outcome: Outcome, data: bytes) -> Outcome:
    """Write what is changed, where the file still holds ``data``; what came of that."""
    if not outcome.changed:
        return outcome
    source = Source.read(outcome.path, data)
    try:
        write_atomically(Path(outcome.path), source.encoded(outcome.after), expected=data)
    except UnwritableError as error:
        return replace(outcome, after=outcome.before, diagnostics=(_failure(outcome.path, str(error)),))
    return outcome


def _alone(asked: Asked, files: Sequence[Read], jobs: int) -> Iterator[Outcome]:
    """Each file by itself; those that no rule can be about are not read as Python."""
    prefilter = Prefilter.of(rule.pattern for rule in asked.rules.rules)
    waiting = [each for each in files if prefilter.passes(each.data)]
    each_alone: Callable[[Read], Outcome] = partial(alone, asked, prefilter)
    if jobs > 1 and len(waiting) > 1:
        with ProcessPoolExecutor(min(jobs, len(waiting), os.cpu_count() or 1)) as pool:
            yield from _in_order(files, waiting, pool.map(each_alone, waiting, chunksize=CHUNK))
    else:
        yield from _in_order(files, waiting, map(each_alone, waiting))


def _in_order(files: Sequence[Read], waiting: Sequence[Read], outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    asked_for = {each.path for each in waiting}
    for each in files:
        yield next(outcomes) if each.path in asked_for else Outcome(each.path, "", "", ())


def alone(asked: Asked, prefilter: Prefilter, file: Read) -> Outcome:
    """What becomes of one file that is read by itself."""
    with uncollected():
        return _alone_uncollected(asked, prefilter, file)


def _alone_uncollected(asked: Asked, prefilter: Prefilter, file: Read) -> Outcome:
    try:
        source = Source.read(file.path, file.data)
    except UnreadableError as error:
        return _failed(file.path, error.reason, error.line, error.column)
    if not prefilter.passes_as_python(source):
        return Outcome(file.path, "", "", ())
    return rewrite_sources([(source, file.module)], asked.how(find_root=False), again=asked.again)[0]


def _failed(path: str, reason: str, line: int = 1, column: int = 1) -> Outcome:
    return Outcome(path, "", "", (_failure(path, reason, line, column),))


def _failure(path: str, reason: str, line: int = 1, column: int = 1) -> Diagnostic:
    return Diagnostic(path, line, column, "CS130", reason)
