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
    shapes = {"x": {0: torch.export.Dim("batch")}} if dynamic else None
    operations = written(graph, tmp_path / "graph.onnx", images(), shapes)
    for batch in (4, 1, 9) if dynamic else (4,):
        x = images(batch)
        torch.testing.assert_close(by_runtime(tmp_path / "graph.onnx", x), tree(x), rtol=1e-5, atol=1e-5)
    baked = written(surgery.bake(graph), tmp_path / "baked.onnx", images(), shapes)
    assert operations - baked == Counter({"Gemm": 2, "Add": 1}) or operations["Gemm"] == baked["Gemm"] + 2
    assert baked["Conv"] == operations["Conv"] == 2
    assert not {"Sqrt", "Softplus", "ReduceL2", "Div"} & set(operations)


@pytest.mark.filterwarnings(LEAF)
def test_an_adapter_adds_two_thin_matrices_to_the_file_and_no_dense_one(tmp_path: Path):
    model = nn.Sequential(nn.Linear(64, 256))
    graph = surgery.apply_constraints(model, {"0.weight": "lora(rank=2)"}, via="fx").eval()
    with torch.no_grad():
        graph.get_parameter("0.weight.B").normal_()
    x = torch.randn(2, 64)
    factored = written(graph, tmp_path / "factored.onnx", x)
    dense = written(surgery.bake(graph), tmp_path / "dense.onnx", x)
    assert (factored["Gemm"] + factored["MatMul"], dense["Gemm"] + dense["MatMul"]) == (3, 1)
    extra = (tmp_path / "factored.onnx").stat().st_size - (tmp_path / "dense.onnx").stat().st_size
    assert 4 * 2 * (64 + 256) < extra < 4 * 64 * 256 / 4


def test_the_old_exporter_takes_the_baked_model(tmp_path: Path):
    onnx = pytest.importorskip("onnx", reason="onnx is in the extra 'graph'")
    graph, _ = graph_and_tree()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of itself
        torch.onnx.export(surgery.bake(graph), (images(),), tmp_path / "old.onnx", dynamo=False)
    x = images()
    torch.testing.assert_close(by_runtime(tmp_path / "old.onnx", x), graph(x), rtol=1e-5, atol=1e-5)
    assert len(onnx.load(tmp_path / "old.onnx").graph.node) < 20


def test_torch_fuses_batch_normalisation_from_a_trace_of_the_baked_tree():
    """Its pass looks for modules of convolutions: a graph has functions, so it finds them in a trace of the tree."""
    from torch.fx.experimental.optimization import fuse

    graph, tree = graph_and_tree()
    x = images()
    expected = tree(x)
    plain = fuse(surgery.bake(tree).eval())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-5)
    kept = surgery.bake(graph)
    assert any("norm" in str(node.target) for node in kept.graph.nodes if node.op == "call_module")


def test_torchao_quantises_the_baked_model_and_leaves_a_constrained_weight_alone():
    ao = pytest.importorskip("torchao.quantization", reason="torchao is in the environment of `make peers`")
    graph, tree = graph_and_tree()
    x = images()
    baked = surgery.bake(graph)
    expected = baked(x)
    ao.quantize_(baked, ao.Int8WeightOnlyConfig())
    assert type(baked.get_submodule("wide").weight).__name__ != "Parameter"
    error = (baked(x) - expected).abs().max() / expected.abs().max()
    assert 0 < error < 0.05
    before = tree(x)
    with pytest.raises(Exception, match=r"wide\.weight.*bake|Linear\.weight is a computed parameter.*surgery\.bake"):
        ao.quantize_(tree, ao.Int8WeightOnlyConfig(), filter_fn=lambda module, name: name == "wide")
    assert torch.equal(tree(x), before)


def test_the_picture_shows_every_computed_parameter_and_each_operation(tmp_path: Path):
    graph, _ = graph_and_tree()
    source = surgery.draw(graph, tmp_path / "graph.dot").read_text()
    for name, parameter in surgery.computed_parameters(graph).items():
        assert name in source
        assert parameter.spec in source
    assert source.count('fillcolor="#ffe3a3"') == len(surgery.computed_parameters(graph))
    assert "linear by lora(rank=2)" in source
    assert "stem.bias" not in source
    pytest.importorskip("pygraphviz", reason="pygraphviz is in the extra 'graph'")
    assert surgery.draw(graph, tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in surgery.draw(graph, str(tmp_path / "graph.svg")).read_text()


def test_only_graphs_are_drawn(tmp_path: Path):
    with pytest.raises(surgery.SurgeryError, match=r"draw: Linear has no graph; make one with apply_constraints"):
        surgery.draw(nn.Linear(2, 2), tmp_path / "graph.svg")
    assert not list(tmp_path.iterdir())


def test_a_stock_interpreter_and_shape_propagation_run_the_graph():
    from torch.fx.passes.shape_prop import ShapeProp

    graph, tree = graph_and_tree()
    x = images()
    assert torch.equal(fx.Interpreter(graph).run(x), tree(x))
    ShapeProp(graph).propagate(x)
    (weight,) = (node for node in graph.graph.nodes if node.name == "stem_weight")
    assert weight.meta["tensor_meta"].shape == (4, 1, 3, 3)


@pytest.mark.parametrize("route", ["tree", "graph"])
def test_torch_ao_quantises_what_is_baked(route: str):
    """It fuses convolution and batch normalisation only in a trace of the tree, where they are modules."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    graph, tree = graph_and_tree()
    x = images(16)
    expected = tree(x)
    baked = surgery.bake(tree if route == "tree" else graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it deprecates itself, and observers warn of ranges
        prepared = prepare_fx(baked.eval(), get_default_qconfig_mapping("x86"), (x,))
        prepared(x)
        quantised = convert_fx(prepared)
        found = quantised(x)
    assert (found - expected).abs().max() / expected.abs().max() < 0.1
    names = {type(module).__name__ for module in quantised.modules()}
    assert ("ConvReLU2d" in names) is (route == "tree")
