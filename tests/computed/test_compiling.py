"""Constrained hosts keep their classes, compile once, export, and are recorded by FX as calls of a module."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import surgery
from computed.errors import ComputedParameterError


class Block(nn.Module):
    """A block as transformers have two dozen of."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Own(nn.Module):
    """An author's own module: its parameter meets a Proxy in a plain expression."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


class Counter:
    """A backend that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[fx.GraphModule] = []

    def __call__(self, graph: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def test_hosts_keep_their_class() -> None:
    """Two hosts of one class stay of one class, which is the one they had."""
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    surgery.constrain(one, weight="orthogonal")
    surgery.constrain(two, weight="spectral")
    assert type(one) is type(two) is nn.Linear


BLOCK_SPECS = ("spectral", "orthogonal", "positive", "lora(2)", "interval(-1, 1) | spectral(bound=2.0)")


@pytest.mark.parametrize("spec", BLOCK_SPECS)
def test_two_dozen_blocks_compile_once(spec: str, evidence: Callable[[str, str], None]) -> None:
    """In train mode and in eval: one graph each, as for plain blocks."""
    blocks = nn.ModuleList(Block() for _ in range(24))
    surgery.apply_constraints(blocks, {"*@Linear.weight": spec})
    x = torch.randn(4, 8, requires_grad=True)
    expected: dict[bool, list[Tensor]] = {}
    for mode in (True, False):
        blocks.train(mode)
        with torch.no_grad():
            expected[mode] = [copy.deepcopy(block)(x) for block in blocks]
    counts = []
    for mode in (True, False):
        blocks.train(mode)
        counter = Counter()
        for block, want in zip(blocks, expected[mode], strict=True):
            torch.testing.assert_close(torch.compile(block, fullgraph=True, backend=counter)(x), want)
        counts.append(len(counter.graphs))
    assert counts == [1, 1]
    if spec == "spectral":
        evidence("24 constrained blocks under torch.compile(fullgraph=True): graphs in train, in eval", "1, 1")


def test_compiled_training_is_eager_training() -> None:
    """Raws, power-iteration state and losses after Adam steps with an evaluation in between."""
    x = torch.randn(16, 8)

    def train(compiled: bool) -> nn.Module:
        torch.manual_seed(0)
        model = surgery.apply_constraints(Block(), {"*@Linear.weight": "spectral"})
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(6):
            optimizer.zero_grad()
            run(x).square().mean().backward()
            optimizer.step()
            if step == 3:
                model.eval()
                with torch.no_grad():
                    run(x)
                model.train()
        return model

    eager, compiled = train(compiled=False).state_dict(), train(compiled=True).state_dict()
    assert eager.keys() == compiled.keys()
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, msg=name)


@pytest.mark.parametrize("strict", [True, False])
def test_export_has_the_value_in_the_graph(strict: bool) -> None:
    """The exported program computes the weight from the raw, and gives what eval gives."""
    model = surgery.apply_constraints(Block(), {"*@Linear.weight": "spectral"}).eval()
    x = torch.randn(4, 8)
    program = torch.export.export(model, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), model(x))
    assert "up.weight.raw" in program.state_dict


@pytest.mark.parametrize("warm", [False, True], ids=["never read", "held"])
def test_stock_fx_records_a_call_of_the_computed_parameter(warm: bool) -> None:
    """Never a constant, whether a value is held at the time or not."""
    model = surgery.constrain(Own(), weight="orthogonal").eval()
    x = torch.randn(2, 3)
    if warm:
        model(x)
    graph = fx.symbolic_trace(model)
    calls = [(node.op, node.target) for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
    assert calls[0] == ("call_module", "weight")
    assert all(op != "get_attr" for op, _ in calls)
    expected = model(x)
    assert torch.equal(graph(x), expected)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3).flip(0))
    assert not torch.equal(graph(x), expected)


def test_script_is_refused_by_name() -> None:
    """torch.jit.script says which parameter, and what to do."""
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(3, 3)), {"0.weight": "spectral"})
    with pytest.raises(ComputedParameterError, match=r"0\.weight.*torch\.jit\.script.*surgery\.bake"):
        torch.jit.script(model)
    assert isinstance(torch.jit.script(surgery.bake(model)), torch.jit.ScriptModule)


def test_copies_and_pickles_are_models_of_their_own() -> None:
    """Same values and class; training the copy leaves the original alone; guards travel."""
    model = surgery.apply_constraints(Block(), {"*@Linear.weight": "spectral"})
    x = torch.randn(4, 8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.up) is nn.Linear
        assert list(other.state_dict()) == list(model.state_dict())
        model.eval(), other.eval()
        assert torch.equal(other(x), model(x))
        with torch.no_grad():
            other.up.weight.mul_(0.0)
        assert not torch.equal(other(x), model(x))
        with pytest.raises(RuntimeError, match=r"Linear\.weight is a computed parameter"):
            other.up.weight = nn.Parameter(torch.zeros(16, 8))


