"""Weights on a grid are stored as integers: in a graph, in its checkpoint, in the ONNX file."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint, Preimage
from computed.constraints.integers import Integers, OnGrid
from surgery.graph.integers import IntegerWeight
from surgery.graph.passes.integer_weights import with_integer_weights
from tests.surgery.graph.ways import pickled, saved, scripted

LEAF = "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"
pytestmark = [
    pytest.mark.filterwarnings(LEAF),
    pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning"),
]
OVERHEAD = 15_000  # bytes of an ONNX file that are no numbers
FLOAT, INT8, INT64 = 1, 3, 7  # how ONNX counts dtypes
# the last dimension of a convolution's weight is 3, that of the layer's 64
SPECS = {
    "per tensor": ("fake_quant(8, dim=None)", "fake_quant(8, dim=None)"),
    "per channel": ("fake_quant(8)", "fake_quant(8)"),
    "per input": ("fake_quant(8, dim=1)", "fake_quant(8, dim=1)"),
    "4 bits": ("fake_quant(4)", "fake_quant(4, scale='mse')"),
    "4 bits, groups": ("fake_quant(4, group=3)", "fake_quant(4, group=32)"),
    "8 bits, groups": ("fake_quant(8, group=1)", "fake_quant(8, group=64)"),
    "lsq": ("lsq(8)", "lsq(2, group=16)"),
    "binary": ("binary", "binary(None)"),
    "ternary": ("ternary", "ternary(1)"),
    "chain": ("mask(0.5) | fake_quant(8)", "n_m(2, 4) | fake_quant(4)"),
}


class Net(nn.Module):
    """A convolution and a wide layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(48, 64, 3, stride=2, padding=1)
        self.wide = nn.Linear(64, 160)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.conv(x).relu().mean((2, 3)))


def images() -> Tensor:
    return torch.randn(2, 48, 8, 8)


def graph_of(case: str, via: str = "fx", dtype: torch.dtype = torch.float32) -> Any:
    conv, wide = SPECS[case]
    example = (images().to(dtype),)
    rules = {"conv.weight": conv, "wide.weight": wide}
    return surgery.apply_constraints(Net().to(dtype).eval(), rules, via=via, example=example).eval()


def exported(model: nn.Module, file: Path, x: Tensor, opset: int | None = None) -> Any:
    """The ONNX graph that `torch.onnx.export` writes into a file, checked."""
    onnx = pytest.importorskip("onnx", reason="onnx is in the extra 'graph'")
    pytest.importorskip("onnxscript", reason="onnxscript is in the extra 'graph'")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False, opset_version=opset)
    assert program is not None
    program.save(file)
    onnx.checker.check_model(str(file))
    return onnx.load(file).graph


