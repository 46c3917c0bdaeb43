"""The command line: what it prints to a terminal and to a pipe, what it refuses, and with which exit code."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from typer.testing import CliRunner, Result

from computed.registry import catalogue
from computed.spec import parse_spec
from rewrite.cli import app
from tests.architecture import ROOT, run_python

NAMES = ["conv1.weight", "stem.conv_in.weight", "conv_stem.bn.weight", "fc.bias"]


def call(*arguments: str, lines: list[str] | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input="\n".join(lines or []))


def in_terminal(columns: int, *arguments: str) -> str:
    """What the command prints to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    hidden = ("COLUMNS", "FORCE_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "rewrite", *arguments]
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(command, **ends, cwd=ROOT, env=environment) as process:
        os.close(theirs)
        printed = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    assert process.returncode in (0, 2)
    return printed.decode().replace("\r\n", "\n").replace("\x1b[1m", "").replace("\x1b[0m", "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""


def test_constraints_in_a_pipe_are_a_line_each():
    lines = call("constraints").stdout.splitlines()
    assert len(lines) == len(catalogue())
    for line, entry in zip(lines, catalogue().values(), strict=True):
        assert line.startswith(entry.signature)
        assert line.endswith(entry.summary)
    starts = {len(line) - len(entry.summary) for line, entry in zip(lines, catalogue().values(), strict=True)}
    assert len(starts) == 1, "the second column begins at one place"


@pytest.mark.parametrize("columns", [80, 132])
def test_constraints_fit_a_terminal(columns: int):
    printed = in_terminal(columns, "constraints")
    assert max(map(len, printed.splitlines())) <= columns
    words = printed.split()
    for entry in catalogue().values():
        assert set(entry.signature.split()) | set(entry.summary.split()) <= set(words)


def test_constraints_as_json_say_all_that_the_catalogue_knows():
    listed = {each["name"]: each for each in json.loads(call("constraints", "--json").stdout)}
    assert list(listed) == list(catalogue())
    lora = listed["lora"]
    assert lora["signature"].startswith("lora(rank, *, alpha=None")
    assert lora["class"] == "computed.constraints.adapters:LoRA"
    assert lora["parameters"][:2] == [
        {"name": "rank", "default": None, "keyword_only": False},
        {"name": "alpha", "default": "None", "keyword_only": True},
    ]


@pytest.mark.parametrize(("names", "lines"), [(NAMES, []), ([], ["", *NAMES])])
def test_match_prints_what_matches(names: list[str], lines: list[str]):
    ran = call("match", "*.conv*.weight", *names, lines=lines)
    assert ran.stdout.splitlines() == ["conv1.weight", "stem.conv_in.weight"]
    assert ran.exit_code == 0


def test_match_exits_with_1_where_nothing_matches():
    ran = call("match", "*.weights", *NAMES)
    assert (ran.stdout, ran.stderr, ran.exit_code) == ("", "", 1)


def test_match_shows_the_place_of_an_error():
    ran = call("match", "a..weight", *NAMES)
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == [
        "error: pattern 'a..weight', column 3: a name is empty; write a name or '*' there, or remove a dot",
        "  a..weight",
        "    ^",
    ]


@pytest.mark.parametrize(
    ("pattern", "what"),
    [("*@Conv2d.weight", "the class of a host"), ("*.weight@F.linear", "an operation")],
)
def test_match_refuses_what_a_name_does_not_tell(pattern: str, what: str):
    ran = call("match", pattern, *NAMES)
    assert ran.exit_code == 2
    assert f"pattern '{pattern}' asks for {what}" in ran.stderr


def test_match_asks_for_names_rather_than_wait_at_a_terminal():
    assert in_terminal(80, "match", "*").startswith("error: no names: write them after the pattern")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("spectral", "spectral"),
        ("symmetric|spectral( bound=2 )", "symmetric | spectral(bound=2)"),
        ("lora(8,alpha=16.)", "lora(8, alpha=16.0)"),
        ("none", "none"),
        ("frozen", "frozen"),
    ],
)
def test_spec_prints_the_canonical_text(text: str, canonical: str):
    ran = call("spec", text)
    assert (ran.stdout, ran.exit_code) == (f"{canonical}\n", 0)
    assert parse_spec(canonical) == parse_spec(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spectrall", "unknown constraint 'spectrall', did you mean 'spectral'?"),
        ("skew | frozen", "'frozen' is a spec of its own"),
        ("lora(r=8)", "lora has no argument 'r', did you mean 'rank'?"),
        ("lora", "lora needs rank"),
        ("skew |", "column 7: nothing follows the last '|'\n  skew |\n        ^\n"),
        ("日本 | 3", "column 6: '3' is neither a name nor a call of one"),
    ],
)
def test_spec_says_what_is_wrong(text: str, message: str):
    ran = call("spec", text)
    assert (ran.stdout, ran.exit_code) == ("", 2)
    assert ran.stderr.startswith("error: ")
    assert message in ran.stderr


def test_a_caret_stands_below_the_place_also_after_wide_characters():
    assert call("spec", "日本 | 3").stderr.splitlines()[1:] == ["  日本 | 3", " " * 9 + "^"]


def test_no_text_with_control_characters_reaches_the_terminal():
    ran = call("match", "\x1b[31m..x", "a")
    assert ran.exit_code == 2
    assert "\x1b" not in ran.stderr


def test_version_is_the_installed_one():
    assert call("--version").stdout.startswith("computed-surgery")


def test_no_command_imports_torch():
    code = """
import sys
from typer.testing import CliRunner
from rewrite.cli import app
for line in ("constraints", "constraints --json", "match * a", "spec lora(8)", "spec nothing"):
    CliRunner().invoke(app, line.split())
print("torch" in sys.modules, "computed.table" in sys.modules)
"""
    assert run_python(code).split() == ["False", "True"]
