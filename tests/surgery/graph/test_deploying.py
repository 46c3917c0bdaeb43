"""What takes plain graphs: ONNX, quantisation, fusion, pictures."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import surgery

RULES = {"*@Conv2d.weight": "spectral", "norm.weight": "positive", "wide.weight": "lora(rank=2)"}
LEAF = "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"


class Net(nn.Module):
    """Convolutions, batch normalisation, a residual, a wide layer with an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.wide = nn.Linear(4, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.stem(x)))
        hidden = hidden + F.relu(self.conv(hidden))
        return self.head(self.dropout(F.relu(self.wide(hidden.mean((2, 3))))))


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 1, 6, 6)


def graph_and_tree() -> tuple[nn.Module, nn.Module]:
    """In eval, with adapters that do something."""
    model = Net()
    model(images())
    tree = surgery.apply_constraints(copy.deepcopy(model), RULES)
    graph = surgery.apply_constraints(model, RULES, via="fx", example=(images(),))
    for name, raw in tree.named_parameters():
        if name.endswith(".B"):
            nn.init.normal_(raw)
    graph.load_state_dict(tree.state_dict())
    return graph.eval(), tree.eval()


def written(model: nn.Module, file: Path, x: Tensor, dynamic_shapes: Any = None) -> Counter[str]:
    """Export as ONNX and return the operations in the file."""
    onnx = pytest.importorskip("onnx", reason="onnx is in the extra 'graph'")
    pytest.importorskip("onnxscript", reason="onnxscript is in the extra 'graph'")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=dynamic_shapes, verbose=False)
    assert program is not None
    program.save(file)
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def by_runtime(file: Path, x: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra 'graph'")
    session = runtime.InferenceSession(str(file))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)


@pytest.mark.filterwarnings(LEAF)
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed batch", "any batch"])
def test_onnx_gives_the_same_numbers_with_constraints_folded_and_adapters_factored(tmp_path: Path, dynamic: bool):
    graph, tree = graph_and_tree()
    (weight,) = (node for node in graph.graph.nodes if node.name == "stem_weight")
    assert weight.meta["tensor_meta"].shape == (4, 1, 3, 3)
