"""The comparison with other libraries asks what it says, judges by what it measures, and its page is of these probes.

No figure is asserted but ours: what others do is theirs, and changes with their versions.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import pytest
import torch

from benchmarks.peers import __main__ as program
from benchmarks.peers import compiles, loops
from benchmarks.peers.libraries import GEOTORCH, LIBRARIES, OURS, PEFT, TORCH, Library
from benchmarks.peers.observing import (
    NOT_OFFERED,
    RIGHT,
    WRONG,
    LibraryError,
    Measure,
    Observation,
    Probe,
    asked,
    by,
    grouped,
    observe,
    small,
)
from benchmarks.peers.page import CELL, page
from benchmarks.peers.probes import PROBES
from tests.architecture import ROOT

PAGE = ROOT / "docs" / "peers.md"
PINS = ROOT / "constraints-peers.txt"
EVERY_PROBE = [pytest.param(probe, id=probe.label) for probe in PROBES]
EVERY_LIBRARY = [pytest.param(library, id=library.package) for library in LIBRARIES]


@dataclass(frozen=True, kw_only=True)
class Figure(Measure):
    """A number that has to be one, and may not be offered."""

    number: float | None

    def right(self) -> bool | None:
        return None if self.number is None else self.number == 1

    def fact(self) -> str:
        return f"it is {self.number}"


def made_up(measures: dict[Library, object], number: int = 3, part: str = "") -> Probe:
    """A probe that measures as it is told."""
    return Probe(number, "A | task", "It is asked.", "it is one", "tests/x.py::test_03_a_task", measures, part)


def raising() -> Figure:
    with asked():
        raise ValueError("first line\nsecond line")


def mistaken() -> Figure:
    raise ValueError("the probe's own")


def test_a_verdict_comes_from_the_measure():
    probe = made_up({OURS: lambda: Figure(number=1), TORCH: lambda: Figure(number=2.5, notes=("why",))})
    assert observe(probe, OURS) == Observation(RIGHT, "it is 1")
    assert observe(probe, TORCH) == Observation(WRONG, "it is 2.5", ("why",))
    assert observe(probe, PEFT) == Observation(NOT_OFFERED)
    assert str(observe(probe, PEFT)) == "-"
    assert str(observe(made_up({OURS: lambda: Figure(number=None)}), OURS)) == "not offered: it is None"


def test_what_a_library_raises_is_its_answer_and_an_error_of_the_probe_is_none():
    probe = made_up(dict.fromkeys((OURS, TORCH), raising))
    assert observe(probe, TORCH) == Observation(WRONG, "ValueError", ("ValueError: first line",))
    with pytest.raises(LibraryError, match="first line"):
        observe(probe, OURS)
    with pytest.raises(ValueError, match="the probe's own"):
        observe(made_up({TORCH: mistaken}), TORCH)


def test_all_libraries_begin_with_the_same_random_numbers():
    drawn = []

    def measure(library: Library) -> Figure:
        drawn.append(torch.rand(()).item())
        return Figure(number=1)

    probe = made_up(by(measure, *LIBRARIES))
    assert [observe(probe, library).verdict for library in LIBRARIES] == [RIGHT] * 4
    assert len(set(drawn)) == 1


def test_words_of_figures():
    assert [small(each) for each in (0.0, 4e-8, 0.0123, 1.84, 126.4)] == ["0", "4e-08", "0.012", "1.8", "126"]
    assert grouped([("a", "x"), ("b", "y"), ("c", "x"), ("a", "x")]) == ("a, c: x", "b: y")


EXPECTED = r"""
Now, here.

| #  | what is asked | computed-surgery | torch parametrize | GeoTorch     | PEFT | test                            |
| -- | ------------- | ---------------- | ----------------- | ------------ | ---- | ------------------------------- |
| 3  | A \| task     | right: it is 1   | wrong: it is 2    | wrong: Error | -    | [test_03_a_task](../tests/x.py) |
| 4b | A \| task     | right: it is 1   | wrong: it is 2    | wrong: Error | -    | [test_03_a_task](../tests/x.py) |

## How it is measured

Below each task: what was raised or lost, where the cell has no room for it.

* **3 A | task.** It is asked. Right: it is one.
  * GeoTorch: Error: of this kind; and more
* **4b A | task.** It is asked. Right: it is one.
  * GeoTorch: Error: of this kind; and more
