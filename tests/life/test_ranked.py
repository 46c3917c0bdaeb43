"""The fifteen things at which users of other libraries report failures, in the order of docs/peers.md.

Short ones: what each means in all its cases, other files of this folder and of tests/surgery test. Truth is NumPy in
float64, a plain twin, or a picture of the model down to its bits.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.export.graph_signature import OutputKind
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import computed
import surgery
from tests.computed.identity import Counting
from tests.life.test_copies import in_a_fresh_interpreter, train
from tests.quiet import quiet
from tests.surgery.models import MODELS, Attending, Recurrent, ResNet, TiedLM, embedded, images, sequences, tokens
from tests.surgery.picture import differences, picture

SPECS = ("spectral", "spectral(bound=0.3)", "orthogonal", "weight_norm", "symmetric", "lora(2)")
KINDS = ("spectral", "orthogonal", "weight_norm")


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))


def norm(weight: Tensor) -> float:
    """The largest singular value."""
    return float(np.linalg.norm(weight.detach().double().numpy(), 2))


def in_eval(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


def is_same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return list(before) == list(after) and all(map(torch.equal, before.values(), after.values()))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["resnet", "lstm", "mha", "tied"])
def test_01_undo_is_exact(name: str):
    """After two steps of training too: keys, bits, objects, classes, order, flags, hooks."""
    build, draw, rules = MODELS[name]
    model = build()
    model.register_forward_hook(lambda module, args, output: None)
    x, before = draw(), picture(model)
    surgery.apply_constraints(model, rules)
    assert len(surgery.computed_parameters(model)) > 0
    surgery.undo(model)
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, rules)
    weights = surgery.computed_parameters(model)
    plain = {name: before[f"{name.rpartition('.')[0]}: {name.rpartition('.')[2]} bits"] for name in weights}
    train(model, x)
    surgery.undo(model)
    after = picture(model)
    assert {name: after[f"{name.rpartition('.')[0]}: {name.rpartition('.')[2]} bits"] for name in weights} == plain


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", SPECS)
def test_02_bake_is_faithful(spec: str, training: bool, caplog: pytest.LogCaptureFixture):
    """Not a bit of the output in eval changes, of an adapter's by rounding; a second bake says that it did nothing."""
    model, x = surgery.apply_constraints(two_layers(), {"*.weight": spec}), torch.randn(8, 6)
    train(model, x)
    expected = in_eval(model, x)
    with caplog.at_level("INFO"):
        assert surgery.bake(model.train(training)) is model
        output = in_eval(model, x)
        surgery.bake(model)
    assert torch.equal(in_eval(model, x), output)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6 if spec.startswith("lora") else 0)
    assert [type(each) for each in model.parameters()] == [nn.Parameter] * 4
    assert [type(each) for each in model] == [nn.Linear, nn.Tanh, nn.Linear]
    assert "nothing to bake" in caplog.messages[-1]


WRITERS: dict[str, dict[str, Callable[[nn.Module], nn.Module]]] = {
    "weight_norm": {"hooks": quiet(hooked_weight_norm), "parametrizations": parametrizations.weight_norm},
    "spectral": {"hooks": quiet(hooked_spectral_norm), "parametrizations": parametrizations.spectral_norm},
}


@pytest.mark.parametrize("writer", ["plain", "hooks", "parametrizations"])
@pytest.mark.parametrize("spec", WRITERS)
def test_03_plain_checkpoints(spec: str, writer: str):
    """Read strictly, to the weights that were saved; and written for the plain model, under its keys in its order."""
    source, plain = nn.Linear(6, 5), nn.Linear(6, 5)
    if writer != "plain":
        WRITERS[spec][writer](source)
        for _ in range(100):  # each forward is a step of torch's power iteration
            source(torch.ones(1, 6))
    weight = source.eval().weight.detach().double().numpy()
    model = surgery.constrain(nn.Linear(6, 5), weight=spec)
    model.load_state_dict(source.state_dict(), strict=True)
    expected = weight / np.linalg.norm(weight, 2) if spec == "spectral" else weight
    np.testing.assert_allclose(model.eval().weight.detach().numpy(), expected, atol=1e-3)
    assert torch.equal(model.bias, source.bias)
    state = surgery.state_dict(model, format="plain")
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state, strict=True)
    assert torch.equal(plain(torch.eye(6)), model(torch.eye(6)))


