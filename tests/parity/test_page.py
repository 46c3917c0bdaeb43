"""docs/parity.md names tests that are there, and all tests of this folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.architecture import ROOT

PAGE = ROOT / "docs" / "parity.md"
HERE = Path(__file__).parent
LINK = re.compile(r"\[(?P<file>[\w.]+)::(?P<test>\w+)\]\((?P<target>[^)]+)\)")
ROW = re.compile(r"^\| `(?P<theirs>test_\w+)` \| [^|]+ \| (?P<ours>[^|]+) \| [^|]*\|$", re.MULTILINE)


def names_of_tests(source: str) -> set[str]:
    """The names of the test functions of a module."""
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def named(text: str) -> set[tuple[Path, str]]:
    """The tests that a page links to, each by its file and its name."""
    return {((PAGE.parent / link["target"]).resolve(), link["test"]) for link in LINK.finditer(text)}


def missing(text: str) -> list[str]:
    """Links of a page that lead to no test, or to another file than they say."""
    found = []
    for link in LINK.finditer(text):
        file = (PAGE.parent / link["target"]).resolve()
        if file.name != link["file"] or not file.is_file() or link["test"] not in names_of_tests(file.read_text()):
            found.append(link[0])
    return found


def test_every_test_that_the_page_names_is_there():
    assert missing(PAGE.read_text()) == []


@pytest.mark.parametrize("link", [
    "[test_page.py::test_nothing](../tests/parity/test_page.py)", "[test_no.py::test_it](../tests/parity/test_no.py)",
    "[test_other.py::test_a_test_that_is_not_there_is_seen](../tests/parity/test_page.py)",
])  # fmt: skip
def test_a_test_that_is_not_there_is_seen(link: str):
    assert missing(link) == [link]


def test_every_test_of_this_folder_is_named_in_the_page():
    files = [file for file in HERE.glob("test_*.py") if file != Path(__file__)]
    ours = {(file, test) for file in files for test in names_of_tests(file.read_text())}
    assert len(files) > 5
    assert ours - named(PAGE.read_text()) == set()


def test_every_row_has_a_test_and_the_page_counts_right():
    text = PAGE.read_text()
    rows = list(ROW.finditer(text))
    assert len(rows) == text.count("\n| `test_")
    assert all(LINK.search(row["ours"]) for row in rows)
    counted = re.search(r"it has (\d+) tests", text)
    assert counted is not None
    assert int(counted[1]) == len({row["theirs"] for row in rows}) == len(rows)
