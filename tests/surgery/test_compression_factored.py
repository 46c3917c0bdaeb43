"""Factors make things smaller: the graph, the ONNX file and the checkpoint hold them, and nothing dense."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import surgery
from surgery.graph.factored import FactoredOp

LEAF = "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"
OVERHEAD = 18_000  # bytes of an ONNX file that are no numbers: the exporter writes source lines to each node
EVERYWHERE = {"tucker": "tucker(0.15)", "cp": "cp(0.1)", "low_rank": "low_rank(6)"}
RULES = {name: {"*@{Conv2d,Linear}.weight": spec} for name, spec in EVERYWHERE.items()} | {
    "tensor_train": {"*@Conv2d.weight": "tensor_train(0.1)", "*@Linear.weight": "low_rank(6)"}
}
CONVOLUTIONS = {"tucker": 3, "cp": 3, "low_rank": 2, "tensor_train": 4}  # thin ones for each wide one
PRODUCTS = {"tucker": 3, "cp": 2, "low_rank": 2, "tensor_train": 2}


class Net(nn.Module):
    """A convolution with strides, one by the name of its padding, a wide layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(48, 64, 3, stride=2, padding=1)
        self.second = nn.Conv2d(64, 64, 3, padding="same", bias=False)
        self.wide = nn.Linear(64, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.second(self.first(x).relu()).relu().mean((2, 3)))


def pretrained() -> nn.Module:
    """With weights whose singular values fall, as those of trained models do."""
    model = Net().eval()
    with torch.no_grad():
        for layer in (model.first, model.second, model.wide):
            u, s, vh = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
            falling = s[0] / torch.arange(1, len(s) + 1)
            layer.weight.copy_(((u * falling) @ vh).reshape(layer.weight.shape))
    return model


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 48, 8, 8)


def graph_of(model: nn.Module, rules: dict[str, str], via: str) -> Any:
    return surgery.apply_constraints(model, rules, via=via, example=(images(),)).eval()


def exported(model: nn.Module, file: Path, x: Tensor, dynamic_shapes: Any = None) -> Any:
    """The ONNX graph that `torch.onnx.export` writes into a file."""
    onnx = pytest.importorskip("onnx", reason="onnx is in the extra 'graph'")
    pytest.importorskip("onnxscript", reason="onnxscript is in the extra 'graph'")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False, dynamic_shapes=dynamic_shapes)
    assert program is not None
    program.save(file)
    return onnx.load(file).graph


