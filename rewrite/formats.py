"""Diagnostics for programs: JSON, SARIF for code scanning, commands for GitHub's log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rewrite.code import Weight
from rewrite.codes import CODES
from rewrite.diagnostics import Diagnostic

LEVELS = {Weight.EDIT: "warning", Weight.LEFT: "error", Weight.NOTE: "note", Weight.FAILED: "error"}
GITHUB_LEVELS = {**LEVELS, Weight.NOTE: "notice"}
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_json(diagnostics: Iterable[Diagnostic]) -> str:
    """One array; ``kind`` is edit, left, note or failed."""
    rows = [
        {
            "path": each.path,
            "line": each.line,
            "column": each.column,
            "code": each.code,
            "kind": CODES[each.code].weight.value,
            "message": each.message,
        }
        for each in diagnostics
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def as_sarif(diagnostics: Sequence[Diagnostic]) -> str:
    """A SARIF 2.1.0 log with one run: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html."""
    rules = [
        {
            "id": code.name,
            "shortDescription": {"text": code.title},
            "fullDescription": {"text": code.explanation},
            "defaultConfiguration": {"level": LEVELS[code.weight]},
        }
        for code in CODES.values()
    ]
    driver = {"name": "computed-surgery", "rules": rules}
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": list(map(_result, diagnostics))}
        ],
    }
    return json.dumps(log, indent=2, ensure_ascii=False)


def as_github(diagnostics: Iterable[Diagnostic]) -> str:
    """Workflow commands, one a line, that mark the places in a pull request."""
    lines = []
    for each in diagnostics:
        level = GITHUB_LEVELS[CODES[each.code].weight]
        place = f"file={_property(each.path)},line={each.line},col={each.column},title={each.code}"
        lines.append(f"::{level} {place}::{_escaped(each.message)}")
    return "\n".join(lines)


def _result(each: Diagnostic) -> dict[str, object]:
    region = {"startLine": each.line, "startColumn": each.column}
    location = {"artifactLocation": {"uri": each.path.replace("\\", "/")}, "region": region}
    return {
        "ruleId": each.code,
        "level": LEVELS[CODES[each.code].weight],
        "message": {"text": each.message},
        "locations": [{"physicalLocation": location}],
    }


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
