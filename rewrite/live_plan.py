"""From a live model to source text: its builder runs once, and each planned site is edited where it was made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rewrite.constraining import DECORATOR, WRAPPER, Edit, decorated, followed, wrapped
from rewrite.diagnostics import Diagnostic
from rewrite.editing import Wish, edits_of
from rewrite.evidence import Evidence, evidence
from rewrite.insertion import inserted
from rewrite.live_choosing import Inline, LiveChoice, choose_live
from rewrite.live_root import Above, Built, above_of
from rewrite.outcome import Outcome
from rewrite.own_files import OwnFile, OwnFiles
from rewrite.planned_sites import planned_sites
from rewrite.pragmas import Pragmas
from rewrite.present import State, above_class
from rewrite.rewriting import outcome_of, ruleset, silences
from rewrite.source import Source, UnreadableError
from surgery.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from torch import nn

Rules = Mapping[str, str | None] | Iterable[tuple[str, str | None]]


@dataclass(frozen=True)
class SourcePlan:
    """What a live plan becomes in source text; nothing is written. Holds texts alone, so that it can be pickled.

    ``places`` are the edits with their evidence, ``outcomes`` the files before and after with all that is said of them,
    ``proposals`` the code that is to be written by hand where files are not edited. ``root`` is the folder.
    """

    rules: tuple[tuple[str, str | None], ...]
    root: str
    places: tuple[Evidence, ...]
    outcomes: tuple[Outcome, ...]
    proposals: tuple[str, ...]


def source_plan(
    build: Callable[[], nn.Module], rules: Rules, *, source_root: Path, root_only: bool = False
) -> SourcePlan:
    """Run ``build`` once, plan ``rules`` on the model, and write them where its parameters were made.

    A call is edited where all that it made is planned alike and no other model could differ, by the verdict that the
    source route gives its file; all else goes above the class of the model: ``@constrained({...})``.

    Args:
        build: returns the model, as for `rewrite.live.trace`.
        rules: as `surgery.apply_constraints` takes them; specs are texts or None.
        source_root: files below it may be edited; those of installed packages never are.
        root_only: also edit calls that may make parameters of other models, which are then constrained with it.

    Errors: RuleError and PlanError with all that is wrong; TypeError where ``build`` returns no module; what ``build``
    raises passes.
    """
    from rewrite.live import built

    pairs = tuple(rules.items()) if isinstance(rules, Mapping) else tuple(rules)
    found = ruleset(pairs)
    model, traced = built(build)
    planned = planned_sites(model, pairs, found)
    files = OwnFiles(source_root)
    choice = choose_live(planned, traced, found, files, root_only=root_only)
    above = above_of(Built(model, traced, planned, build, found), choice, files)
    writing = _Writing(found, files, choice, above)
    outcomes = tuple(writing.outcomes(frozenset(rule for each in planned for rule in each.taking)))
    return SourcePlan(pairs, str(files.root), tuple(writing.written), outcomes, tuple(filter(None, [above.proposal])))


class _Writing:
    """From what was chosen to edits, with the evidence of each."""

    def __init__(self, rules: RuleSet, files: OwnFiles, choice: LiveChoice, above: Above) -> None:
        self._rules = rules
        self._files = files
        self._choice = choice
        self._where = above
        self.written: list[Evidence] = []

    def outcomes(self, matched: frozenset[int]) -> Iterator[Outcome]:
        """What becomes of each file that is edited or spoken of, in the order of their paths."""
        told: dict[str, list[Diagnostic]] = defaultdict(list)
        for each in dict.fromkeys((*self._notes(), *self._where.said)):
            told[each.path].append(each)
        by_file: dict[str, list[tuple[Wish, Evidence]]] = defaultdict(list)
        for wish, place in (*self._inline(), *self._above()):
            by_file[place.file].append((wish, place))
        for path in sorted({*told, *by_file}):
            file = self._files.get(path)
            if file is None:
                yield Outcome(path, "", "", tuple(told[path]), matched)
                continue
            yield replace(self._outcome(file, by_file[path], told[path]), matched=matched)

    def _outcome(self, file: OwnFile, asked: list[tuple[Wish, Evidence]], told: list[Diagnostic]) -> Outcome:
        pragmas = Pragmas.of(file.source)
        kept = [(wish, place) for wish, place in asked if not silences(pragmas, wish.lines, wish.code)]
        edits = edits_of(wish for wish, _ in kept)
        made: list[Edit] = edits.by_path.get(file.source.path, [])
        try:
            Source.checked(
                file.source.path, inserted(file.source.text, [one for each in made for one in each.insertions])
            )
        except UnreadableError as error:
            told, made = [*told, Diagnostic(file.source.path, 1, 1, "CS131", f"the result is no Python: {error}")], []
        places = [place for _, place in kept if made]
        self.written += sorted(places, key=lambda each: (each.line, each.column))
        return outcome_of(file.source, pragmas, made, [*told, *edits.said])

    def _inline(self) -> Iterator[tuple[Wish, Evidence]]:
        groups: dict[tuple[OwnFile, object], list[Inline]] = defaultdict(list)
        for each in self._choice.inline:
            file = self._files.get(each.made.file)
            assert file is not None
            groups[file, file.node(each.made)].append(each)
        for (file, _), ones in groups.items():
            yield self._at_call(file, ones) if ones[0].made.kind == "call" else self._after(file, ones[0])

    def _at_call(self, file: OwnFile, ones: list[Inline]) -> tuple[Wish, Evidence]:
        site = ones[0].site
        specs = {each.made.name_below: self._spec(each.rule) for each in ones}
        statement = file.scoped.statement_of(site.node)
        lines = statement.lineno, statement.end_lineno or statement.lineno
        arguments = _arguments(wrapped(site, specs, WRAPPER)).removeprefix("..., ")
        place = evidence(file.scoped, file.sha256, site.node, "call", tuple(specs.items()), arguments)
        return Wish(file.scoped, "CS100", WRAPPER, partial(wrapped, site, specs), lines), place

    def _after(self, file: OwnFile, one: Inline) -> tuple[Wish, Evidence]:
        spec = self._spec(one.rule)
        statement = file.scoped.statement_of(file.node(one.made))
        lines = statement.lineno, statement.end_lineno or statement.lineno
        arguments = _arguments(followed(one.site, spec, WRAPPER))
        place = evidence(file.scoped, file.sha256, statement, "statement", (("", spec),), arguments)
        return Wish(file.scoped, "CS101", WRAPPER, partial(followed, one.site, spec), lines), place

    def _above(self) -> Iterator[tuple[Wish, Evidence]]:
        file, owner, chosen = self._where.file, self._where.owner, self._choice.above
        if file is None or owner is None or not chosen:
            return
        project = file.analysis.classes.project
        if above_class(project, owner, self._rules, chosen) is not State.ABSENT:
            return
        pairs = [(self._rules.rules[index].text, self._text(index)) for index in chosen]
        reasons = [f"{each.message} ({each.code})" for each in self._choice.reasons[:1]]
        make = partial(decorated, owner, pairs, reasons)
        arguments = _arguments(decorated(owner, pairs, (), DECORATOR))
        place = evidence(file.scoped, file.sha256, owner.node, "class", tuple(pairs), arguments)
        line = owner.node.lineno
        yield Wish(file.scoped, "CS102", DECORATOR, make, (line, line)), place

    def _notes(self) -> Iterator[Diagnostic]:
        """What else is changed by the edits that were made for this model alone."""
        for each in self._choice.others:
            file = self._files.get(each.made.file)
            assert file is not None
            line, column = file.source.position(file.source.span(each.site.node)[0])
            message = "the call may make parameters of other models, which are constrained with this one's"
            yield Diagnostic(file.source.path, line, column, "CS123", message)

    def _spec(self, rule: int) -> str:
        spec = self._text(rule)
        assert spec is not None
        return spec

    def _text(self, rule: int) -> str | None:
        spec = self._rules.rules[rule].spec
        return spec if isinstance(spec, str) else None


def _arguments(edit: Edit) -> str:
    """What stands between the parentheses of the call that an edit inserts."""
    return edit.message.partition("(")[2][:-1]
