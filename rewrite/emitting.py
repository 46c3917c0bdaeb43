"""A source plan as a codemod of its own: one file to review, which runs by LibCST's command without this package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewrite.evidence import Evidence
from rewrite.importing import importing
from rewrite.live_plan import SourcePlan
from rewrite.outcome import Outcome
from rewrite.scopes import Scoped
from rewrite.source import Source

ENGINE = Path(__file__).with_name("emitted.py")
HEAD = '''"""{title}

Written from a plan; it imports nothing but libcst, and edits only places that are as the plan found them. Review it,
put it into a folder as NAME.py, and run there:

    python -m libcst.tool codemod -x --no-format NAME.Constrain PATH

A file whose places have moved or changed is left, and said to have failed; one that is done is skipped.
"""
'''
START = "PLAN: dict[str, tuple[str, list[Place]]] = {}\n"


class EmittingError(ValueError):
    """A plan that a codemod cannot carry out exactly as the direct edit does; or one without edits."""


def codemod(plan: SourcePlan) -> str:
    """The text of a codemod file that does what ``plan`` does.

    Raises `EmittingError` where there is nothing to do, or where its result would not be that of the direct edit.
    """
    entries = {}
    for outcome in plan.outcomes:
        places = [each for each in plan.places if each.file == outcome.path]
        if outcome.changed and places:
            entries[Path(outcome.path).resolve().relative_to(plan.root).as_posix()] = entry = _entry(outcome, places)
            _check(outcome, entry)
    if not entries:
        raise EmittingError("the plan edits no file")
    rules = ", ".join(f"{pattern!r}: {spec!r}" for pattern, spec in plan.rules)
    title = f"Constrain {', '.join(entries)} by {{{rules}}}.".replace("\\", "\\\\").replace('"', "'")
    engine = ENGINE.read_text(encoding="utf-8").partition('"""\n')[2].lstrip("\n")
    written = START.replace("{}", "{\n" + "".join(_written(entries)) + "}")
    return HEAD.format(title=title) + "\n" + engine.replace(START, written)


Place = tuple[str, str, str, int, int, str, str]
Entry = tuple[str, list[Place]]


def _entry(outcome: Outcome, places: list[Evidence]) -> Entry:
    needed = importing(Scoped(Source.checked(outcome.path, outcome.before)), {each.function for each in places})
    imported = needed.insertion.text.strip() if needed.insertion is not None else ""
    return imported, [
        (
            *(each.scope, each.style, each.text, each.number, each.equal),
            *(needed.names[each.function], each.arguments),
        )
        for each in places
    ]


def _check(outcome: Outcome, entry: Entry) -> None:
    import libcst as cst

    from rewrite.emitted import edited

    try:
        after = edited(cst.parse_module(outcome.before), *entry).code
    except (cst.ParserSyntaxError, ValueError) as error:
        raise EmittingError(f"{outcome.path} cannot be edited by a codemod: {error}") from error
    if after != outcome.after:
        raise EmittingError(f"{outcome.path}: a codemod would give another text than the edit")
    again: Any = cst.parse_module(after)
    _check_done(outcome, again, entry)


def _check_done(outcome: Outcome, tree: Any, entry: Entry) -> None:
    from libcst.codemod import SkipFile

    from rewrite.emitted import edited

    try:
        edited(tree, *entry)
    except SkipFile:
        return
    raise EmittingError(f"{outcome.path}: a codemod would edit it again in a second run")


def _written(entries: dict[str, Entry]) -> Iterator[str]:
    for file, (imported, places) in entries.items():
        yield f"    {file!r}: (\n        {imported!r},\n        [\n"
        for place in places:
            yield f"            {place!r},\n"
        yield "        ],\n    ),\n"
