"""``computed-surgery rewrite`` as people and programs call it: output, exit codes, files, pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rewrite.cli import app
from rewrite.codes import CODES
from tests.architecture import ROOT, run_python
from tests.rewrite.test_cli import in_terminal

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, flag=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 2, bias=flag)
        self.scale = nn.Parameter(torch.ones(1))  # learned
"""
EDITED = NET.replace("from torch import nn\n", "from torch import nn\nfrom surgery import constrain\n").replace(
    "nn.Conv2d(3, 8, 3)", 'constrain(nn.Conv2d(3, 8, 3), weight="spectral")'
)
TWO = "from torch import nn\nclass A(nn.Module):\n    def __init__(self):\n        self.conv = nn.Conv2d(1, 1, 1)\n" * 2
RULE = ("-r", "*.conv1.weight=spectral")


def call(*arguments: str | Path, data: bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["rewrite", *map(str, arguments)], input=data)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "net.py"
    file.write_text(NET)
    return Path("net.py")


def test_a_diff_is_shown_and_nothing_is_written(net: Path):
    result = call(net, *RULE)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:2] == ["--- net.py", "+++ net.py"]
    assert '+        self.conv1 = constrain(nn.Conv2d(3, 8, 3), weight="spectral")' in result.stdout.splitlines()
    assert result.stderr == "1 file would change (1 edit), 1 file looked at\n"
    assert net.read_text() == NET


def test_the_diff_is_one_that_patch_takes(net: Path):
    result = call(net, *RULE)
    ran = subprocess.run(["patch", "-p0"], input=result.stdout, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert net.read_text() == EDITED


def test_write_writes_and_a_second_run_finds_nothing(net: Path):
    result = call(net, *RULE, "--write")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "1 file changed (1 edit), 1 file looked at\n"
    assert net.read_text() == EDITED
    again = call(net, *RULE)
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr == "nothing to change, 1 file looked at\n"


def test_check_names_the_files(net: Path):
    result = call(net, *RULE, "--check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[0] == "would rewrite net.py"
    assert call(net, *RULE, "--check", "--exit-zero").exit_code == 0


def test_a_parameter_of_ones_own_is_followed_by_a_statement(net: Path):
    call(net, "-r", "*.scale=positive", "--write")
    lines = net.read_text().splitlines()
    at = next(index for index, line in enumerate(lines) if "self.scale" in line)
    assert lines[at + 1] == '        constrain(self, scale="positive")'


def test_what_is_left_is_told_with_its_place(net: Path):
    net.write_text(NET + "\n\nclass Other(nn.Module):\n    pass\n")  # two that nothing builds: no root is found
    result = call(net, "-r", "*.fc.bias=positive")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[0] == (
        "net.py:9:19: CS113 rule '*.fc.bias': bias of nn.Linear(8, 2, bias=flag) may be missing"
    )
    assert "1 place left" in result.stderr


def test_the_same_is_written_above_the_root_where_there_is_one(net: Path):
    result = call(net, "-r", "*.fc.bias=positive", "-v")
    assert '+@constrained({"*.fc.bias": "positive"}, strict=False)' in result.stdout
    assert "CS113" in result.stderr  # the reason
    assert "CS120 names begin at Net" in result.stderr


def test_a_rule_that_matches_nothing_is_left(net: Path):
    result = call(net, "-r", "*.nothing.weight=spectral")
    assert result.exit_code == 1
    assert result.stderr.startswith("<rules>:1:1: CS117 rule '*.nothing.weight': 'spectral' matches nothing")


def test_a_file_that_is_no_python_does_not_stop_the_others(net: Path):
    net.with_name("bad.py").write_text("class Conv1(:\n  self.conv1 = nn.\n")
    result = call(".", *RULE, "--write")
    assert result.exit_code == 3
    assert result.stderr.startswith("bad.py:1:13: CS130 invalid syntax")
    assert net.read_text() == EDITED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no paths"),
        (("net.py",), "no rules"),
        (("nowhere.py", *RULE), "no such file or folder: 'nowhere.py'"),
        (("net.py", *RULE, "--write", "--check"), "exclude each other"),
        (("-", "net.py", *RULE), "- stands alone"),
        (("net.py", *RULE, "--root", "Nett"), "no such class; the given files have Net"),
        (("net.py", *RULE, "--select", "XY"), "no code begins with 'XY'"),
        (("net.py", "-r", "*.weight"), "write PATTERN=SPEC, such as '*.weight=spectral'"),
        (("net.py", "-r", "*.weight=spectrall"), "did you mean 'spectral'"),
        (("net.py", "-r", "a..b=spectral"), "column 3"),
        (("net.py", "-r", "*.weight@F.linear=spectral"), "only a graph knows"),
        (("--explain", "CS999"), "unknown code"),
        (("net.py", *RULE, "--config", "none.toml"), "none.toml"),
    ],
)
def test_wrong_usage_exits_with_2_and_changes_nothing(net: Path, arguments: tuple[str, ...], message: str):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert net.read_text() == NET


