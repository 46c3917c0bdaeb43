"""An apply that is broken off at any line of ours, as by Ctrl-C: the model is as it was, or undo takes it there.

test_faults.py plants faults before and after whole steps; here every line that is executed raises once.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from torch import nn

import computed
import surgery
from tests.surgery.models import MODELS
from tests.surgery.picture import differences, picture

OURS = tuple(f"{Path(package.__file__).parent}/" for package in (computed, surgery))
NAMES = ("resnet", "lstm", "mha", "transformer", "tied")
Line = tuple[str, int]


class Fault(BaseException):
    """The planted fault; no handler of ours may know it."""


class Lines:
    """Runs a function line by line; the line ``planted`` raises when it is come to for the ``at``-th time."""

    def __init__(self, planted: Line | None = None, at: int = 0) -> None:
        self.planted = planted
        self.at = at
        self.seen: dict[Line, int] = {}

    def run(self, act: Callable[[], object]) -> bool:
        """Whether the fault came."""
        before = sys.gettrace()
        gc.disable()  # what it calls may not raise
        sys.settrace(self._enter)
        try:
            act()
        except Fault:
            return True
        finally:
            sys.settrace(before)
            gc.enable()
        return False

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            self.seen[line] = self.seen.get(line, 0) + 1
            if line == self.planted and self.seen[line] == self.at:
                raise Fault
        return self._line


def lines_of(prepare: Callable[[], Callable[[], object]], size: str) -> list[tuple[Line, int]]:
    """Every line that is executed, and when it is to raise: the first time, and in a full run the last as well."""
    prepare()()  # what is imported or made once
    lines = Lines()
    lines.run(prepare())
    return [(line, at) for line, count in lines.seen.items() for at in sorted({1, count} if size == "full" else {1})]


def broken_off(build: Callable[[], nn.Module], rules: dict[str, object], lines: list[tuple[Line, int]]) -> list[str]:
    """What is left of each apply that is broken off; nothing, where all is well."""
    found, tried = [], 0
    for line, at in lines:
        model = build()
        before, plan = picture(model), surgery.plan(model, rules)
        try:
            if not Lines(line, at).run(plan.apply):
                continue
            tried += 1
            if surgery.computed_parameters(model):
                surgery.undo(model)  # it was in its last lines: whole, and can be taken back
        except (KeyError, AssertionError, surgery.UndoError) as error:
            found.append(f"{line}: {error!r}")
        found += [f"{line}: {place}" for place in differences(before, picture(model))]
    assert tried > 0.9 * len(lines)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_apply_that_is_broken_off_at_any_line_leaves_the_model_as_it_was(
    name: str, size: str, evidence: Callable[[str, str], None]
):
    build, _, rules = MODELS[name]
    lines = lines_of(lambda: surgery.plan(build(), rules).apply, size)
    assert len(lines) > 100
    assert broken_off(build, rules, lines) == []
    evidence(f"an apply to the model {name!r} that is broken off at any line is none", f"{len(lines)} lines raised")


def test_what_is_not_put_back_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The comparison can fail."""
    build, _, rules = MODELS["resnet"]
    lines = lines_of(lambda: surgery.plan(build(), rules).apply, "small")
    monkeypatch.setattr("surgery.restoring.Record.restore", lambda self: None)
    assert broken_off(build, rules, lines[::7]) != []