def by_runtime(file: Path, x: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra 'graph'")
    session = runtime.InferenceSession(str(file))
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def bytes_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def multiplied(stored: IntegerWeight) -> np.ndarray:
    """The value of stored integers, by NumPy in float32."""
    numbers, scale = stored.numbers.numpy().astype(np.float32), stored.scale.float().numpy()
    if stored.group is not None:
        return numbers * np.repeat(scale, stored.group, -1)
    if stored.dim is None:
        return numbers * scale
    return numbers * scale.reshape([-1 if dim == stored.dim else 1 for dim in range(numbers.ndim)])


@pytest.mark.parametrize("via", ["fx", "export"])
@pytest.mark.parametrize("case", SPECS)
def test_numbers_and_scales_are_the_value_bit_for_bit(case: str, via: str):
    graph, x = graph_of(case, via), images()
    integers = with_integer_weights(graph)
    values = {name: weight.value().detach() for name, weight in surgery.computed_parameters(graph).items()}
    for name, value in values.items():
        stored = integers.get_submodule(name)
        assert isinstance(stored, IntegerWeight)
        assert stored.numbers.dtype is torch.int8
        assert np.array_equal(multiplied(stored), value.numpy())
    assert torch.equal(integers(x), graph(x))
    assert not surgery.computed_parameters(integers)
    assert len(surgery.computed_parameters(graph)) == 2  # the one given stays
    assert [name for name, _ in integers.named_parameters()] == ["conv.bias", "wide.bias"]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_integers_use_the_whole_grid_and_no_more(bits: int):
    graph = surgery.apply_constraints(nn.Linear(64, 32), {"weight": f"fake_quant({bits})"}, via="fx")
    numbers = with_integer_weights(graph).weight.numbers
    assert int(numbers.abs().max()) == 2 ** (bits - 1) - 1


def test_the_integers_are_those_of_a_rounding_in_double():
    model = nn.Linear(96, 40, bias=False)
    weight = model.weight.detach().double().numpy()
    graph = surgery.apply_constraints(model, {"weight": "fake_quant(8)"}, via="fx")
    stored = with_integer_weights(graph).weight
    scale = np.abs(weight).max(1, keepdims=True) / 127
    assert stored.scale.numpy() == pytest.approx(scale[:, 0], rel=1e-4)
    assert np.abs(stored.numbers.numpy() - weight / scale).max() < 0.51


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("case", SPECS)
def test_other_dtypes_keep_their_values(case: str, dtype: torch.dtype):
    graph, x = graph_of(case, dtype=dtype), images().to(dtype)
    integers = with_integer_weights(graph)
    assert integers.wide.weight().dtype is dtype
    assert torch.equal(integers(x), graph(x))


def test_a_move_of_the_model_moves_the_dtype_of_its_values():
    integers = with_integer_weights(graph_of("per channel")).half()
    assert (integers.wide.weight().dtype, integers.wide.weight.numbers.dtype) == (torch.float16, torch.int8)


@pytest.mark.parametrize("way", [copy.deepcopy, pickled, scripted, saved])
@pytest.mark.parametrize("case", ["per tensor", "per channel", "4 bits, groups"])
def test_copies_pickles_and_scripts_do_the_same(case: str, way: Callable[[nn.Module], nn.Module]):
    integers, x = with_integer_weights(graph_of(case)), images()
    other = way(integers)
    assert torch.equal(other(x), integers(x))
    assert other.state_dict().keys() == integers.state_dict().keys()


@pytest.mark.parametrize("case", ["per tensor", "per channel", "4 bits, groups"])
def test_compilers_and_export_take_it(case: str):
    integers, x = with_integer_weights(graph_of(case)), images()
    torch.testing.assert_close(torch.compile(integers, backend="aot_eager", fullgraph=True)(x), integers(x))
    program = torch.export.export(integers, (x,))
    torch.testing.assert_close(program.module()(x), integers(x))
    assert {key: value.dtype for key, value in program.state_dict.items()}["wide.weight.numbers"] is torch.int8


def test_the_checkpoint_has_a_quarter_of_the_size(tmp_path: Path):
    graph, x = graph_of("per channel"), images()
    integers = with_integer_weights(graph)
    save_file(integers.state_dict(), tmp_path / "integers.safetensors")
    size = tmp_path.joinpath("integers.safetensors").stat().st_size
    assert size < 0.26 * bytes_of(Net()) + 1_000
    other = with_integer_weights(graph_of("per channel"))
    other.load_state_dict(load_file(tmp_path / "integers.safetensors"))
    assert torch.equal(other(x), graph(x))


# ONNX


@pytest.mark.parametrize(
    ("case", "via"), [*[(case, "fx") for case in SPECS], ("per channel", "export"), ("4 bits, groups", "export")]
)
def test_the_onnx_file_has_int8_initialisers_and_dequantises_them(case: str, via: str, tmp_path: Path):
    graph, x = graph_of(case, via), images()
    integers = with_integer_weights(graph)
    file = tmp_path / "graph.onnx"
    written = exported(integers, file, x)
    held = {each.name: each for each in written.initializer}
    names = {each.name for each in held.values() if each.data_type == INT8}
    shapes = {tuple(held[name].dims) for name in names}
    sizes = {int(np.prod(shape)) for shape in shapes}
    assert sizes == {64 * 48 * 9, 160 * 64}
    dequantising = [node for node in written.node if node.op_type == "DequantizeLinear"]
    assert len(dequantising) == 2
    assert not any(node.op_type in ("QuantizeLinear", "Cast", "Mul", "Round", "Clip") for node in written.node)
    floats = [each for each in held.values() if each.data_type == FLOAT]
    scales = sum(weight.scale.numel() for weight in (integers.conv.weight, integers.wide.weight))
    assert sum(int(np.prod(each.dims)) for each in floats) == 64 + 160 + scales  # biases and scales, nothing dense
    assert file.stat().st_size < bytes_of(integers) + OVERHEAD
    torch.testing.assert_close(by_runtime(file, x), graph(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("case", "axes"), [("per channel", [0, 0]), ("per input", [1, 1]), ("per tensor", [])])
def test_the_axis_is_that_of_the_slices(case: str, axes: list[int], tmp_path: Path):
    written = exported(with_integer_weights(graph_of(case)), tmp_path / "graph.onnx", images())
    nodes = [node for node in written.node if node.op_type == "DequantizeLinear"]
    found = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "axis"]
    assert found == axes
    inputs = {each.name: tuple(each.dims) for each in written.initializer}
    expected = [(48,), (64,)] if axes == [1, 1] else [(64,), (160,)] if axes else [(), ()]
    assert [inputs[node.input[1]] for node in nodes] == expected
    assert all(len(node.input) == 2 for node in nodes)  # no zero point is 0


def test_the_file_has_a_quarter_of_the_size_of_the_dense_one(tmp_path: Path):
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
    graph = surgery.apply_constraints(model, {"*.weight": "fake_quant(8)"}, via="fx").eval()
    x = torch.randn(3, 512)
    exported(surgery.bake(graph), tmp_path / "dense.onnx", x)
    exported(with_integer_weights(graph), tmp_path / "integers.onnx", x)
    dense, small = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("dense", "integers"))
    assert 0.25 < small / dense < 0.27
    torch.testing.assert_close(by_runtime(tmp_path / "integers.onnx", x), graph(x), rtol=1e-5, atol=1e-5)