WRITES: dict[str, Callable[[nn.Linear, Tensor], object]] = {
    "nn.init": lambda layer, value: nn.init.constant_(layer.weight, 0.25),
    "copy_": lambda layer, value: layer.weight.copy_(value),
    ".data.copy_": lambda layer, value: layer.weight.data.copy_(value),
    ".data =": lambda layer, value: setattr(layer.weight, "data", value),
    "reset_parameters": lambda layer, value: layer.reset_parameters(),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("spec", [*KINDS, "lora(2)"])
def test_04_no_silent_writes(spec: str, name: str):
    """What is read then is what the constraint makes of the same write to a plain layer."""
    layer = surgery.constrain(nn.Linear(6, 6), weight=spec).eval()
    before, value = layer.weight.detach().clone(), torch.randn(6, 6)
    plain = nn.Linear(6, 6)
    with torch.no_grad():
        for one in (layer, plain):
            torch.manual_seed(1)
            WRITES[name](one, value.clone())
    assert not torch.equal(layer.weight, before)
    expected = computed.ComputedParameter.from_value(plain.weight.detach(), spec).eval()
    assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize("spec", ["weight_norm", "lora(2)"])
def test_05_an_optimizer_from_before(spec: str):
    """Adam of the plain model is refused at its next step; its state, saved before, fits again after a bake."""
    model, x = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 6)), torch.randn(2, 6)
    optimizer = torch.optim.Adam(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    surgery.apply_constraints(model, {"*.weight": spec})
    before = state_of(model)
    model(x).sum().backward()
    with pytest.raises(surgery.StaleOptimizerError, match=r"(?s)0\.weight.*1\.weight.*optimizer="):
        optimizer.step()
    assert is_same(model, before)
    again = torch.optim.Adam(surgery.bake(model).parameters())
    again.load_state_dict(saved)
    for position, parameter in enumerate(model.parameters()):
        assert torch.equal(again.state[parameter]["exp_avg"], saved["state"][position]["exp_avg"])
        assert again.state[parameter]["exp_avg"].shape == parameter.shape


LOADED = """
with open(sys.argv[1], "rb") as file:
    entries = pickle.load(file)
assert not {"computed", "surgery"} & set(sys.modules)
for how, entry in entries:
    read = pickle.load if how == "pickle" else lambda file: torch.load(file, weights_only=False)
    model, batch, expected = read(io.BytesIO(entry))
    with torch.no_grad():
        assert torch.equal(model(batch), expected), how
print(len(entries))
"""


def answer(model: nn.Module, batch: Tensor, answers: object) -> None:
    """What a spawned process does."""
    answers.put(in_eval(model, batch).tolist())


def test_06_pickle_spawn_and_deepcopy(tmp_path: Path):
    """A trained LSTM in a fresh interpreter, in a spawned process, and copied after forward and backward."""
    model, batch = surgery.apply_constraints(Recurrent(nn.LSTM), {"rnn.weight_*": "weight_norm"}), sequences()
    model(batch).square().mean().backward()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(batch), model(batch))
    assert torch.equal(train(twin, batch), train(model, batch))
    whole = model, batch, in_eval(model, batch)
    torch.save(whole, tmp_path / "saved")
    entries = [("pickle", pickle.dumps(whole)), ("torch.save", (tmp_path / "saved").read_bytes())]
    (tmp_path / "entries").write_bytes(pickle.dumps(entries))
    assert in_a_fresh_interpreter(LOADED, tmp_path / "entries") == "2\n"
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=answer, args=(model, batch, answers))
    process.start()
    found = torch.tensor(answers.get())
    process.join()
    torch.testing.assert_close(found, whole[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", [*KINDS, "lora(2)"])
def test_07_a_tie_holds(spec: str):
    """A rule on one name: one computed tensor, ten steps of training, one plain tensor after a bake."""
    model, batch = TiedLM(), tokens()
    surgery.apply_constraints(model, {"head.weight": spec})
    assert model.head.weight is model.embedding.weight
    before = model.head.weight.detach().clone()
    train(model, batch, steps=10)
    assert model.head.weight is model.embedding.weight
    assert not torch.equal(model.head.weight, before)
    rows, columns = model.embedding(torch.arange(7)), model.head(torch.eye(4)).T
    torch.testing.assert_close(rows, columns, rtol=0, atol=1e-6)
    expected = in_eval(model, batch)
    surgery.bake(model)
    assert model.head.weight is model.embedding.weight
    assert type(model.head.weight) is nn.Parameter
    torch.testing.assert_close(in_eval(model, batch), expected, rtol=0, atol=1e-5 if spec == "lora(2)" else 0)


@pytest.mark.parametrize("spec", SPECS)
def test_08_reads_are_pure(spec: str):
    """In train mode; a pass that is done again by a checkpoint has the gradients of one that is not."""
    model, x = surgery.apply_constraints(two_layers(), {"*.weight": spec}), torch.randn(8, 6)
    train(model, x)
    model.train().zero_grad()
    before = state_of(model)
    for _ in range(10):
        model[0].weight.sum(), model[2].weight @ x.T
    assert "ComputedParameter" in repr(model)
    assert is_same(model, before)
    twin = copy.deepcopy(model)
    checkpoint(model, x, use_reentrant=False).square().sum().backward()
    twin(x).square().sum().backward()
    for ours, plain in zip(model.parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (plain.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, plain.grad)
    assert is_same(model, before)


def test_09_rules_that_match_nothing():
    """Beside one that matches and alone: an error with the name that was meant; a plan lists what would be done."""
    model = nn.Sequential()
    model.add_module("first", nn.Linear(3, 3))
    model.add_module("second", nn.Linear(3, 3))
    before = picture(model)
    for rules in ({"first.weight": "spectral", "secnd.weight": "spectral"}, {"secnd.weight": "spectral"}):
        with pytest.raises(surgery.PlanError, match=r"'secnd\.weight'.* did you mean 'second\.weight'"):
            surgery.apply_constraints(model, rules)
    listed = str(surgery.plan(model, {"*.weight": "spectral"}))
    assert [word for word in ("first.weight", "second.weight", "Linear 3x3", "spectral") if word not in listed] == []
    assert differences(before, picture(model)) == []


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM), sequences, "rnn.weight_*"),
    "GRU": (lambda: Recurrent(nn.GRU), sequences, "rnn.weight_*"),
    "attention": (Attending, embedded, "*.{in_proj_weight,weight}"),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        embedded,
        "*@{MultiheadAttention,Linear}.{in_proj_weight,weight}",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_10_recurrent_and_attention(name: str):
    """Outputs in both modes and gradients of a plain twin with the values, for one evaluation of each in a forward."""
    build, draw, pattern = LAYERS[name]
    twin, x = build(), draw()
    model = surgery.apply_constraints(copy.deepcopy(twin), {pattern: Counting()})
    weights = surgery.computed_parameters(model)
    with torch.no_grad():
        for key, weight in weights.items():
            twin.get_parameter(key).copy_(weight.raws["raw"].tanh())
    counts = [weight.constraints[0].evaluations for weight in weights.values()]
    for training in (True, False):
        computed.invalidate(model)
        for evaluations in counts:
            evaluations.clear()
        with torch.set_grad_enabled(training):
            outputs = [one.train(training)(x) for one in (model, twin)]
        assert [len(evaluations) for evaluations in counts] == [1] * len(weights)
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
        if training:
            for output in outputs:
                (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
            for key, weight in weights.items():
                slope = twin.get_parameter(key).grad * (1 - weight.raws["raw"].detach().tanh() ** 2)
                torch.testing.assert_close(weight.raws["raw"].grad, slope, rtol=1e-4, atol=1e-6)


class Block(nn.Module):
    """One of two dozen."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 6)
        self.down = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("spec", [*KINDS, "lora(2)"])
def test_11_blocks_compile_once(spec: str):
    """Through one function, as plain blocks."""
    blocks = nn.ModuleList(Block() for _ in range(24))
    surgery.apply_constraints(blocks, {"*.weight": spec})
    counter, x = CompileCounter(), torch.randn(2, 6)
    compiled = torch.compile(lambda block, x: block(x), fullgraph=True, backend=counter)
    for block in blocks:
        torch.testing.assert_close(compiled(block, x), block(x))
    assert counter.frame_count == 1


class Loop(nn.Module):
    """A hundred steps over one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(100):
            x = F.linear(x, self.cell.weight)
        return x


class OnceLoop(Loop):
    """The same inside a block for what Dynamo reads."""

    def forward(self, x: Tensor) -> Tensor:
        with computed.evaluate_once():
            return super().forward(x)


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
@pytest.mark.parametrize(("loop", "evaluations"), [(OnceLoop, 1), (Loop, 100)], ids=["in the block", "without"])
def test_11_a_loop_that_dynamo_reads(loop: type[nn.Module], evaluations: int):
    """Dynamo follows each read and evaluates at each, but for those in a block that says that one is enough."""
    model = surgery.apply_constraints(loop(), {"cell.weight": computed.function(torch.sinh)})
    program = torch.export.export(model.eval(), (torch.randn(2, 6),), strict=True)
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    assert sum(node.target is torch.ops.aten.sinh.default for graph in graphs for node in graph.nodes) == evaluations


def test_11_a_loop_evaluates_once():
    model = surgery.apply_constraints(Loop(), {"cell.weight": computed.function(torch.sinh)})
    program = torch.export.export(model.eval(), (torch.randn(2, 6),))
    assert sum(node.target is torch.ops.aten.sinh.default for node in program.graph.nodes) == 1


@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")
def test_12_exports():
    """Baked: the plain graph. In train mode, after decompositions: each buffer that a run writes is listed."""
    plain, x = ResNet(), images()
    model = surgery.apply_constraints(copy.deepcopy(plain), {"*conv*.weight": "spectral", "head.weight": "spectral"})
    train(model, x)
    program = torch.export.export(model.train(), (x,)).run_decompositions({})
    specs = program.graph_signature.output_specs
    listed = {spec.target for spec in specs if spec.kind is OutputKind.BUFFER_MUTATION}
    module = program.module()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module(x)
    written = {name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])}
    assert written <= listed
    assert {name.rpartition(".")[2] for name in written} >= {"running_mean", "pending_u", "pending_v"}
    graphs = [torch.export.export(one.eval(), (x,)).graph for one in (surgery.bake(copy.deepcopy(model)), plain)]
    targets = [[(node.op, node.name, str(node.target)) for node in graph.nodes] for graph in graphs]
    assert targets[0] == targets[1]
    model.train()(x)  # the original goes on


