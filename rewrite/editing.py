"""From what was chosen to edits: which functions each file needs, what is there already, what cannot be edited."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from rewrite.analysis import Analysis
from rewrite.chosen import Choice, Decided
from rewrite.classes import Class
from rewrite.constraining import DECORATOR, WRAPPER, Edit, NotEditableError, decorated, followed, wrapped
from rewrite.decorators import replaces_class
from rewrite.diagnostics import Diagnostic
from rewrite.importing import NoPlaceError, importing
from rewrite.present import State, above_class, at_site
from rewrite.scopes import Scoped
from rewrite.sites import Kind, Site
from surgery.rules.ruleset import RuleSet


@dataclass(frozen=True)
class Wish:
    """An edit that waits for the local name of the function it calls. ``lines`` are those of its statement."""

    file: Scoped
    code: str
    function: str
    make: Callable[[str], Edit]
    lines: tuple[int, int]


@dataclass(eq=False)
class Edits:
    """All edits of a project by path, and what is said besides."""

    by_path: dict[str, list[Edit]] = field(default_factory=lambda: defaultdict(list))
    said: list[Diagnostic] = field(default_factory=list)


def wishes(analysis: Analysis, rules: RuleSet, choice: Choice) -> tuple[list[Wish], list[Diagnostic]]:
    """Every edit that is to be made, and what is said of places where none can be."""
    wished: list[Wish] = []
    said: list[Diagnostic] = []
    for each in (*_inline(analysis, rules, choice.inline), *_above(analysis, rules, choice)):
        if isinstance(each, Wish):
            wished.append(each)
        else:
            said.append(each)
    return wished, said


def edits_of(wished: Iterable[Wish]) -> Edits:
    """The edits, with the names that each file has for what they call, and its import."""
    found = Edits()
    by_file: dict[Scoped, list[Wish]] = defaultdict(list)
    for wish in wished:
        by_file[wish.file].append(wish)
    for file, mine in by_file.items():
        path = file.source.path
        try:
            names = importing(file, {wish.function for wish in mine})
        except NoPlaceError as error:
            found.said.append(Diagnostic(path, error.line, 1, "CS114", str(error)))
            continue
        for wish in mine:
            found.by_path[path].append(wish.make(names.names[wish.function]))
        if names.insertion is not None:
            found.by_path[path].append(Edit("", names.insertion.offset, "", (names.insertion,)))
    return found


def _inline(analysis: Analysis, rules: RuleSet, decided: Iterable[Decided]) -> Iterator[Wish | Diagnostic]:
    project = analysis.classes.project
    by_site: dict[Site, dict[str, str]] = {}
    for each in decided:
        spec = rules.rules[each.rule].spec
        assert isinstance(spec, str)
        state = at_site(project, each.site, each.tensor.name, spec)
        if state is State.OTHERWISE:
            yield _said(each.site, "CS116", f"{each.tensor.name or 'the parameter'} is constrained here otherwise")
        elif state is State.ABSENT:
            by_site.setdefault(each.site, {})[each.tensor.name] = spec
    for site, specs in by_site.items():
        yield _wish(site, specs)


def _wish(site: Site, specs: dict[str, str]) -> Wish | Diagnostic:
    try:
        if site.kind is Kind.PARAMETER:
            followed(site, specs[""], WRAPPER)
            return Wish(site.file, "CS101", WRAPPER, partial(followed, site, specs[""]), _lines(site))
        wrapped(site, specs, WRAPPER)
        return Wish(site.file, "CS100", WRAPPER, partial(wrapped, site, specs), _lines(site))
    except NotEditableError as error:
        return _said(site, "CS114", str(error))


def _above(analysis: Analysis, rules: RuleSet, choice: Choice) -> Iterator[Wish | Diagnostic]:
    chosen = choice.above
    if not chosen:
        return
    reasons = [f"{each.message} ({each.code}, {each.file}:{each.line})" for each in choice.reasons[:1]]
    for root in analysis.roots:
        state = above_class(analysis.classes.project, root, rules, chosen)
        if state is State.OTHERWISE:
            yield _of_class(root, "CS116", f"{root.name} has another @{DECORATOR} already")
        elif state is State.ABSENT and replaces_class(analysis.classes.project, root):
            yield _of_class(root, "CS114", f"a decorator of {root.name} puts something else in its place")
        elif state is State.ABSENT:
            pairs = [(rules.rules[index].text, _text(rules.rules[index].spec)) for index in chosen]
            line = root.node.lineno
            yield Wish(root.file, "CS102", DECORATOR, partial(decorated, root, pairs, reasons), (line, line))
        for each in root.below()[1:]:
            yield _of_class(each, "CS121", f"{each.name} derives from {root.name}, and stays unconstrained")


def _text(spec: object) -> str | None:
    return spec if isinstance(spec, str) else None


def _lines(site: Site) -> tuple[int, int]:
    statement = site.file.statement_of(site.node)
    return statement.lineno, statement.end_lineno or statement.lineno


def _said(site: Site, code: str, message: str) -> Diagnostic:
    line, column = site.file.source.position(site.file.source.span(site.node)[0])
    return Diagnostic(site.file.source.path, line, column, code, message)


def _of_class(owner: Class, code: str, message: str) -> Diagnostic:
    line, column = owner.file.source.position(owner.file.source.span(owner.node)[0])
    return Diagnostic(owner.file.source.path, line, column, code, message)