def by_runtime(file: Path, x: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra 'graph'")
    session = runtime.InferenceSession(str(file))
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def bytes_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


@pytest.mark.parametrize("via", ["fx", "export"])
@pytest.mark.parametrize("case", RULES)
def test_every_layer_of_a_graph_is_done_by_factors(case: str, via: str):
    model = pretrained()
    graph = graph_of(model, RULES[case], via)
    rules = [name for name, module in graph.named_modules() if isinstance(module, FactoredOp)]
    assert len(rules) == 3
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    assert not called & set(surgery.computed_parameters(graph))  # no value is made
    tree = surgery.apply_constraints(copy.deepcopy(model), RULES[case])
    x = images()
    torch.testing.assert_close(graph(x), tree(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(surgery.bake(graph)(x), tree(x), rtol=1e-4, atol=1e-5)


LAYERS = {
    "linear": (lambda: nn.Linear(12, 10), (3, 12)),
    "sequence": (lambda: nn.Linear(12, 10, bias=False), (2, 5, 12)),
    "conv1d": (lambda: nn.Conv1d(12, 10, 3, stride=2, padding=1), (2, 12, 9)),
    "conv2d": (lambda: nn.Conv2d(12, 10, (3, 2), dilation=(1, 2), padding=(2, 0), bias=False), (2, 12, 7, 7)),
    "conv2d same": (lambda: nn.Conv2d(12, 10, 3, padding="same"), (2, 12, 7, 7)),
    "conv2d circular": (lambda: nn.Conv2d(12, 10, 3, padding=1, padding_mode="circular"), (2, 12, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(12, 10, (1, 2, 3), stride=(1, 2, 1)), (2, 12, 4, 5, 5)),
}


EACH = [(spec, layer) for spec in ("low_rank(3)", "tucker((4, 3))", "cp(4)") for layer in LAYERS]
TRAINS = [("tensor_train((2, 3, 4))", layer) for layer in LAYERS if layer.startswith("conv2d")]


@pytest.mark.parametrize(("spec", "layer"), [*EACH, *TRAINS])
def test_every_kind_of_layer_is_done_by_factors_in_a_graph(spec: str, layer: str):
    make, shape = LAYERS[layer]
    model, x = make(), torch.randn(shape)
    graph = surgery.apply_constraints(model, {"weight": spec}, via="fx", example=(x,))
    tree = surgery.apply_constraints(copy.deepcopy(model), {"weight": spec})
    assert "weight" not in {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    for training in (True, False):
        expected = tree.train(training)(x)
        torch.testing.assert_close(graph.train(training)(x), expected, rtol=1e-5, atol=1e-6)
    for side in (graph, tree):
        for _ in range(2):  # gradients add up over two backward passes
            side(x).square().sum().backward()
    for name, raw in tree.weight.raws.items():
        torch.testing.assert_close(graph.weight.raws[name].grad, raw.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings(LEAF)
@pytest.mark.parametrize("via", ["fx", "export"])
@pytest.mark.parametrize("case", RULES)
def test_the_onnx_file_has_thin_layers_and_no_dense_weight(case: str, via: str, tmp_path: Path):
    model, x = pretrained(), images()
    graph = graph_of(model, RULES[case], via)
    file = tmp_path / "graph.onnx"
    written = exported(graph, file, x)
    operations = [node.op_type for node in written.node]
    assert operations.count("Conv") == 2 * CONVOLUTIONS[case]
    assert operations.count("Gemm") + operations.count("MatMul") == PRODUCTS[case]
    assert set(operations) <= {"Conv", "Gemm", "MatMul", "Relu", "ReduceMean", "Mul"}
    assert operations.count("Mul") == (case == "cp")

    inner = {"first": (64, 48, 3, 3), "second": (64, 64, 3, 3), "wide": (128, 64)}
    shapes = {each.name: tuple(each.dims) for each in written.initializer}
    dense = {*inner.values(), *[(shape[0], int(np.prod(shape[1:]))) for shape in inner.values()], (64, 128)}
    assert not dense & set(shapes.values())
    floats = [each for each in written.initializer if each.data_type == 1]
    held = sum(4 * int(np.prod(each.dims)) for each in floats)
    assert held == bytes_of(graph)  # each factor once, and the biases
    assert held < file.stat().st_size < held + OVERHEAD
    assert file.stat().st_size < bytes_of(model) / 4
    torch.testing.assert_close(by_runtime(file, x), graph(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings(LEAF)
def test_any_batch_and_long_sequences_stay_factored(tmp_path: Path):
    model = nn.Sequential(nn.Linear(192, 256), nn.GELU(), nn.Linear(256, 192)).eval()
    graph = surgery.apply_constraints(model, {"*.weight": "low_rank(5)"}, via="fx").eval()
    shapes = {"input": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
    file = tmp_path / "graph.onnx"
    written = exported(graph, file, torch.randn(2, 7, 192), shapes)
    assert [node.op_type for node in written.node].count("MatMul") == 4
    assert file.stat().st_size < bytes_of(graph) + OVERHEAD < bytes_of(model) / 8
    for sizes in ((1, 1), (3, 11)):
        x = torch.randn(*sizes, 192)
        torch.testing.assert_close(by_runtime(file, x), graph(x), rtol=1e-5, atol=1e-5)


LIMITS = {
    "groups": (lambda: nn.Conv2d(32, 64, 3, groups=2), "tucker(2)", 64 * 16 * 9),
    "transposed": (lambda: nn.ConvTranspose2d(32, 32, 3), "low_rank(2)", 32 * 32 * 9),
    "a chain": (lambda: nn.Conv2d(32, 32, 3), "low_rank(2) | spectral", 32 * 32 * 9),
}


@pytest.mark.filterwarnings(LEAF)
@pytest.mark.parametrize("case", LIMITS)
def test_what_has_no_rule_may_be_dense_in_the_file(case: str, tmp_path: Path):
    """The limit that docs/graphs.md states: the exporter folds a value of small factors."""
    make, spec, entries = LIMITS[case]
    graph = surgery.apply_constraints(make(), {"weight": spec}, via="fx").eval()
    x = torch.randn(1, 32, 5, 5)
    written = exported(graph, tmp_path / "graph.onnx", x)
    assert entries in {int(np.prod(each.dims)) for each in written.initializer}
    torch.testing.assert_close(by_runtime(tmp_path / "graph.onnx", x), graph(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", RULES)
def test_checkpoints_hold_the_factors(case: str, tmp_path: Path):
    model, x = pretrained(), images()
    small = surgery.apply_constraints(copy.deepcopy(model), RULES[case])
    file = tmp_path / "small.safetensors"
    surgery.save_checkpoint(small, file)
    with safe_open(file, "pt") as saved:
        sizes = {name: saved.get_tensor(name).nbytes for name in saved.keys()}  # noqa: SIM118 - no mapping
    assert sizes == {name: tensor.nbytes for name, tensor in surgery.state_dict(small).items()}
    assert sum(sizes.values()) == bytes_of(small)
    assert sum(sizes.values()) < file.stat().st_size < sum(sizes.values()) + 4_000
    assert file.stat().st_size < bytes_of(model) / 4
    again = surgery.load_checkpoint(pretrained(), file).eval()
    assert torch.equal(again(x), small(x))


# what a bake says


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "surgery")
    caplog.clear()
    return lambda: [record.getMessage() for record in caplog.records if record.getMessage().startswith("baked")]


COUNTS = {
    "low_rank(2)": (2 * 8 * 9 + 2 * 16, ""),
    "tucker((3, 2))": (3 * 2 * 9 + 3 * 16 + 2 * 8, ""),
    "cp(4)": (4 * (16 + 8 + 9), ""),
    "tensor_train((2, 3, 4))": (8 * 2 + 2 * 3 * 3 + 3 * 3 * 4 + 4 * 16, ""),
    "lora(rank=2)": (16 * 8 * 9 + 2 * 8 * 9 + 16 * 2, ""),
}


@pytest.mark.parametrize("via", ["tree", "fx"])
@pytest.mark.parametrize("spec", COUNTS)
def test_a_bake_says_how_much_is_dense_again(spec: str, via: str, said: Any):
    model = surgery.apply_constraints(nn.Conv2d(8, 16, 3), {"weight": spec}, via=via)
    before = sum(tensor.numel() for tensor in model.parameters())
    baked = surgery.bake(model)
    after = sum(tensor.numel() for tensor in baked.parameters())
    assert (before - 16, after - 16) == (COUNTS[spec][0], 1152)  # without the bias
    assert said() == [f"baked 1 of 1; dense again: {COUNTS[spec][0]:,} -> 1,152 parameters"]


def test_a_tie_counts_once_and_what_is_left_does_not_count(said: Any):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    model[1].weight = model[0].weight
    surgery.apply_constraints(model, {"0.weight": "low_rank(2)", "2.weight": "low_rank(1)"})
    surgery.bake(model, "1.weight")
    surgery.bake(model)
    assert said() == [
        "baked 1 of 2; dense again: 32 -> 64 parameters",
        "baked 1 of 1; dense again: 12 -> 32 parameters",
    ]


# what a plan says


def truth_of_low_rank(weight: Tensor, rank: int) -> float:
    s = np.linalg.svd(weight.detach().double().flatten(1).numpy(), compute_uv=False)
    return float(np.sqrt((s[rank:] ** 2).sum() / (s**2).sum()))


FACTORS = ["low_rank(6)", "tucker(0.15)", "cp(0.1)", "tensor_train(0.1)"]
LEVELS = ["fake_quant(8)", "fake_quant(4)", "fake_quant(4, scale='mse')", "lsq(3)", "binary", "ternary"]
ZEROS = ["mask(0.5)", "mask(0.5, dim=0)", "n_m(2, 4)"]


@pytest.mark.parametrize("spec", [*FACTORS, *LEVELS, *ZEROS])
def test_a_plan_says_how_far_a_convolution_moves(spec: str):
    model = pretrained()
    before = model.first.weight.detach().clone()
    plan = surgery.plan(model, {"first.weight": spec})
    (row,) = (site for site in plan.sites if site.name == "first.weight")
    surgery.apply_constraints(model, {"first.weight": spec})
    after = model.first.weight.detach()
    expected = float(np.linalg.norm((after - before).double().numpy()) / np.linalg.norm(before.double().numpy()))
    assert 0 < expected < 1
    assert row.measures.moved == pytest.approx(expected, rel=1e-4)
    assert f" {expected:.3f} " in str(plan)
    if spec == "low_rank(6)":
        assert expected == pytest.approx(truth_of_low_rank(before, 6), rel=1e-4)
