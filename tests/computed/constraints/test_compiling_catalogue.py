"""Every constraint under ``torch.compile(fullgraph=True)``: one graph a mode, traced once, with the eager numbers.

tests/life/test_compiled_constraints.py asks what several constraints do in one graph, and their state. Truth is the
eager twin: outputs and gradients in both modes, before and after steps of an optimizer, and all raws and state at the
end.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import surgery
from computed.constraints.operator_norm import OperatorScale
from tests.computed.constraints.test_contract import CONSTRAINTS
from tests.surgery.catalogue import CONVOLUTIONAL, SPEC_OF

STEPS = 2
# of each way of evaluating one: an iterated state, a retraction, a formula, factors, a grid, an adapter
INDUCTED = ("spectral", "operator_norm", "orthogonal", "weight_norm", "low_rank", "fake_quant", "lora")


class Net(nn.Module):
    """One layer, and what makes gradients depend on outputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


BATCHES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 6), (4, 6)),
    "convolution": (lambda: nn.Conv2d(6, 6, 3, padding=1), (2, 6, 5, 5)),
    "channels last": (lambda: nn.Conv2d(6, 6, 3, padding=1).to(memory_format=torch.channels_last), (2, 6, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 6, 3, padding=1), (2, 6, 5, 5)),
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def constrained(host: str, spec: object) -> Net | None:
    """The layer with its weight constrained, or None where that is refused; raws are moved off every edge."""
    model = Net(BATCHES[host][0]())
    with torch.no_grad():
        model.layer.weight.normal_(0.0, 0.3)
    rules = {"layer.weight": spec}
    if surgery.plan(model, rules).problems:
        return None
    surgery.apply_constraints(model, rules)
    with torch.no_grad():
        for raw in model.layer.weight.raws.values():
            if raw.requires_grad:
                raw.add_(0.05 * torch.randn(raw.shape))
    model(torch.randn(BATCHES[host][1]))  # what the write calls for is done before anything is traced
    return model


def seen(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Outputs and gradients in both modes, before each step and after the last, then everything that is kept."""
    # not Adam, whose first step takes a gradient that is zero but for rounding for a full one
    optimizer = torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], 0.05)
    for step in range(STEPS):
        for training in (True, False):
            model.train(training)
            optimizer.zero_grad()
            output = run(x)
            output.square().sum().backward()
            yield f"output {step}, training {training}", output.detach().clone()
            for name, raw in model.named_parameters():
                if raw.grad is not None:
                    yield f"slope of {name} {step}, training {training}", raw.grad.clone()
        model.train()
        optimizer.step()
        yield f"graphs after {step}", torch.tensor(counters["stats"]["unique_graphs"])
    yield "last output", run(x).detach()
    yield from ((name, tensor.clone()) for name, tensor in model.state_dict().items())


def assert_compiled_is_eager(model: nn.Module, host: str, backend: str) -> None:
    """Numbers to rounding; those that come by the peak of a symbol, which rounding moves along, to the root of it."""
    eager, x = copy.deepcopy(model), torch.randn(BATCHES[host][1])
    if host == "channels last":
        x = x.to(memory_format=torch.channels_last)
    ours = dict(seen(model, torch.compile(model, fullgraph=True, backend=backend), x))
    graphs = int(ours.pop("graphs after 0"))
    assert 1 <= graphs <= 2  # one where both modes do the same
    assert counters["stats"]["unique_graphs"] == graphs, "compiled again after a step"
    assert not counters["graph_break"]
    theirs = dict(seen(eager, eager, x))
    tolerance = 2e-3 if isinstance(model.layer.weight.constraints[0], OperatorScale) else 2e-5
    for what, tensor in theirs.items():
        if not what.startswith("graphs"):
            apart = float((ours[what] - tensor).abs().max())
            assert apart <= tolerance * max(1.0, float(tensor.abs().max())), (what, apart)


@pytest.mark.parametrize("name", SPEC_OF)
def test_one_graph_a_mode_with_the_eager_numbers(name: str, size: str):
    hosts = list(BATCHES) if size == "full" else ["convolution" if name in CONVOLUTIONAL else "linear"]
    backends = ["aot_eager", "inductor"] if size == "full" and name in INDUCTED else ["aot_eager"]
    tried = 0
    for host, backend in itertools.product(hosts, backends):
        torch.compiler.reset()
        counters.clear()
        model = constrained(host, SPEC_OF[name])
        if model is not None:
            assert_compiled_is_eager(model, host, backend)
            tried += 1
    assert tried


HOSTS_OF_CONTRACTS = ("linear", "convolution")
# as the suite of contracts makes them: other signs, dimensions and bounds, and functions of one's own
OTHERS = {"small": ("function", "transform, half line", "monotone, signs"), "full": tuple(CONSTRAINTS)}


def test_other_settings_and_functions_of_ones_own_too(size: str):
    refused = []
    for name in OTHERS[size]:
        made = {host: constrained(host, lambda site, name=name: CONSTRAINTS[name]()) for host in HOSTS_OF_CONTRACTS}
        host = next((host for host, model in made.items() if model is not None), None)
        if host is None:
            refused.append(name)
            continue
        torch.compiler.reset()
        counters.clear()
        assert_compiled_is_eager(made[host], host, "aot_eager")
    assert len(refused) <= len(OTHERS[size]) // 20  # those made for other shapes