"""


def test_a_page_of_made_up_observations():
    probes = [made_up({}), made_up({}, number=4, part="b")]
    row = {
        OURS: Observation(RIGHT, "it is 1"),
        TORCH: Observation(WRONG, "it is 2"),
        GEOTORCH: Observation(WRONG, "Error", ("Error: of this kind", "and more")),
        PEFT: Observation(NOT_OFFERED),
    }
    written = page("Now, here", probes, {(probe, library): row[library] for probe in probes for library in LIBRARIES})
    assert written.startswith("# Beside other libraries\n")
    assert written.endswith(EXPECTED)


@pytest.mark.parametrize("library", EVERY_LIBRARY)
@pytest.mark.parametrize("probe", EVERY_PROBE)
def test_every_library_that_is_installed_is_asked(probe: Probe, library: Library, monkeypatch: pytest.MonkeyPatch):
    """Ours is right, but for what it does not do yet."""
    if not library.installed():
        pytest.skip(f"{library.package} is not installed; `make peers` has an environment for it")
    monkeypatch.setattr(loops, "STEPS", 5)
    monkeypatch.setattr(compiles, "BLOCKS", 10)
    found = observe(probe, library)
    assert len(str(found)) <= CELL
    assert found.fact or found.verdict == NOT_OFFERED
    if library is OURS:
        assert found.verdict == RIGHT, found


def test_fifteen_probes_ask_this_library_and_torch_for_a_test_each():
    assert sorted({probe.number for probe in PROBES}) == list(range(1, 16))
    assert len({probe.label for probe in PROBES}) == len({probe.test for probe in PROBES}) == len(PROBES)
    assert [probe.label for probe in PROBES if OURS not in probe.measures] == []
    assert [probe.label for probe in PROBES if TORCH not in probe.measures] == ["9"]  # torch takes no rules
    assert all(len(probe.asks) <= CELL for probe in PROBES)


def functions_of(file: str) -> set[str]:
    return {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_test_of_each_probe_is_there_under_its_number():
    for probe in PROBES:
        file, _, name = probe.test.partition("::")
        assert name in functions_of(file)
        assert name.startswith(f"test_{probe.number:02}_")
        assert len(name) <= CELL


def rows_of_the_page() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_page_is_of_these_probes():
    """Their questions, their libraries, their tests, in cells that can be read; ours as it is judged above."""
    rows = rows_of_the_page()
    assert [(label, asks) for label, asks, *_ in rows] == [(probe.label, probe.asks) for probe in PROBES]
    for probe, (*_, test) in zip(PROBES, rows, strict=True):
        link = re.fullmatch(r"\[(\w+)\]\(\.\./([\w/.]+)\)", test)
        assert link is not None
        assert f"{link[2]}::{link[1]}" == probe.test
    verdicts = re.compile(rf"-|(?:{RIGHT}|{WRONG}|{NOT_OFFERED}): \S.*")
    cells = [cell for _, _, *found, _ in rows for cell in found]
    assert [cell for cell in cells if not verdicts.fullmatch(cell) or len(cell) > CELL] == []
    ours = {row[0]: row[2].partition(":")[0] for row in rows}
    assert {label: verdict for label, verdict in ours.items() if verdict != RIGHT} == {}


def test_the_page_says_when_on_what_and_with_which_versions():
    pins = dict(line.split("==") for line in PINS.read_text().splitlines() if "==" in line)
    (head,) = [line for line in PAGE.read_text().splitlines() if line.startswith("`python -m benchmarks.peers`:")]
    for said in ("torch 2.", " cores, ", "computed-surgery ", f"geotorch {pins['geotorch']}", f"peft {pins['peft']}"):
        assert said in head


def test_the_others_are_pinned_and_installed_nowhere_else():
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = {line.split("==")[0] for line in lines}
    assert names >= {GEOTORCH.package, PEFT.package}
    for file in ("pyproject.toml", "constraints.txt"):
        assert [name for name in names if name in ROOT.joinpath(file).read_text()] == []


def test_without_the_others_the_program_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Library, "installed", lambda library: library not in (GEOTORCH, PEFT))
    monkeypatch.setattr(program, "results", lambda: pytest.fail("it went on"))
    with pytest.raises(SystemExit, match=r"needs geotorch and peft; `make peers` installs them apart"):
        program.main()
