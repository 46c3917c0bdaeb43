"""docs/names.md lists exactly the public names, each with its package, its arguments, its effect and its result."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "names.md"
PACKAGES = ("computed", "surgery", "rewrite")
EFFECTS = {"in place", "in place, or a new object", "changes nothing", "a new object", "class", "error"}
ROW = re.compile(
    r"^\| `(?P<call>[^`]+)` \| (?P<package>\w+) \| (?P<effect>[^|]+) \| (?P<returns>[^|]+) \| (?P<does>[^|]+) \|$"
)
EVERY_NAME = [(package, name) for package in PACKAGES for name in importlib.import_module(package).__all__]


def rows() -> list[dict[str, str]]:
    """The rows of the tables, without heads."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    found = {line: ROW.match(line) for line in lines}
    assert all(found.values()), [line for line, match in found.items() if match is None]
    return [{key: text.strip() for key, text in match.groupdict().items()} for match in found.values() if match]


def name_of(row: dict[str, str]) -> str:
    return row["call"].split("(")[0]


def written(function: object) -> str:
    """A signature without annotations; a default that is a mapping of nothing is written as {}."""
    signature = inspect.signature(function)
    bare = [
        parameter.replace(
            annotation=parameter.empty,
            default={} if repr(parameter.default) == "mappingproxy({})" else parameter.default,
        )
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def test_the_page_lists_exactly_the_public_names():
    assert sorted((row["package"], name_of(row)) for row in rows()) == sorted(EVERY_NAME)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["call"])
def test_a_row_is_right(row: dict[str, str]):
    found = getattr(importlib.import_module(row["package"]), name_of(row))
    is_error = inspect.isclass(found) and issubclass(found, Exception)
    assert row["effect"] in EFFECTS
    assert (row["effect"] == "error") is is_error
    assert (row["effect"] == "class") is (inspect.isclass(found) and not is_error)
    assert row["returns"]
    if not inspect.isclass(found):
        assert row["call"] == name_of(row) + written(found).replace("'", '"')


def test_the_page_counts_right():
    counted = re.search(r"(\d+) names", PAGE.read_text())
    assert counted is not None
    assert int(counted[1]) == len(EVERY_NAME)
