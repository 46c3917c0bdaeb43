"""Graphs in training do large layers as the tree does them: no value is made where scaling beside it is cheaper."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp

import surgery
from computed import scaled
from computed.hold import Hold
from computed.parameter import ComputedParameter

# torch says so of its own modules
pytestmark = pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")
SPECS = ("spectral", "spectral(bound=0.5)", "weight_norm", "operator_norm", "mask(0.5, dim=0)")


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of any size count as large."""
    monkeypatch.setattr(scaled, "WORTH", 1)


class Layers(nn.Module):
    """A convolution and a linear layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Ten numbers a sample."""
        hidden = self.conv(x).mean((2, 3))
        return self.linear(torch.relu(self.linear(hidden)))


class Penalised(nn.Linear):
    """A layer that gives the size of its weight as well."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override] # on purpose
        """The output, and the sum of squares."""
        return super().forward(x), self.weight.square().sum()


def twins(spec: str) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Layers().double()
    rules = {"*.weight": spec}
    graph = surgery.apply_constraints(model, rules, via="fx")
    return graph, surgery.apply_constraints(copy.deepcopy(model), rules), torch.randn(1, 6, 4, 4, dtype=torch.float64)


def of(model: nn.Module) -> list[ComputedParameter]:
    return list(surgery.computed_parameters(model).values())


@pytest.mark.parametrize("spec", SPECS)
def test_training_is_that_of_the_tree_bit_for_bit(spec: str) -> None:
    graph, tree, x = twins(spec)
    outputs: list[list[Tensor]] = []
    for model in (graph, tree):
        optimizer = torch.optim.AdamW(model.parameters(), 0.05)
        outputs.append([])
        for _ in range(4):
            optimizer.zero_grad()
            out = model(x)
            (out.square().sum() + model(0.5 * x).sum()).backward()
            outputs[-1].append(out.detach())
            assert all(one._holds[True] is None for one in of(model))  # no value was made
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))
    for (key, found), expected in zip(graph.state_dict().items(), tree.state_dict().values(), strict=True):
        assert torch.equal(found, expected), key
    assert torch.equal(graph.eval()(x), tree.eval()(x))
    assert torch.equal(surgery.bake(graph)(x), surgery.bake(tree)(x))


@pytest.mark.parametrize("spec", SPECS)
def test_copies_and_what_is_made_of_the_graph(spec: str) -> None:
    graph, tree, x = twins(spec)
    expected = tree(x)
    for made in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert all(one.handed_on for one in of(made))
        assert torch.equal(made(x), expected)
    fresh = copy.deepcopy(graph)
    torch.testing.assert_close(torch.compile(fresh, backend="aot_eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.jit.script(copy.deepcopy(graph))(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(copy.deepcopy(graph))(x), expected)
    torch.testing.assert_close(torch.fx.Interpreter(copy.deepcopy(graph)).run(x), expected)
    ShapeProp(copy.deepcopy(graph)).propagate(x)
    raws = {name: raw.detach() for name, raw in tree.named_parameters()}
    torch.testing.assert_close(torch.func.functional_call(copy.deepcopy(graph), raws, (x,)), expected)


def test_a_weight_that_something_else_takes_is_a_value() -> None:
    graph = surgery.apply_constraints(Penalised(8, 8).double(), {"weight": "spectral"}, via="fx")
    x = torch.randn(2, 8, dtype=torch.float64)
    assert not any(one.handed_on for one in of(graph))
    out, penalty = graph(x)
    value = of(graph)[0].value()
    torch.testing.assert_close(out, nn.functional.linear(x, value, graph.bias))
    torch.testing.assert_close(penalty, value.square().sum())


def test_a_node_that_is_added_later_takes_it_as_a_tensor() -> None:
    graph, tree, x = twins("spectral")
    (call,) = [node for node in graph.graph.nodes if node.target == "conv.weight"]
    with graph.graph.inserting_after(call):
        added = graph.graph.call_function(torch.sum, (call,))
    (last,) = [node for node in graph.graph.nodes if node.op == "output"]
    last.args = ((last.args[0], added),)
    graph.recompile()
    out, total = graph(x)
    assert torch.equal(out, tree(x))
    torch.testing.assert_close(total, tree.conv.weight.value().sum())


@pytest.mark.parametrize("spec", ["spectral", "positive"])
def test_small_weights_of_a_graph_are_evaluated_in_one_go(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the tree, without a pass of its own."""
    monkeypatch.undo()  # weights count as they are
    sizes: list[int] = []
    made = Hold.__init__

    def counting(self: Hold, members: list[object], **options: bool) -> None:
        sizes.append(len(members))
        made(self, members, **options)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(Hold, "__init__", counting)
    graph = surgery.apply_constraints(nn.Sequential(*[nn.Linear(8, 8) for _ in range(5)]), {"*.weight": spec}, via="fx")
    optimizer = torch.optim.SGD(graph.parameters(), 0.1)
    for expected in ([1] * 5, [5], [5]):
        sizes.clear()
        optimizer.zero_grad()
        graph(torch.randn(3, 8)).square().sum().backward()
        optimizer.step()
        assert sizes == expected


def test_on_meta_shapes_are_known() -> None:
    graph, _, _ = twins("spectral")
    assert graph.to("meta")(torch.empty(1, 6, 4, 4, dtype=torch.float64, device="meta")).shape == (1, 8)
