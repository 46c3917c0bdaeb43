"""Old idioms in source text: from files to what becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rewrite.constraining import Edit
from rewrite.diagnostics import Diagnostic
from rewrite.importing import Importing, NoPlaceError, importing
from rewrite.migration.codes import LEFT
from rewrite.migration.contract import Finding
from rewrite.migration.pairing import Asked, settled
from rewrite.migration.rules import RULES
from rewrite.migration.tree import Tree
from rewrite.outcome import Outcome
from rewrite.pragmas import Pragmas
from rewrite.project import Project
from rewrite.rewriting import outcome_of, silences
from rewrite.rewriting import settled as run_twice
from rewrite.scopes import Scoped
from rewrite.source import Source

TARGETS: Final = ("surgery", "torch")
Sources = Sequence[tuple[Source, str]]


@dataclass(frozen=True)
class _How:
    """What is asked for."""

    unsafe: bool
    target: str
    selected: Callable[[str], bool]


def migrate_sources(
    sources: Sources,
    *,
    unsafe: bool = False,
    target: str = "surgery",
    selected: Callable[[str], bool] = lambda code: True,
    again: bool = True,
) -> list[Outcome]:
    """Migrate files that belong together, each with its dotted module name; in their order.

    The result is read again; ``again``: and migrated again, which must change nothing.

    Args:
        sources: files with their names, as `rewrite.project.module_name` tells them.
        unsafe: also do what keeps the model but not every checkpoint.
        target: "surgery", or "torch" for its own parametrizations in the place of hooks.
        selected: which codes are edited and told.
        again: False saves the second run.

    Errors: ValueError for another target.
    """
    if target not in TARGETS:
        raise ValueError(f"target is one of {', '.join(TARGETS)}, got {target!r}")
    how = _How(unsafe, target, selected)
    return run_twice(sources, lambda each: _pass(each, how), again=again)


def _pass(sources: Sources, how: _How) -> list[Outcome]:
    pragmas = {source.path: Pragmas.of(source) for source, _ in sources}
    tree = Tree(Project.of(sources), how.target)
    findings = [each for file in tree.project.files for rule in RULES for each in rule.find(tree, file)]

    def allowed(each: Finding) -> bool:
        return how.selected(each.code) and not silences(pragmas[each.file.source.path], each.lines, each.code)

    found, imports = _importable(findings, Asked(how.unsafe, allowed))
    return [
        _outcome(file, pragmas[file.source.path], [each for each in found if each.file is file], imports.get(file), how)
        for file in tree.project.files
    ]


def _importable(findings: Sequence[Finding], asked: Asked) -> tuple[list[Finding], Mapping[Scoped, Importing]]:
    """What is changed, and the imports of each file; a file that has no place for one changes nothing."""
    found = list(findings)
    while True:
        decided = settled(found, asked)
        needed: dict[Scoped, set[str]] = {}
        for each in decided:
            if each.change is not None and each.change.functions:
                needed.setdefault(each.file, set()).update(each.change.functions)
        imports: dict[Scoped, Importing] = {}
        refused: dict[Scoped, str] = {}
        for file, functions in needed.items():
            try:
                imports[file] = importing(file, functions)
            except NoPlaceError as error:
                refused[file] = f"no place for an import: {error}"
        if not refused:
            return decided, imports
        found = [each.left(refused[each.file], LEFT) if _waits(each, refused) else each for each in found]


def _waits(each: Finding, refused: Mapping[Scoped, str]) -> bool:
    return each.file in refused and each.change is not None


def _outcome(file: Scoped, pragmas: Pragmas, found: Sequence[Finding], imports: Importing | None, how: _How) -> Outcome:
    source = file.source
    names = imports.names if imports is not None else {}
    edits: list[Edit] = []
    said: list[Diagnostic] = []
    for each in found:
        if each.change is not None:
            edits.append(Edit(each.code, each.offset, each.message, each.change.make(names)))
        elif each.code and how.selected(each.code):
            said.append(Diagnostic(source.path, *source.position(each.offset), each.code, each.message))
    if imports is not None and imports.insertion is not None:
        edits.append(Edit("", imports.insertion.offset, "", (imports.insertion,)))
    return outcome_of(source, pragmas, edits, said)
