"""The example that several processes run: started as a reader would, by torchrun with two of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples import train_ddp as example
from tests.architecture import ROOT

Run = tuple[str, Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What it printed, and where it saved; no port is fixed, so that others may run beside it."""
    saved = tmp_path_factory.mktemp("example") / "new" / "model.pt"
    torchrun = [sys.executable, "-W", "error", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(ROOT / "examples" / "train_ddp.py"), str(saved)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, saved


def test_two_processes_learn_and_stay_the_same(finished: Run):
    printed, _ = finished
    assert printed.startswith(f"2 processes, {example.STEPS} steps\n")
    losses = [float(loss) for loss in re.findall(r"^step +\d+ +loss (\d+\.\d+)$", printed, re.MULTILINE)]
    assert len(losses) == example.STEPS // example.EVERY + 1
    assert 1.3 < losses[0] < 1.5  # four classes, and nothing learnt: log 4
    assert losses[-1] < 0.5 * losses[0]
    assert "largest difference between the processes: 0\n" in printed


def test_the_check_is_printed_once_with_everything_inside(finished: Run):
    printed, _ = finished
    for name, spec in (
        ("conv1.weight", "spectral(bound=1.0"),
        ("conv2.weight", "spectral(bound=1.0"),
        ("hidden.weight", "orthogonal"),
    ):
        rows = [line for line in printed.splitlines() if line.startswith(name)]
        assert len(rows) == 1
        assert spec in rows[0]
        assert rows[0].endswith("ok")
    assert printed.count("3 of 3 inside their constraint") == 1


def test_what_was_saved_is_a_plain_model_inside_its_sets(finished: Run):
    """The sets are measured by torch's own functions."""
    printed, saved = finished
    state = torch.load(saved)
    plain = example.Net()
    plain.load_state_dict(state, strict=True)
    for name in ("conv1.weight", "conv2.weight"):
        assert torch.linalg.matrix_norm(state[name].flatten(1).double(), 2) <= 1.001
    hidden = state["hidden.weight"].double()
    torch.testing.assert_close(hidden @ hidden.T, torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-5)
    constrained, loaded = re.search(
        r"accuracy constrained ([\d.]+), loaded into a plain model ([\d.]+)", printed
    ).groups()
    assert constrained == loaded
    assert float(loaded) > 0.8
    assert f"saved: {saved}" in printed
