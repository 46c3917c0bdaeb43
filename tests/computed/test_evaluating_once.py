"""A block in which Dynamo evaluates each value once: counted in the graphs that it makes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import EagerAndRecordGraphs

import computed
import surgery
from computed import evaluating_once
from computed.evaluating_once import evaluate_once
from tests.computed.identity import Counting

STEPS = 6


class Unrolled(nn.Module):
    """A cell, many times."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        with evaluate_once():
            return self.steps(x)

    def steps(self, x: Tensor) -> Tensor:
        for _ in range(STEPS):
            x = torch.tanh(self.cell(x))
        return x


class Plainly(Unrolled):
    """The same without the block."""

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x)


def constrained(kind: type[Unrolled], spec: object) -> Unrolled:
    torch.manual_seed(1)
    return surgery.apply_constraints(kind(), {"cell.weight": spec})


def calls(graph: torch.fx.Graph) -> int:
    """Operations beside the loop's own."""
    return sum(node.op in ("call_function", "call_method") for node in graph.nodes) - 2 * STEPS


def compiled_calls(model: Unrolled) -> int:
    backend = EagerAndRecordGraphs()
    torch.compile(model, backend=backend, fullgraph=True)(torch.randn(2, 6))
    (graph,) = backend.graphs
    return calls(graph.graph)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", ["spectral", "orthogonal", "weight_norm", "operator_norm"])
def test_the_graph_has_one_evaluation(spec, training):
    """What one read adds to the graph is there once, and without the block at each step."""
    inside, outside = (compiled_calls(constrained(kind, spec).train(training)) for kind in (Unrolled, Plainly))
    assert outside == pytest.approx(inside * STEPS, rel=0.05)


def exported_evaluations(strict: bool) -> int:
    model = constrained(Unrolled, computed.function(torch.sinh)).eval()
    program = torch.export.export(model, (torch.randn(2, 6),), strict=strict)
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    return sum(node.target is torch.ops.aten.sinh.default for graph in graphs for node in graph.nodes)


def test_exports_have_one_evaluation():
    """Strict export warns of what the block notes, as it does inside torch's own `cached`."""
    assert exported_evaluations(strict=False) == 1
    with pytest.warns(UserWarning, match="certain side effects"):
        assert exported_evaluations(strict=True) == 1


@pytest.mark.parametrize("spec", ["spectral", "orthogonal"])
def test_training_is_that_of_the_eager_model(spec, size):
    """Five steps, raws and state."""
    backend = "inductor" if size == "full" else "aot_eager"
    eager, other = constrained(Unrolled, spec), constrained(Unrolled, spec)
    for model, call in ((eager, eager), (other, torch.compile(other, backend=backend, fullgraph=True))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            call(torch.randn(7, 6, generator=generator)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, two in zip(eager.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_each_call_evaluates_anew():
    """Nothing of one forward is left for the next, whose raws have moved; nor of another model."""
    model = constrained(Unrolled, "symmetric").eval()
    call = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 6)
    for _ in range(3):
        with torch.no_grad():
            assert torch.allclose(call(x), model(x), atol=1e-6)
            model.cell.weight.raws["raw"].mul_(0.5)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.cell.weight.raws["raw"].mul_(3.0)
    assert torch.allclose(torch.compile(other, backend="aot_eager", fullgraph=True)(x), other(x), atol=1e-6)


def test_blocks_nest_and_an_error_leaves_nothing():
    """The outermost block counts; whatever ends it, nothing stays noted."""
    model = constrained(Plainly, computed.function(torch.sinh)).eval()

    def twice(x: Tensor) -> Tensor:
        with evaluate_once():
            with evaluate_once():
                x = model(x)
            return model(x)

    backend = EagerAndRecordGraphs()
    torch.compile(twice, backend=backend, fullgraph=True)(torch.randn(2, 6))
    assert sum(node.target is torch.sinh for node in backend.graphs[0].graph.nodes) == 1
    with pytest.raises(ZeroDivisionError), evaluate_once():
        raise ZeroDivisionError
    assert (evaluating_once._depth, evaluating_once._values) == (0, {})


def test_modes_are_kept_apart():
    """A value without gradients is none for a read with them."""
    model = constrained(Plainly, "symmetric")

    def both(x: Tensor) -> Tensor:
        with evaluate_once():
            with torch.no_grad():
                first = model.cell(x)
            return model.cell(x) + first

    torch.compile(both, backend="aot_eager", fullgraph=True)(torch.randn(2, 6)).sum().backward()
    assert model.cell.weight.raws["raw"].grad is not None


def test_without_a_compiler_nothing_changes():
    """Eagerly values are held, and a write inside the block is seen."""
    counting = Counting()
    model = surgery.apply_constraints(Unrolled(), {"cell.weight": counting}).eval()
    with evaluate_once():
        before = model(torch.ones(1, 6))
        with torch.no_grad():
            model.cell.weight.raws["raw"].mul_(0.0)
        assert not torch.equal(model(torch.ones(1, 6)), before)