@pytest.mark.parametrize("rate", [0.01, 0.1, 1.0])
def test_13_an_average_keeps_its_norm(rate: float):
    """Raws and vectors are averaged over 50 steps, and the norm of the result is one."""
    model, x, target = two_layers(), torch.randn(32, 6), torch.randn(32, 6)
    surgery.apply_constraints(model, {"*.weight": "spectral"})
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(50):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
    averaged.eval()
    for position in (0, 2):
        assert abs(norm(averaged.module[position].weight) - 1) < 1e-3
        raw = averaged.module[position].weight.raws["raw"]
        assert abs(norm(raw) - 1) > 1e-3  # otherwise nothing was asked


LOW = {"bfloat16": torch.bfloat16, "half": torch.float16, "autocast": torch.float32}


@pytest.mark.parametrize("way", LOW)
@pytest.mark.parametrize("spec", KINDS)
def test_14_low_precision(spec: str, way: str):
    """The error by NumPy is that of one rounding to the dtype; under autocast, that of float32."""
    dtype = LOW[way]
    layer = surgery.constrain(nn.Linear(16, 16), weight=spec).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        layer(torch.randn(4, 16, dtype=dtype)).float().sum().backward()
        value = layer.eval().weight.detach().clone()
    assert value.dtype is dtype
    rounding = 0.0 if way == "autocast" else float(torch.finfo(dtype).eps) / 2
    weight = value.double().numpy()
    if spec == "spectral":
        error = abs(np.linalg.norm(weight, 2) - 1) / np.linalg.norm(weight)
    elif spec == "orthogonal":
        u, _, vh = np.linalg.svd(weight)
        error = np.linalg.norm(weight - u @ vh) / np.linalg.norm(weight)
    else:
        g = layer.weight.raws["g"].detach().double().numpy().reshape(-1)
        error = np.abs(np.linalg.norm(weight, axis=1) / g - 1).max()
    assert error <= rounding + 1e-5


