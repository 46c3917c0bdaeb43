"""The parts of the command that run code of the user's: ``--model`` builds a model, ``--verify`` compares two."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from rewrite.builder import Builder, ModelTextError, parse_model
from rewrite.building import build_plan
from rewrite.child import ChildError
from rewrite.complaints import refuse
from rewrite.configuration import Rule
from rewrite.emitting import EmittingError, codemod
from rewrite.live_plan import SourcePlan
from rewrite.outcome import Outcome
from rewrite.running import write
from rewrite.verifying import verify


def planned(text: str, pairs: Sequence[Rule], root: Path, *, root_only: bool) -> SourcePlan:
    """The plan of the model that ``MODULE:CALLABLE`` builds, for files below ``root``; exits where it cannot be had."""
    try:
        return build_plan(_builder(text), pairs, source_root=root, root_only=root_only)
    except ChildError as error:
        refuse(str(error))


def shown(plan: SourcePlan) -> list[Outcome]:
    """What becomes of the files, called as they are seen from here."""
    return [_from_here(outcome) for outcome in plan.outcomes]


def written(plan: SourcePlan) -> list[Outcome]:
    """Write the files, if all of them still are what the plan was made for."""
    digests = {place.file: place.sha256 for place in plan.places}
    data = {outcome.path: Path(outcome.path).read_bytes() for outcome in plan.outcomes if outcome.changed}
    moved = [path for path, text in data.items() if hashlib.sha256(text).hexdigest() != digests.get(path)]
    if moved:
        refuse(f"changed since the plan was made, nothing was written: {', '.join(moved)}")
    return [_from_here(write(each, data[each.path]) if each.changed else each) for each in plan.outcomes]


def emitted(plan: SourcePlan, file: Path) -> None:
    """Write the plan as a codemod that stands alone."""
    try:
        file.write_text(codemod(plan))
    except (EmittingError, OSError) as error:
        refuse(f"{file}: {error}")
    command = f"python -m libcst.tool codemod -x --no-format {file.stem}.Constrain PATH"
    typer.echo(f"written: {file}; run it where it stands: {command}", err=True)


def same(text: str, outcomes: Sequence[Outcome], pairs: Sequence[Rule]) -> bool:
    """Whether the rewritten files build what the rules make of the original; what was compared is told."""
    try:
        found = verify(_builder(text), outcomes, pairs)
    except ChildError as error:
        refuse(str(error))
    for line in found.lines:
        typer.echo(f"verify: {line}", err=True)
    return found.ok


def _builder(text: str) -> Builder:
    try:
        return parse_model(text)
    except ModelTextError as error:
        refuse(str(error))


def _from_here(outcome: Outcome) -> Outcome:
    def near(path: str) -> str:
        relative = os.path.relpath(path)
        return path if relative.startswith(os.pardir) else relative

    told = tuple(replace(each, path=near(each.path)) for each in outcome.diagnostics)
    return replace(outcome, path=near(outcome.path), diagnostics=told)
