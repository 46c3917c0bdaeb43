"""``computed-surgery rewrite --model`` and ``--verify``, which run code of the user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rewrite.test_command import RULE, call

NET = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * self.conv1(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.body(x)


def build():
    return Net()


def with_inputs():
    return Net(), (torch.ones(1, 3, 8, 8),)


def broken():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = Path("net_of_test.py")
    file.write_text(NET)
    return file


def test_a_live_model_says_what_is_written(net: Path):
    result = call("--model", "net_of_test:build", *RULE, "-r", "body.0.scale=positive")
    assert result.exit_code == 1, result.stderr
    assert result.stdout.splitlines()[:2] == ["--- net_of_test.py", "+++ net_of_test.py"]
    assert '+        self.conv1 = constrain(nn.Conv2d(3, 3, 3), weight="spectral")' in result.stdout
    assert '+@constrained({"body.0.scale": "positive"}, strict=False)' in result.stdout
    assert net.read_text() == NET


def test_it_is_written_once_it_is_verified_and_emitted_as_a_codemod(net: Path):
    result = call(
        "--model", "net_of_test:build", *RULE, "--verify", "net_of_test:with_inputs", "--emit", "mod.py", "--write"
    )
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("verify: ")]
    assert len(lines) == 3
    assert "entries with the names, order and bits" in lines[0]
    edited = net.read_text()
    assert edited != NET
    net.write_text(NET)
    command = [sys.executable, "-m", "libcst.tool", "codemod", "-x", "--no-format", "mod.Constrain", str(net)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert net.read_text() == edited


def test_a_result_that_is_not_the_same_is_not_written(net: Path):
    """The builder that verifies makes another model each time."""
    net.write_text(NET + "\n\nimport os\n\n\ndef changing():\n    torch.manual_seed(os.getpid())\n    return Net()\n")
    before = net.read_text()
    result = call(net, *RULE, "--verify", "net_of_test:changing", "--write")
    assert result.exit_code == 1
    assert "verify: " in result.stderr
    assert net.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "net_of_test", *RULE), "MODULE:CALLABLE"),
        (("--model", "nowhere:build", *RULE), "there is no module 'nowhere'"),
        (("--model", "net_of_test:missing", *RULE), "build"),
        (("--model", "net_of_test:broken", *RULE), "no weights here"),
        (("--model", "net_of_test:build", "-r", "*.none.weight=spectral"), "matches none"),
        (("net_of_test.py", "--model", "net_of_test:build", *RULE), "one folder"),
        (("--model", "net_of_test:build", "--migrate"), "no other way"),
        (("net_of_test.py", "--emit", "x.py", *RULE), "are for --model"),
    ],
)
def test_wrong_usage_is_told(net: Path, arguments: tuple[str, ...], message: str):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert net.read_text() == NET
