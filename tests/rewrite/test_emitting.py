"""A codemod that is written from a plan gives by LibCST's own command what the direct edit gives, and nothing else."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from rewrite.emitting import EmittingError, codemod
from rewrite.live_plan import SourcePlan, source_plan
from surgery.errors import PlanError
from tests.rewrite.architectures import ARCHITECTURES, modeling_file
from tests.rewrite.test_live import executed
from tests.rewrite.test_source_plan import FORMS, HEAD, HELPER, PATTERNS, SPEC, after_of, copied, net

EVERY = {"small": 20, "full": 3}  # one architecture of so many
MANY = net(
    "self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2); self.c = nn.Linear(2, 2)\n"
    "self.d = nn.Sequential(nn.Linear(2, 2), conv3x3(2, 2), (nn\n            .Conv2d(2, 2, 1)))\n"
    "self.scale = nn.Parameter(torch.ones(2))  # ünïcode\n"
    "self.one = nn.Parameter(torch.ones(2)); self.two = nn.Parameter(torch.ones(2));\n"
    "if True: self.three = nn.Parameter(torch.ones(3))\n"
    "self.n = nn.BatchNorm1d(3)",
    HELPER,
)
RULES = {"*@{Linear,Conv2d}.weight": SPEC, "*.{scale,one,two,three}": "positive", "*.running_var": "positive"}


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import a text as the file ``pkg/net.py`` of a user, below ``tmp_path``."""

    def load(text: str) -> ModuleType:
        file = tmp_path / "pkg" / "net.py"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text.encode())
        return executed("pkg_net", text, file)

    yield load
    del sys.modules["pkg_net"]


def run(folder: Path, text: str, file: Path) -> subprocess.CompletedProcess[str]:
    """Run a codemod by LibCST's command, in a folder of its own, without this package."""
    folder.mkdir(exist_ok=True)
    folder.joinpath("made.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "libcst.tool", "codemod", "-x", "--no-format"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    asked = [*command, "made.Constrain", str(file), "-j", "1"]
    return subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def check_run(plan: SourcePlan, folder: Path) -> None:
    """Run the codemod of a plan of one file twice: first it does what the plan does, then nothing."""
    text, [place, *_] = codemod(plan), plan.places
    file, expected = Path(place.file), after_of(plan).encode()
    first = run(folder, text, file)
    assert "Transformed 1 files successfully" in first.stdout + first.stderr
    assert (first.returncode, file.read_bytes()) == (0, expected)
    second = run(folder, text, file)
    assert "Skipped 1 files" in second.stdout + second.stderr
    assert (second.returncode, file.read_bytes()) == (0, expected)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_result_is_that_of_the_edit(user: Callable[[str], ModuleType], tmp_path: Path, newline: str) -> None:
    module = user(MANY.replace("\n", newline))
    plan = source_plan(module.Net, RULES, source_root=tmp_path, root_only=True)
    assert {each.style for each in plan.places} == {"call", "statement", "class"}
    assert len(plan.places) == 11
    check_run(plan, tmp_path / "mods")


def test_only_libcst_is_imported(user: Callable[[str], ModuleType], tmp_path: Path) -> None:
    text = codemod(source_plan(user(MANY).Net, RULES, source_root=tmp_path))
    tree = ast.parse(text)
    modules = {each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)}
    modules |= {alias.name for each in ast.walk(tree) if isinstance(each, ast.Import) for alias in each.names}
    assert modules == {"__future__", "collections.abc", "itertools", "libcst", "libcst.codemod"}
    assert f"by {{{', '.join(f'{p!r}: {s!r}' for p, s in RULES.items())}}}" in str(ast.get_docstring(tree))