def test_15_norm_of_a_linear():
    """After a step along a random slope, large against the weight: in eval one; in train an estimate from below."""
    layer = surgery.constrain(nn.Linear(32, 32, bias=False), weight="spectral")
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    (layer(torch.eye(32)) * torch.randn(32, 32)).sum().backward()
    optimizer.step()
    estimated = norm(layer(torch.eye(32)))
    exact = norm(layer.eval()(torch.eye(32)))
    assert exact == pytest.approx(1.0, abs=1e-5)
    assert 1.01 < estimated < 2.0


@pytest.mark.parametrize(
    "geometry",
    [{}, {"stride": 2}, {"groups": 2}, {"padding_mode": "zeros"}],
    ids=["plain", "stride", "groups", "zeros"],
)
def test_15_norm_of_a_convolution(geometry: dict[str, Any]):
    """The operator's own norm, of the layer's whole matrix on 8 x 8 pixels: one, by which spectral misses it."""
    host = nn.Conv2d(4, 4, 3, padding=1, bias=False, **{"padding_mode": "circular", **geometry})
    pixels = torch.eye(256).reshape(256, 4, 8, 8)
    by_matrix = surgery.constrain(copy.deepcopy(host), weight="spectral").eval()
    assert norm(by_matrix.weight.flatten(1)) == pytest.approx(1.0, abs=1e-5)
    assert norm(by_matrix(pixels).flatten(1)) > 1.01
    layer = surgery.constrain(host, weight="operator_norm").eval()
    assert 0.9 < norm(layer(pixels).flatten(1)) <= 1.001
