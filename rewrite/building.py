"""A source plan by the name of a builder: ``pkg.nets:build`` is imported and run in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rewrite.builder import Builder, model_only
from rewrite.child import ChildError, ask
from rewrite.live_plan import SourcePlan, source_plan

TIMEOUT = 600.0


@dataclass(frozen=True)
class Request:
    """What is asked for, as the other process gets it."""

    builder: Builder
    rules: tuple[tuple[str, str | None], ...]
    source_root: Path
    root_only: bool


def build_plan(
    builder: Builder,
    rules: Sequence[tuple[str, str | None]],
    *,
    source_root: Path,
    root_only: bool = False,
    timeout: float = TIMEOUT,
) -> SourcePlan:
    """The `source_plan` of what a builder builds: its code runs, in a process of its own that has this folder.

    Raises `ChildError` with a message for the user: a builder that is not there, raises, ends the process, takes longer
    than ``timeout`` seconds or returns no module; rules that are refused for its model.
    """
    request = Request(builder, tuple(rules), source_root.absolute(), root_only)
    found: SourcePlan = ask(__name__, request, subject=str(builder), timeout=timeout)
    return found


def respond(request: Request) -> SourcePlan:
    """The answer of the other process."""
    from surgery.errors import PlanError

    build = model_only(request.builder.load())
    try:
        return source_plan(build, request.rules, source_root=request.source_root, root_only=request.root_only)
    except PlanError as error:
        raise ChildError(f"{request.builder}: {error}") from error