def test_standard_input_becomes_standard_output(net: Path):
    result = call("-", *RULE, "--write", data=NET.encode())
    assert (result.exit_code, result.stdout) == (0, EDITED)
    broken = call("-", *RULE, "--write", "--stdin-filename", "x.py", data=b"def (\n")
    assert (broken.exit_code, broken.stdout) == (3, "def (\n")
    assert broken.stderr.startswith("x.py:1:5: CS130")


def test_programs_get_json_sarif_and_commands(net: Path):
    rows = json.loads(call(net, *RULE, "--output-format", "json").stdout)
    assert [(row["code"], row["kind"], row["line"]) for row in rows] == [("CS120", "note", 5), ("CS100", "edit", 8)]
    log = json.loads(call(net, *RULE, "--output-format", "sarif").stdout)
    assert log["version"] == "2.1.0"
    [run] = log["runs"]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == set(CODES)
    assert [result["ruleId"] for result in run["results"]] == ["CS120", "CS100"]
    lines = call(net, *RULE, "--output-format", "github").stdout.splitlines()
    assert lines[1].startswith("::warning file=net.py,line=8,col=22,title=CS100::")


def test_codes_are_selected_and_ignored(net: Path):
    assert call(net, *RULE, "--ignore", "CS100").stdout == ""
    assert call(net, *RULE, "-r", "*.scale=positive", "--select", "CS101").stdout.count("+        ") == 1
    assert "1  CS100  a constructor call is constrained" in call(net, *RULE, "--statistics").stdout


def test_comments_silence_edits_and_places(net: Path):
    net.write_text(NET.replace("nn.Conv2d(3, 8, 3)", "nn.Conv2d(3, 8, 3)  # noqa: CS100"))
    assert call(net, *RULE).exit_code == 0
    net.write_text("# computed-surgery: skip-file\n" + NET)
    result = call(net, *RULE, "-v")
    assert result.exit_code == 0
    assert "CS133 it says skip-file" in result.stderr


def test_add_noqa_silences_what_was_left_and_nothing_else(net: Path):
    net.write_text(NET + "\n\nclass Other(nn.Module):\n    pass\n")
    call(net, "-r", "*.fc.bias=positive", "--add-noqa")
    assert "bias=flag)  # noqa: CS113" in net.read_text()
    assert call(net, "-r", "*.fc.bias=positive").exit_code == 0


def test_rules_come_from_the_project(net: Path):
    Path("pyproject.toml").write_text('[tool.computed-surgery]\nrules = { "*.conv1.weight" = "spectral" }\n')
    assert 'weight="spectral"' in call(net).stdout
    assert "no rules" in call(net, "--isolated").stderr
    Path("rules.toml").write_text('"*.conv1.weight" = "positive"\n')
    assert 'weight="positive"' in call(net, "--rules", "rules.toml").stdout


def test_exemptions_and_later_rules(net: Path):
    assert call(net, "-r", "*.weight=spectral", "-r", "*.conv1.weight=none").stdout.count("constrain(nn.") == 1
    assert 'weight="positive"' in call(net, "-r", "*.weight=spectral", "-r", "*.conv1.weight=positive").stdout


def test_a_notebook_is_told_of(net: Path):
    Path("book.ipynb").write_text("{}")
    result = call(".", *RULE, "--write")
    assert "book.ipynb:1:1: CS132" in result.stderr
    assert net.read_text() == EDITED


def test_many_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for index in range(40):
        Path(f"net{index:02}.py").write_text(NET if index % 3 else "x = 1\n")
    first, second = (call(".", *RULE, "-j", jobs) for jobs in ("1", "2"))
    assert (first.stdout, first.stderr, first.exit_code) == (second.stdout, second.stderr, second.exit_code)
    assert first.stdout.count("constrain(nn.Conv2d") == 26
    assert first.stderr == "26 files would change (26 edits), 40 files looked at\n"


def test_a_class_of_another_file_is_followed_where_a_root_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    package = Path("nets")
    package.mkdir()
    package.joinpath("__init__.py").write_text("from .block import Block\n")
    package.joinpath("block.py").write_text(
        "from torch import nn\nclass Block(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = nn.Linear(1, 1)\n"
    )
    package.joinpath("net.py").write_text(
        "from torch import nn\nfrom . import Block\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.body = Block()\n        self.head = nn.Linear(1, 1)\n"
    )
    result = call("nets", "-r", "body.fc.weight=spectral", "--root", "Net", "--write")
    assert result.exit_code == 0, result.stderr
    assert 'constrain(nn.Linear(1, 1), weight="spectral")' in package.joinpath("block.py").read_text()
    assert "constrain" not in package.joinpath("net.py").read_text()


def test_the_diff_is_coloured_in_a_terminal_alone(net: Path):
    environment = {**os.environ, "FORCE_COLOR": "1"}
    command = [sys.executable, "-m", "rewrite", "rewrite", str(Path.cwd() / net), *RULE]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert "\x1b[32m+" in ran.stdout
    assert "\x1b" not in call(net, *RULE).stdout