def test_without_the_pass_the_file_holds_the_raws(tmp_path: Path):
    """Why it is needed: the exporter folds up to 8,192 numbers, and writes the rounding of others into the graph."""
    graph = surgery.apply_constraints(nn.Linear(128, 128), {"weight": "fake_quant(8)"}, via="fx").eval()
    written = exported(graph, tmp_path / "graph.onnx", torch.randn(1, 128))
    assert "Round" in {node.op_type for node in written.node}
    assert {each.data_type for each in written.initializer} == {FLOAT}


@pytest.mark.parametrize("case", ["4 bits, groups", "8 bits, groups"])
def test_groups_are_blocks_where_that_is_asked_for(case: str, tmp_path: Path):
    graph, x = graph_of(case), images()
    integers = with_integer_weights(graph, blocked=True)
    written = exported(integers, tmp_path / "graph.onnx", x, opset=21)
    nodes = [node for node in written.node if node.op_type == "DequantizeLinear"]
    settings = [{each.name: each.i for each in node.attribute} for node in nodes]
    sizes = [integers.conv.weight.group, integers.wide.weight.group]
    assert [each["block_size"] for each in settings] == sizes
    assert [each["axis"] for each in settings] == [3, 1]
    assert "Reshape" not in {node.op_type for node in written.node}
    shapes = {tuple(each.dims) for each in written.initializer if each.data_type == INT8}
    assert shapes == {(64, 48, 3, 3), (160, 64)}
    torch.testing.assert_close(by_runtime(tmp_path / "graph.onnx", x), graph(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["per channel", "4 bits, groups", "per tensor"])
def test_half_precision_is_dequantised_in_float32_and_cast(case: str, tmp_path: Path):
    graph, x = graph_of(case, dtype=torch.float16), images().half()
    written = exported(with_integer_weights(graph), tmp_path / "graph.onnx", x)
    assert sum(node.op_type == "DequantizeLinear" for node in written.node) == 2
    torch.testing.assert_close(by_runtime(tmp_path / "graph.onnx", x), graph(x), rtol=2e-2, atol=2e-3)


def test_a_tie_is_stored_once(tmp_path: Path):
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))
    model[2].weight = model[0].weight
    graph = surgery.apply_constraints(model, {"0.weight": "fake_quant(8)"}, via="fx").eval()
    integers, x = with_integer_weights(graph, "2.weight"), torch.randn(2, 128)
    assert integers.get_submodule("0").weight is integers.get_submodule("2").weight
    assert torch.equal(integers(x), graph(x))
    written = exported(integers, tmp_path / "graph.onnx", x)
    assert sum(each.data_type == INT8 for each in written.initializer) == 1


# what is taken, and what is refused


def test_some_may_be_stored_and_others_stay(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "surgery")
    rules = {"conv.weight": "fake_quant(8)", "wide.weight": "spectral", "wide.bias": "fake_quant(12, dim=None)"}
    graph = surgery.apply_constraints(Net(), rules, via="fx").eval()
    caplog.clear()
    integers, x = with_integer_weights(graph), images()
    size = 64 * 48 * 9
    assert [record.getMessage() for record in caplog.records] == [
        f"1 of 3 stored as int8: {4 * size + 256:,} -> {size + 256:,} bytes"
    ]
    assert list(surgery.computed_parameters(integers)) == ["wide.weight", "wide.bias"]
    assert torch.equal(integers(x), graph(x))
    baked = surgery.bake(integers)
    assert torch.equal(baked(x), graph(x))
    assert isinstance(baked.conv.weight, IntegerWeight)
    optimizer = torch.optim.SGD(integers.train().parameters(), lr=0.1)
    integers(x).square().sum().backward()
    optimizer.step()