ATTEMPTS: dict[str, Callable[[nn.Module], object]] = {
    "parameter": lambda host: setattr(host, "weight", nn.Parameter(torch.eye(3))),
    "none": lambda host: setattr(host, "weight", None),
    "module": lambda host: setattr(host, "weight", nn.Identity()),
    "delete": lambda host: delattr(host, "weight"),
    "pop": lambda host: host._modules.pop("weight"),
    "popitem": lambda host: host._modules.popitem(),
    "clear": lambda host: host._modules.clear(),
    "update": lambda host: host._modules.update(weight=nn.Identity()),
    "update by operator": lambda host: operator.ior(host._modules, {"weight": nn.Identity()}),
    "entry": lambda host: operator.setitem(host._modules, "weight", nn.Identity()),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_constraint_cannot_be_dropped_by_accident(attempt: str) -> None:
    """Assignments and deletions raise, name the cure, and change nothing."""
    host = surgery.constrain(nn.Linear(3, 3), weight="symmetric")
    weight, keys = host.weight, list(host.state_dict())
    with pytest.raises(RuntimeError, match=r"copy_.*surgery\.bake.*surgery\.undo"):
        ATTEMPTS[attempt](host)
    assert host.weight is weight
    assert host.get_submodule("weight") is weight
    assert list(host.state_dict()) == keys


REPLACEMENTS: dict[str, Callable[[nn.Module, nn.Module], object]] = {
    "assignment": lambda host, other: setattr(host, "weight", other),
    "add_module": lambda host, other: host.add_module("weight", other),
    "entry": lambda host, other: operator.setitem(host._modules, "weight", other),
    "update": lambda host, other: host._modules.update(weight=other),
    "set_submodule": lambda host, other: host.set_submodule("weight", other),
}


@pytest.mark.parametrize("way", REPLACEMENTS)
def test_an_attribute_and_the_registry_are_one(way: str) -> None:
    """However another computed parameter comes in, the attribute that a forward reads is the registered one."""
    host, other = (surgery.constrain(nn.Linear(3, 3), weight="symmetric") for _ in range(2))
    REPLACEMENTS[way](host, other.weight)
    assert host.weight is other.weight
    assert dict(host.named_children()) == {"weight": other.weight}
    assert torch.equal(host(torch.eye(3)), nn.functional.linear(torch.eye(3), other.weight.value(), host.bias))
    copied = copy.deepcopy(host)
    assert copied.weight is copied._modules["weight"] is not host.weight
    surgery.bake(host)
    assert type(host.weight) is nn.Parameter
    assert "weight" not in vars(host)


def test_other_children_of_a_host_come_and_go() -> None:
    """The guard is for computed parameters alone."""
    host = surgery.constrain(nn.Linear(3, 3), weight="symmetric")
    host._modules.update({"one": nn.Identity()}, two=nn.Identity())
    host._modules |= {"three": nn.Identity()}
    assert host._modules.setdefault("one", None) is host.one
    assert host._modules.setdefault("four", host.one) is host.four
    assert list(host._modules) == ["one", "two", "three", "four", "weight"]
    del host.one, host.two, host.three, host.four
    surgery.undo(host)
    host._modules.update(last=nn.Identity())
    assert host._modules.popitem()[0] == "last"


def test_the_same_computed_parameter_is_a_no_op_and_another_one_ties() -> None:
    """As `tie_weights()` does."""
    one, two = surgery.constrain(nn.Linear(3, 3), weight="symmetric"), nn.Linear(3, 3)
    weight = one.weight
    one.weight = weight
    assert one.weight is weight
    surgery.constrain(two, weight="skew")
    two.weight = weight
    assert two.weight is one.weight
    with pytest.raises(TypeError, match="as child module"):
        one.weight = torch.eye(3)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_modules(kind: type[nn.RNNBase]) -> None:
    """Two layers, both directions: outputs and gradients as plain; reset_parameters initialises the raws."""
    plain = kind(4, 5, num_layers=2, bidirectional=True)
    model = copy.deepcopy(plain)
    surgery.apply_constraints(model, {"weight_*": "interval(-5, 5)"})
    for name, weight in surgery.computed_parameters(model).items():
        with torch.no_grad():
            plain.get_parameter(name).copy_(weight)
    x = torch.randn(3, 2, 4)
    ours, theirs = model(x)[0], plain(x)[0]
    assert torch.equal(ours, theirs)
    ours.sum().backward()
    assert all(raw.grad is not None for raw in model.parameters())
    model.reset_parameters()
    assert not torch.equal(model(x)[0], ours)


def test_attention_and_encoder_layers() -> None:
    """Their own functions take the weights as arguments; train and eval equal the plain module on the same values."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    plain = copy.deepcopy(layer)
    surgery.apply_constraints(layer, {"*.{in_proj_weight,weight}": "interval(-3, 3)"})
    with torch.no_grad():
        for name, weight in surgery.computed_parameters(layer).items():
            plain.get_parameter(name).copy_(weight)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))