def test_lines_may_move_and_places_may_not(user: Callable[[str], ModuleType], tmp_path: Path) -> None:
    plan = source_plan(user(MANY).Net, RULES, source_root=tmp_path, root_only=True)
    file, text = Path(plan.places[0].file), codemod(plan)
    moved = MANY.replace("class Net", "VALUE = 3\n\n\nclass Net").replace("super().__init__()", "super().__init__()\n")
    file.write_text(moved, encoding="utf-8")
    assert run(tmp_path / "mods", text, file).returncode == 0
    expected = after_of(plan).replace("super().__init__()", "super().__init__()\n")
    assert file.read_text(encoding="utf-8") == expected.replace("@constrained", "VALUE = 3\n\n\n@constrained")


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("a, b, 3", "a, b, 5", 10), ("self.c = nn.Linear(2, 2)", "self.c = nn.Linear(2, 3)", 7),
        ("self.c = nn", "self.e = nn.Linear(2, 2); self.c = nn", 7), ("def __init__", "def _init", 2),
    ],
)  # fmt: skip
def test_a_place_that_is_not_found_is_refused(
    before: str, after: str, found: int, user: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    plan = source_plan(user(MANY).Net, RULES, source_root=tmp_path, root_only=True)
    file, changed = Path(plan.places[0].file), MANY.replace(before, after)
    file.write_text(changed, encoding="utf-8")
    failed = run(tmp_path / "mods", codemod(plan), file)
    assert f"{found} of 11 places found: the source moved since the plan was made" in failed.stderr
    assert (failed.returncode, file.read_text(encoding="utf-8")) == (1, changed)


def test_what_was_done_in_part_is_completed(user: Callable[[str], ModuleType], tmp_path: Path) -> None:
    plan = source_plan(user(MANY).Net, RULES, source_root=tmp_path, root_only=True)
    file, after = Path(plan.places[0].file), after_of(plan)
    begun = after.replace(f'constrain(nn.Linear(2, 2), weight="{SPEC}")', "nn.Linear(2, 2)", 1)
    assert begun != after
    file.write_text(begun, encoding="utf-8")
    assert run(tmp_path / "mods", codemod(plan), file).returncode == 0
    assert file.read_text(encoding="utf-8") == after


def test_another_file_is_skipped(user: Callable[[str], ModuleType], tmp_path: Path) -> None:
    text = codemod(source_plan(user(MANY).Net, RULES, source_root=tmp_path))
    other = tmp_path / "other.py"
    other.write_text(MANY, encoding="utf-8")
    ran = run(tmp_path / "mods", text, other)
    assert (ran.returncode, other.read_text(encoding="utf-8")) == (0, MANY)


def test_several_files_of_a_folder(user: Callable[[str], ModuleType], tmp_path: Path) -> None:
    layers = tmp_path / "pkg" / "layers.py"
    layers.parent.mkdir()
    layers.write_text(f"{HEAD}{HELPER}", encoding="utf-8")
    executed("pkg_layers", layers.read_text(encoding="utf-8"), layers)
    try:
        module = user(net("self.a = conv3x3(2, 3)\nself.b = nn.Linear(2, 2)", "from pkg_layers import conv3x3"))
        plan = source_plan(module.Net, {"*.weight": SPEC}, source_root=tmp_path)
    finally:
        del sys.modules["pkg_layers"]
    ran = run(tmp_path / "mods", codemod(plan), layers.parent)
    assert "Transformed 2 files successfully" in ran.stdout + ran.stderr
    assert {each.path: each.after for each in plan.outcomes} == {
        str(file): file.read_text(encoding="utf-8") for file in layers.parent.glob("*.py")
    }


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_a_codemod(form: str, user: Callable[[str], ModuleType], tmp_path: Path) -> None:
    body, before, rules, _, root_only = FORMS[form]
    plan = source_plan(user(net(body, before)).Net, rules, source_root=tmp_path, root_only=root_only)
    assert "class Constrain(CodemodCommand)" in codemod(plan)  # it was tried: the same text, and a second run skips


@pytest.mark.parametrize(
    "begin",
    [
        "", '"""Doc."""\n', "# comment\n\n# another\n", '"""Doc."""; import os\n', "import os; import sys\n\n",
        "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n", "from surgery import constrain\n",
        "from surgery import constrain as c\n", "if True:\n    import os\n", '"""Doc."""\n\n# comment\n',
    ],
)  # fmt: skip
def test_the_import_stands_where_the_edit_puts_it(
    begin: str, user: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    text = begin + net("self.a = nn.Linear(2, 2)", head="\nfrom torch import nn\n" if begin else HEAD)
    assert codemod(source_plan(user(text).Net, {"*.weight": SPEC}, source_root=tmp_path))


def test_a_plan_without_edits_has_no_codemod(user: Callable[[str], ModuleType], tmp_path: Path) -> None:
    plan = source_plan(user(MANY).Net, RULES, source_root=tmp_path / "elsewhere")
    with pytest.raises(EmittingError, match="edits no file"):
        codemod(plan)


def test_published_architectures(size: str, tmp_path: Path, evidence: Callable[[str, str], None]) -> None:
    ran = places = 0
    for row, name in enumerate(list(ARCHITECTURES)[:: EVERY[size]]):
        pattern = PATTERNS[row % len(PATTERNS)]
        module, cls = copied(name, modeling_file(name).read_text(encoding="utf-8"), tmp_path)
        build = partial(ARCHITECTURES[name].build, model_class=cls)
        try:
            plan = source_plan(build, {pattern: SPEC}, source_root=tmp_path, root_only=row % 2 == 0)
        except PlanError:
            continue
        finally:
            del sys.modules[module]
        check_run(plan, tmp_path / "mods")
        ran, places = ran + 1, places + len(plan.places)
    assert ran >= 4
    evidence(
        "codemods written from live plans of published architectures, run by libcst.tool: the text of the direct edit, "
        "and a second run skips",
        f"{ran} of {ran} files, {places} places",
    )
