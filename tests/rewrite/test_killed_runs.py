"""A run over a folder that is killed: every file is as it was, or as it was to be."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.architecture import ROOT

NET = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv{number} = nn.Conv2d(3, 8, 3)
"""
FILES = 60


def texts() -> dict[str, str]:
    return {f"net{number:02}.py": NET.replace("{number}", str(number)) for number in range(FILES)}


def edited(text: str) -> str:
    head, call = "from torch import nn\n", "nn.Conv2d(3, 8, 3)"
    return text.replace(head, f"{head}from surgery import constrain\n").replace(
        call, f'constrain({call}, weight="spectral")'
    )


def command(folder: Path) -> subprocess.Popen[bytes]:
    rule = ("-r", "*.conv*.weight=spectral", "--write", "-j", "1", "--isolated")
    return subprocess.Popen(
        [sys.executable, "-m", "rewrite", "rewrite", str(folder), *rule],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def test_a_run_that_is_killed_leaves_every_file_old_or_new(
    tmp_path: Path, size: str, evidence: Callable[[str, str], None]
):
    chance, kills = random.Random(2), 100 if size == "full" else 6
    begin = time.perf_counter()
    whole = tmp_path / "whole"
    whole.mkdir()
    for name, text in texts().items():
        whole.joinpath(name).write_text(text)
    assert command(whole).wait() == 0
    seconds = time.perf_counter() - begin
    assert all(whole.joinpath(name).read_text() == edited(text) for name, text in texts().items())
    new, between = 0, 0
    for kill in range(kills):
        folder = tmp_path / str(kill)
        folder.mkdir()
        for name, text in texts().items():
            folder.joinpath(name).write_text(text)
        process = command(folder)
        time.sleep(seconds * chance.uniform(0.3, 1.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        states = {name: folder.joinpath(name).read_text() for name in texts()}
        changed = sum(states[name] == edited(text) for name, text in texts().items())
        assert changed + sum(states[name] == text for name, text in texts().items()) == FILES
        new, between = new + changed, between + (0 < changed < FILES)
    evidence(
        "runs over a folder that are killed", f"{kills} kills, {between} in the middle; {new} files new, others old"
    )