def test_help_fits_a_terminal_of_80_columns():
    printed = re.sub(r"\x1b\[[\d;]*m", "", in_terminal(80, "rewrite", "--help")).splitlines()
    assert max(map(len, printed)) <= 80
    assert any("--write" in line for line in printed)


def test_torch_is_not_imported(net: Path):
    code = (
        "import sys\nfrom rewrite.cli import app\n"
        f"sys.argv = ['x', 'rewrite', {str(Path.cwd() / net)!r}, '-r', '*.conv1.weight=spectral', '-q']\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print(*({'torch', 'numpy', 'libcst', 'rewrite.rewriting'} & set(sys.modules)))"
    )
    assert run_python(code).splitlines()[-1] == "rewrite.rewriting"


def test_every_code_explains_itself():
    for name, code in CODES.items():
        result = call("--explain", name.lower())
        assert result.exit_code == 0
        assert result.stdout.startswith(f"{name} ({code.weight.value}): {code.title}\n\n")
        assert code.explanation.endswith(".")


OLD = """\
import torch
from torch import nn
from torch.nn.utils import weight_norm


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = weight_norm(nn.Conv1d(3, 8, 3))
"""


def test_old_idioms_are_migrated(net: Path):
    net.write_text(OLD)
    result = call(net, "--migrate")
    assert result.exit_code == 1
    assert '+        self.conv1 = constrain(nn.Conv1d(3, 8, 3), weight="weight_norm")' in result.stdout
    assert net.read_text() == OLD
    assert call(net, "--migrate", "--write").exit_code == 0
    assert 'constrain(nn.Conv1d(3, 8, 3), weight="weight_norm")' in net.read_text()
    assert call(net, "--migrate").exit_code == 0


def test_old_idioms_become_those_of_torch_where_that_is_asked(net: Path):
    net.write_text(OLD)
    assert "parametrizations" in call(net, "--migrate", "--target", "torch").stdout
    for wrong in (("--migrate", *RULE), ("--target", "torch", *RULE), ("--unsafe-fixes", *RULE)):
        assert call(net, *wrong).exit_code == 2


def test_files_that_import_each_other_are_migrated_together(net: Path):
    """One that removes the norm of another holds it back; a third knows nothing of them."""
    Path("a.py").write_text(OLD)
    Path("b.py").write_text(
        "from a import Net\nfrom torch.nn.utils import remove_weight_norm\nremove_weight_norm(x().y)\n"
    )
    Path("c.py").write_text(OLD)
    call(".", "--migrate", "--write")
    assert "constrain" in Path("c.py").read_text()


def test_notes_tell_of_checkpoints_and_of_other_builders(net: Path):
    head = "class {}({}):\n    def __init__(self):\n        super().__init__()\n        self.{}\n"
    net.write_text(
        "from torch import nn\n"
        + head.format("Block", "nn.Module", "fc = nn.Linear(1, 1)")
        + head.format("Net", "nn.Module", "a = Block()")
        + "    @classmethod\n    def from_pretrained(cls, path):\n        return cls()\n"
        + head.format("Other", "nn.Module", "b = Block()")
    )
    told = call(net, "-r", "a.fc.weight=spectral", "--root", "Net", "-v").stderr
    assert "net.py:6:1: CS122 a plain checkpoint loaded by Net.from_pretrained would lose weights" in told
    assert "net.py:16:18: CS123 Other builds Block too, which is constrained for Net" in told


@pytest.mark.parametrize(
    "shape",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r\n", 4).encode(),
        lambda text: text.replace("    ", "\t").encode(),
        lambda text: text.replace("class", "\fclass").encode(),
        lambda text: ("# coding: latin-1\n# \xe9\n" + text).encode("latin-1"),
        lambda text: text.rstrip("\n").encode(),
        lambda text: text.replace("# learned", "# \u00fcber \u4e16").encode(),
    ],
    ids=["mark", "CRLF", "mixed", "tabs", "form feed", "latin-1", "no final newline", "other letters"],
)
def test_everything_else_of_a_file_survives(net: Path, shape: Callable[[str], bytes]):
    """The result is the edit of the file as it is, byte for byte; mode and links stay."""
    net.write_bytes(shape(NET))
    net.chmod(0o640)
    Path("link.py").symlink_to(net)
    result = call("link.py", *RULE, "-r", "*.scale=positive", "--write")
    assert result.exit_code == 0, result.stderr
    assert Path("link.py").is_symlink()
    assert net.stat().st_mode & 0o777 == 0o640
    after = net.read_bytes()
    assert b'constrain(nn.Conv2d(3, 8, 3), weight="spectral")' in after
    assert b'constrain(self, scale="positive")' in after
    added = [b"from surgery import constrain", b'constrain(self, scale="positive")']
    kept = [line for line in re.split(rb"\r\n|\n", after) if line.strip() not in added]
    unwrapped = [line.replace(b"constrain(nn", b"nn").replace(b', weight="spectral")', b"") for line in kept]
    assert unwrapped == re.split(rb"\r\n|\n", shape(NET))
