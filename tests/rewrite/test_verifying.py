"""Rewritten files are verified without being written, in processes of their own, against rules applied to the model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from rewrite.builder import Builder, ModelTextError, parse_model, with_inputs
from rewrite.building import build_plan
from rewrite.child import ChildError, ask
from rewrite.outcome import Outcome
from rewrite.rewriting import rewrite_source
from rewrite.verifying import Verification, verify
from tests.architecture import ROOT
from tests.rewrite.architectures import ARCHITECTURES, modeling_file

SPEC = "interval(-3, 3)"
EVERY = {"small": 1000, "full": 10}  # one architecture of so many
AT_LEAST = {"small": 1, "full": 12}
RULES = (("*.weight", SPEC),)
FAILING = """
NUMBER = 3


def raising():
    raise ValueError("no such net")


def ending():
    import os
    print("the last words")
    os._exit(7)


def sleeping():
    import time
    time.sleep(60)


def other():
    return 3
"""
NETS = '''"""Nets."""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 3)
        self.b = nn.Linear(3, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())


class Branching(Net):
    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.a(-x)


def with_inputs():
    return Net(), torch.ones(4, 2)


def branching():
    return Branching(), {"x": torch.ones(4, 2)}


def tiny():
    return Net()
'''


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's with ``pkg/nets.py``, and with files that are called as ours are."""
    found = tmp_path_factory.mktemp("user")
    package = found / "pkg"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    package.joinpath("nets.py").write_text(NETS, encoding="utf-8")
    package.joinpath("failing.py").write_text(FAILING, encoding="utf-8")
    for name in ("rewrite", "surgery", "computed"):
        found.joinpath(f"{name}.py").write_text("raise SystemExit('a file of the user')", encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def asked() -> dict[object, object]:
    """What was answered to each request: a process takes seconds."""
    return {}


@pytest.fixture
def folder(users: Path, asked: dict[object, object], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user, in which the command runs."""

    def once(module: str, request: object, **options: object) -> object:
        if request not in asked:
            asked[request] = ask(module, request, **options)  # type: ignore[arg-type]
        return asked[request]

    monkeypatch.chdir(users)
    monkeypatch.setattr("rewrite.verifying.ask", once)
    return users


def statically(folder: Path) -> Outcome:
    """The file, rewritten without running it."""
    return rewrite_source(NETS, dict(RULES), path=str(folder / "pkg" / "nets.py"))


def verified(folder: Path, name: str, outcome: Outcome | None = None) -> Verification:
    return verify(Builder("pkg.nets", name), [outcome or statically(folder)], RULES)


def test_a_right_edit(folder: Path) -> None:
    found = verified(folder, "with_inputs")
    assert found.lines == (
        "state dict: 4 entries with the names, order and bits as apply_constraints gives the original",
        "outputs: 1 with the bits as apply_constraints gives the original",
        "FX: the same outputs to rounding",
    )
    assert found.ok
    assert folder.joinpath("pkg", "nets.py").read_text(encoding="utf-8") == NETS
    assert not list(folder.rglob("*.tmp"))


def test_what_cannot_be_checked_is_said(folder: Path) -> None:
    found = verified(folder, "branching")
    assert found.ok
    assert found.lines[2].startswith("FX: not checked (")
    assert "if" in found.lines[2]
    found = verified(folder, "tiny")
    assert found.ok
    reason = "the builder gives no inputs: return (model, inputs), or set its attribute example_inputs"
    assert found.lines[1:] == (f"outputs: not compared ({reason})", f"FX: not checked ({reason})")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("nn.Linear(3, 2), weight", "nn.Linear(3, 2), bias", "b.bias is missing"),
        (f'2, 3), weight="{SPEC}"', '2, 3), weight="interval(-3, 4)"', "a.weight.raw has other bits"),
        (
            f'        self.a = constrain(nn.Linear(2, 3), weight="{SPEC}")\n'
            f'        self.b = constrain(nn.Linear(3, 2), weight="{SPEC}")\n',
            f'        self.b = constrain(nn.Linear(3, 2), weight="{SPEC}")\n'
            f'        self.a = constrain(nn.Linear(2, 3), weight="{SPEC}")\n',
            "has other bits",
        ),
    ],
)  # fmt: skip
def test_a_wrong_edit_is_seen(folder: Path, before: str, after: str, told: str) -> None:
    right = statically(folder)
    assert before in right.after
    found = verified(folder, "with_inputs", replace(right, after=right.after.replace(before, after)))
    assert not found.ok
    assert told in found.lines[0]


def test_files_that_the_builder_does_not_import(folder: Path) -> None:
    other = folder / "other.py"
    other.write_text(NETS, encoding="utf-8")
    outcome = replace(statically(folder), path=str(other))
    found = verified(folder, "tiny", outcome)
    assert not found.ok
    assert found.lines[0] == "the builder imports none of the rewritten files"
    both = verify(Builder("pkg.nets", "tiny"), [outcome, statically(folder)], RULES)
    assert both.ok
    assert both.lines[0] == f"not imported, and so not compared: {other}"


def test_a_rewritten_file_that_fails_is_told_as_such(folder: Path) -> None:
    broken = replace(statically(folder), after="import nothing_like_this\n")
    with pytest.raises(ChildError, match=r"tiny, from the rewritten files raised ModuleNotFoundError: .*nets.py:1"):
        verified(folder, "tiny", broken)


@pytest.mark.parametrize(
    ("builder", "told"),
    [
        ("pkg.failing:raising", r"pkg.failing:raising raised ValueError: no such net \(.*failing.py:6\)"),
        ("pkg.failing:ending", r"pkg.failing:ending ended its process with exit code 7\n  the last words"),
        ("pkg.failing:other", r"must return a torch.nn.Module, or one and its inputs; it returned int"),
        ("pkg.failing:missing", r"has no attribute 'missing'; pkg.failing has raising, ending, sleeping, other"),
        ("pkg.failing:NUMBER", r"pkg.failing:NUMBER is no callable, but a int"),
        ("pkg.nothing:build", r"there is no module 'pkg.nothing'"),
        ("nothing.at.all:build", r"there is no module 'nothing.at.all'"),
    ],
)
def test_who_failed_is_said(folder: Path, builder: str, told: str) -> None:
    with pytest.raises(ChildError, match=told):
        build_plan(parse_model(builder), RULES, source_root=folder)


def test_a_builder_that_takes_too_long_is_stopped(folder: Path) -> None:
    with pytest.raises(ChildError, match=r"pkg.failing:sleeping did not return within 3 seconds"):
        build_plan(Builder("pkg.failing", "sleeping"), RULES, source_root=folder, timeout=3)


def test_rules_are_refused_by_the_model(folder: Path) -> None:
    with pytest.raises(ChildError, match=r"pkg.nets:tiny: 1 problem, nothing was changed:\n.*'c.weight'"):
        build_plan(Builder("pkg.nets", "tiny"), [("c.weight", SPEC)], source_root=folder)


@pytest.mark.parametrize("text", ["pkg.nets", "pkg/nets.py:build", "pkg.nets:", ":build", "pkg.nets:build()", "a b:c"])
def test_a_model_is_named_by_module_and_callable(text: str) -> None:
    with pytest.raises(ModelTextError, match="write MODULE:CALLABLE"):
        parse_model(text)


def test_a_plan_of_another_process_is_verified(folder: Path) -> None:
    builder = Builder("pkg.nets", "with_inputs")
    for rules, style in (((("*.weight", SPEC),), "call"), ((("a.weight", SPEC),), "class")):
        plan = build_plan(builder, rules, source_root=folder)
        assert {each.style for each in plan.places} == {style}
        assert [each.path for each in plan.outcomes] == [str(folder / "pkg" / "nets.py")]
        found = verify(builder, plan.outcomes, rules)
        assert found.ok, found.lines


def test_inputs_are_returned_or_an_attribute() -> None:
    model, x = nn.Linear(2, 2), torch.ones(1, 2)

    def build() -> nn.Module:
        return model

    assert with_inputs(build) == (model, None)
    build.example_inputs = lambda: ((x,), {"y": 3})  # type: ignore[attr-defined]
    assert with_inputs(build) == (model, ((x,), {"y": 3}))
    assert with_inputs(lambda: (model, x))[1] == ((x,), {})
    assert with_inputs(lambda: (model, (x, x)))[1] == ((x, x), {})
    assert with_inputs(lambda: (model, {"x": x}))[1] == ((), {"x": x})


USERS = """
from tests.rewrite.architectures import ARCHITECTURES
from own_architectures import {file}


def build():
    architecture = ARCHITECTURES[{name!r}]
    return architecture.build(model_class={file}.{cls}), architecture.inputs()
"""


RELATIVE = re.compile(r"(?m)^( *)from (\.+)(\w*)")


def absolute(module: str, found: re.Match[str]) -> str:
    """An import of a module that names no place by dots."""
    package = module.split(".")[: -len(found[2])]
    return f"{found[1]}from {'.'.join([*package, *filter(None, [found[3]])])}"


def test_published_architectures(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evidence: Callable[[str, str], None]
) -> None:
    """A user's copies of their files, which import what they need from transformers."""
    package = tmp_path / "own_architectures"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran, graphs, names = (
        0,
        0,
        [name for name, each in ARCHITECTURES.items() if each.inputs is not None][1 :: EVERY[size]],
    )
    for name in names:
        cls = ARCHITECTURES[name].model_class
        original = modeling_file(name)
        text = RELATIVE.sub(partial(absolute, cls.__module__), original.read_text(encoding="utf-8"))
        package.joinpath(original.name).write_text(text, encoding="utf-8")
        users = USERS.format(name=name, file=original.stem, cls=cls.__name__)
        module = f"users_{original.stem}"
        tmp_path.joinpath(f"{module}.py").write_text(users, encoding="utf-8")
        builder, rules = Builder(module, "build"), [("*@{Linear,Conv1d,Conv2d}.weight", SPEC)]
        try:
            plan = build_plan(builder, rules, source_root=tmp_path)
        except ChildError as error:
            if "nothing was changed" in str(error):  # torch computes a weight already
                continue
            raise
        assert any(each.changed for each in plan.outcomes), plan.outcomes
        found = verify(builder, plan.outcomes, rules)
        assert found.ok, (name, found.lines)
        assert found.lines[1].startswith("outputs: ")
        assert "not compared" not in found.lines[1]
        ran, graphs = ran + 1, graphs + ("not checked" not in found.lines[-1])
    assert ran >= AT_LEAST[size]
    evidence(
        "published architectures, planned by --model and verified by --verify in processes of their own: state dict "
        "and outputs as apply_constraints gives them; the FX graph where it traces",
        f"{ran} of {ran}, {graphs} of them with a graph",
    )
