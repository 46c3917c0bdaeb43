"""The digits example: trained on the tree, deployed by the graph, the same numbers in onnxruntime."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

for package in ("onnx", "onnxscript", "onnxruntime", "pygraphviz"):
    pytest.importorskip(package, reason=f"{package} is in the extra 'graph'")
pytest.importorskip("sklearn", reason="the digits are those of scikit-learn")

from examples import fx_to_onnx as example  # noqa: E402 - it imports what may be missing


def test_it_trains_traces_draws_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str):
    picture = tmp_path / "graph.png"
    example.main(picture, epochs=example.EPOCHS if size == "full" else 2)
    printed = capsys.readouterr().out
    assert "all inside: True" in printed
    assert "outputs equal bit for bit: True; state dict keys equal: True" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    worst = [float(text) for text in re.findall(r"largest difference (\S+)", printed)]
    assert len(worst) == 2
    assert max(worst) < 1e-5
    shares = [float(text) for text in re.findall(r"([\d.]+)%", printed)]
    assert min(shares) > 90
    assert "4 Gemm" in printed  # the adapter's two beside the base and the head
