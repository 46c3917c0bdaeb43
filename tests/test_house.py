"""The house itself: figures survive partial runs, pins are complete, warnings are errors, seeds hold."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
import zlib
from itertools import chain
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.architecture import ROOT
from tests.conftest import SIZE_VARIABLE, WORKER
from tests.evidence import Row, merged, rendered, rows_of

PROJECT = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())
PINS = ROOT.joinpath("constraints.txt").read_text()
MAKEFILE = ROOT.joinpath("Makefile").read_text()
AWKWARD = Row("a | b \\| c", "3 % of\n 4", "tests/x.py::test_y[a|b]", "2026-01-01")

FIRST = """
def test_one(evidence):
    evidence("it is quick", "1 us | 2 us")
def test_two(evidence):
    evidence("it is small", "3 MB")
"""
AGAIN = """
def test_one(evidence):
    evidence("it is quick", "4 us")
def test_two(evidence):
    evidence("it is small", "5 MB")
    assert False
"""


def full_run(root: Path, *arguments: str) -> str:
    """Run the tests that are in ``root`` under this suite's own conftest, and return docs/evidence.md."""
    for file in ("conftest.py", "evidence.py"):
        root.joinpath("tests").mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / file, root / "tests" / file)
    root.joinpath("pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = --import-mode=importlib\n")
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    full = {name: value for name, value in os.environ.items() if name != WORKER} | {SIZE_VARIABLE: "full"}
    ran = subprocess.run(command, cwd=root, env=full, capture_output=True, text=True, check=False)
    assert re.search(r"\d (passed|failed)", ran.stdout), ran.stdout + ran.stderr
    return root.joinpath("docs", "evidence.md").read_text()


def test_figures_of_several_processes_are_those_of_one(tmp_path: Path):
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in ("test_a.py", "test_b.py"):
        tests.joinpath(name).write_text(FIRST)
    parallel = full_run(tmp_path, "-n", "2", "--dist", "loadfile")
    assert [row.figure for row in rows_of(parallel)] == ["1 us | 2 us", "3 MB"] * 2
    assert parallel == full_run(tmp_path)


def test_figures_of_a_full_run_are_written_and_a_part_of_it_keeps_the_others(tmp_path: Path):
    tests = tmp_path / "tests"
    tests.mkdir()
    tests.joinpath("test_a.py").write_text(FIRST)
    tests.joinpath("test_b.py").write_text(FIRST.replace("quick", "short"))
    first = rows_of(full_run(tmp_path))
    assert [(row.claim, row.figure) for row in first] == [
        ("it is quick", "1 us | 2 us"),
        ("it is small", "3 MB"),
        ("it is short", "1 us | 2 us"),
        ("it is small", "3 MB"),
    ]
    assert all(f"torch {torch.__version__}, Python" in row.measured for row in first)
    tests.joinpath("test_a.py").write_text(AGAIN)
    second = rows_of(full_run(tmp_path, "tests/test_a.py"))
    assert [(row.claim, row.figure) for row in second] == [
        ("it is quick", "4 us"),  # measured again; what now fails is gone
        ("it is short", "1 us | 2 us"),  # not run: kept
        ("it is small", "3 MB"),
    ]


def test_a_row_is_read_as_it_was_written():
    row = Row.read(str(AWKWARD))
    assert (row.claim, row.test, row.measured) == (AWKWARD.claim, AWKWARD.test, AWKWARD.measured)
    assert row.figure == "3 % of 4"
    assert rows_of(rendered([row, row])) == [row, row]
    assert merged([row], {}, ROOT) == []  # its file is gone


def requirements() -> set[str]:
    project = PROJECT["project"]
    lists = (project["dependencies"], *project["optional-dependencies"].values())
    return {_canonical(re.split(r"[<>=!~ \[]", each)[0]) for each in chain.from_iterable(lists)}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_and_every_pin_is_exact():
    lines = [line for line in PINS.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert requirements() <= {_canonical(line.split("==")[0]) for line in lines}


def test_no_file_of_the_build_names_a_host():
    names = ("pyproject.toml", *map(str, ROOT.glob("constraints*.txt")), "Makefile", ".ci/run")
    assert [name for name in names if "://" in ROOT.joinpath(name).read_text()] == []


def test_help_tells_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    told = set(re.findall(r"^([.a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert told == set(phony[1].split())


def test_a_warning_is_an_error_but_for_two_packages_of_torch():
    with pytest.raises(UserWarning, match="other"):
        warnings.warn("other", UserWarning, stacklevel=1)
    with pytest.raises(DeprecationWarning, match="other"):
        warnings.warn("other", DeprecationWarning, stacklevel=1)
    torch.jit.script(torch.nn.Linear(2, 2))
    if importlib.util.find_spec("torch.ao.quantization"):  # torch has announced to remove it
        torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(), set())


DRAWN: list[tuple[float, ...]] = []


@hypothesis.settings(max_examples=5)
@hypothesis.given(hypothesis.strategies.integers(0, 3))
def test_an_example_of_hypothesis_draws_the_same_numbers_each_time(number: int):
    assert number < 4
    DRAWN.append((torch.rand(()).item(), float(np.random.rand()), random.random()))
    assert DRAWN[0] == DRAWN[-1]


def test_a_test_is_seeded_by_its_name(request: pytest.FixtureRequest):
    drawn = torch.rand(3), np.random.rand(3), random.random()
    seed = zlib.crc32(request.node.nodeid.encode())
    torch.manual_seed(seed)
    assert torch.equal(drawn[0], torch.rand(3))
    assert np.array_equal(drawn[1], np.random.RandomState(seed).rand(3))
    assert drawn[2] == random.Random(seed).random()


def test_a_small_run_has_one_thread_and_writes_no_figures(size: str, pytestconfig: pytest.Config):
    assert size in ("small", "full")
    assert size == "full" or torch.get_num_threads() == 1
    assert pytestconfig.pluginmanager.has_plugin("evidence") is (size == "full")
    assert hypothesis.settings().derandomize
    assert hypothesis.settings().deadline is None
