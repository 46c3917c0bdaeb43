"""docs/rewrite.md has every code, the README's example is what the command prints, and the hook is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rewrite.cli import app
from rewrite.codes import CODES
from tests.architecture import ROOT

PAGE = ROOT / "docs" / "rewrite.md"
MARKS = ("<!-- codes -->\n", "<!-- /codes -->")


def table() -> str:
    """Every code in a row."""
    rows = [f"| {code.name} | {code.weight.value} | {code.title} |" for code in CODES.values()]
    return "\n".join(("| code | kind | what |", "|---|---|---|", *rows)) + "\n"


def written(text: str) -> str:
    """The page with its table."""
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return f"{before}{MARKS[0]}{table()}{MARKS[1]}{after}"


def test_the_page_has_every_code():
    text = PAGE.read_text()
    assert text == written(text), "python -m tests.rewrite.test_page writes it"


def test_the_example_of_the_readme_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    section = ROOT.joinpath("README.md").read_text().split("\n## Source\n")[1].split("\n## ")[0]
    [source] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    [diff] = re.findall(r"```diff\n(.*?)```", section, re.DOTALL)
    arguments = re.findall(r"`computed-surgery (rewrite [^`]*)`", section)[0].replace("'", "").split()
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(source)
    assert CliRunner().invoke(app, arguments).stdout == diff


def test_the_hook_calls_a_command_that_is_there():
    hook = ROOT.joinpath(".pre-commit-hooks.yaml").read_text()
    [entry] = re.findall(r"entry: computed-surgery (.*)", hook)
    assert CliRunner().invoke(app, [*entry.split(), "--help"]).exit_code == 0


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