def test_it_is_the_value_of_eval_that_is_stored():
    graph = graph_of("per channel").train()
    with torch.no_grad():
        graph.get_parameter("wide.weight.raw").mul_(0.3)
    integers, x = with_integer_weights(graph), images()
    assert integers.training
    assert torch.equal(integers.eval()(x), graph.eval()(x))


def test_a_recurrent_layer_takes_stored_weights():
    model = nn.LSTM(8, 16, batch_first=True)
    x = torch.randn(2, 5, 8)
    graph = surgery.apply_constraints(model, {"weight_*": "fake_quant(8)"}, via="fx", example=(x,)).eval()
    assert torch.equal(with_integer_weights(graph)(x)[0], graph(x)[0])


@pytest.mark.parametrize(
    ("rules", "patterns", "message"),
    [
        ({"weight": "spectral"}, None, r"no integers of 8 bits for weight: spectral\(norm=1\.0\) puts it on no grid"),
        ({"weight": "fake_quant(9)"}, None, r"weight: its integers have 9 bits, and int8 holds 8"),
        ({"weight": "fake_quant(8) | spectral"}, None, r"weight: fake_quant\(bits=8\) \| spectral.* on no grid"),
        ({"weight": "fake_quant(8)", "bias": "positive"}, ["weight", "bias"], r"for bias: positive.* on no grid"),
        ({"weight": "fake_quant(8)"}, "bias", r"no computed parameter matches 'bias'"),
        ({}, None, r"this Linear has no computed parameters"),
    ],
)
def test_what_eight_bits_do_not_hold_is_refused(rules: dict[str, str], patterns: Any, message: str):
    graph = surgery.apply_constraints(nn.Linear(6, 6), rules, via="fx", strict=False)
    with pytest.raises(surgery.SurgeryError, match=rf"^with_integer_weights: .*{message}"):
        with_integer_weights(graph, patterns)


def test_a_tree_is_refused():
    model = surgery.apply_constraints(nn.Linear(6, 6), {"weight": "fake_quant(8)"})
    with pytest.raises(surgery.SurgeryError, match=r"^with_integer_weights: Linear has no graph; make one with"):
        with_integer_weights(model)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(number: float):
    graph = surgery.apply_constraints(nn.Linear(6, 6), {"weight": "binary"}, via="fx")
    with torch.no_grad():
        graph.get_parameter("weight.raw")[0, 0] = number
    with pytest.raises(surgery.SurgeryError, match=r"^with_integer_weights: weight has entries that are not finite"):
        with_integer_weights(graph)


def test_meta_is_refused():
    graph = surgery.apply_constraints(nn.Linear(6, 6, device="meta"), {"weight": "fake_quant(8)"}, via="fx")
    with pytest.raises(surgery.SurgeryError, match=r"for weight: it is on meta"):
        with_integer_weights(graph)


class Halves(Constraint, OnGrid):
    """A user's own grid of halves, that counts its steps as ``steps`` says."""

    def __init__(self, steps: float = 0.5) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, raw: Tensor) -> Tensor:
        return (raw * 2).round() / 2

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return float((value * 2 - (value * 2).round()).abs().max())

    def why_no_integers(self) -> str | None:
        return None

    def integers(self, value: Tensor, raws: Sequence[Tensor]) -> Integers:
        return Integers((value / self.steps).to(torch.int8), torch.tensor(0.5), None, None)


def test_a_grid_of_ones_own_is_stored_and_wrong_integers_are_an_error():
    graph = surgery.apply_constraints(nn.Linear(6, 6), {"weight": Halves(0.5)}, via="fx")
    x = torch.randn(2, 6)
    assert torch.equal(with_integer_weights(graph)(x), graph(x))
    graph = surgery.apply_constraints(nn.Linear(6, 6), {"weight": Halves(0.25)}, via="fx")
    with torch.no_grad():
        graph.get_parameter("weight.raw").fill_(1)
    with pytest.raises(surgery.SurgeryError, match=r"^with_integer_weights: weight: the integers that Halves.* gives"):
        with_integer_weights(graph)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 4)])
def test_zeros_and_single_rows(shape: tuple[int, int]):
    model = nn.Linear(shape[1], shape[0])
    nn.init.zeros_(model.weight)
    for spec in ("fake_quant(8)", "fake_quant(4, dim=None)", "lsq(4)", "binary", "ternary", "fake_quant(2, group=1)"):
        graph = surgery.apply_constraints(model, {"weight": spec}, via="fx").eval()
        x = torch.randn(2, shape[1])
        assert torch.equal(with_integer_weights(graph)(x), graph(x))
