"""How often a value is evaluated: once for an optimizer step, whatever the micro-batches, reads and steps of a loop.

Every link of a chain is counted where it is evaluated, for each constraint of the catalogue. torch's parametrize, which
evaluates at each access, goes through the same loops: what is counted there shows that something is.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import computed
import surgery
from computed.chain import ConstraintLink
from computed.inner import WrittenOut
from computed.sources import Sources
from computed.together import Together
from tests.surgery.models import SPECS, SQUARE_SPECS

# what stands before an adapter is evaluated for each operation that the adapter takes over
EVERY_SPEC = [spec for spec in (*SPECS, *SQUARE_SPECS) if "| lora" not in spec]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Evaluations since this was cleared, by constraint."""
    found: Counter[int] = Counter()

    def counted(name: str) -> None:
        original = getattr(ConstraintLink, name)

        def evaluate(self: ConstraintLink, *args: object, **kwargs: object) -> object:
            found[id(self.module)] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(ConstraintLink, name, evaluate)

    counted("evaluate")
    counted("evaluate_given")
    written_out = WrittenOut.__init__

    def together(self: WrittenOut, family: Sequence[Together], sources: Sequence[Sources]) -> None:
        found.update(id(each) for each in family)
        written_out(self, family, sources)

    monkeypatch.setattr(WrittenOut, "__init__", together)
    return found


def matrices(model: nn.Module, spec: str) -> list[str]:
    """What ``spec`` takes: matrices, for some square ones alone."""
    found = [(name, each.shape) for name, each in model.named_parameters() if each.dim() == 2]
    return [name for name, shape in found if spec not in SQUARE_SPECS or shape[0] == shape[1]]


def constrained(model: nn.Module, spec: str, counts: Counter[int], *, training: bool = True) -> nn.Module:
    """With all its matrices constrained, in its mode, counted from zero."""
    surgery.apply_constraints(model, dict.fromkeys(matrices(model, spec), spec))
    model(inputs())
    computed.invalidate(model.train(training))
    counts.clear()
    return model


def links(model: nn.Module) -> list[int]:
    return [id(each) for weight in surgery.computed_parameters(model).values() for each in weight.constraints]


def assert_once(model: nn.Module, counts: Counter[int], spec: str) -> None:
    """Each link, and nothing else; of an adapter, where no operation takes the factors alone. From zero again."""
    assert set(counts) <= set(links(model))
    found = {counts[link] for link in links(model)}
    counts.clear()
    assert found == {1} or ("lora" in spec and found <= {0, 1})


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


class Unrolled(nn.Module):
    """A cell, a hundred times."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell = kind(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for _ in range(100):
            state = self.cell(x[:, 0], state)
        return state[0] if isinstance(state, tuple) else state


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)),
    "LSTM": lambda: nn.LSTM(6, 6, batch_first=True, num_layers=2),
    "attention": Attention,
    "encoder": lambda: nn.TransformerEncoderLayer(6, 2, 6, dropout=0.0, batch_first=True),
}


CELLS: dict[str, Callable[[], nn.Module]] = {
    "RNNCell": lambda: Unrolled(nn.RNNCell),
    "LSTMCell": lambda: Unrolled(nn.LSTMCell),
    "GRUCell": lambda: Unrolled(nn.GRUCell),
}


def fitting(models: dict[str, Callable[[], nn.Module]]) -> list[tuple[str, str]]:
    return [(name, spec) for name, build in models.items() for spec in EVERY_SPEC if matrices(build(), spec)]


def inputs() -> Tensor:
    return torch.linspace(-1, 1, 2 * 3 * 6).view(2, 3, 6)


def loss_of(model: nn.Module) -> Tensor:
    output = model(inputs())
    return (output[0] if isinstance(output, tuple) else output).square().sum()


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer | ByData) -> None:
    """Four micro-batches and a step."""
    for _ in range(4):
        loss_of(model).backward()
    optimizer.step()
    optimizer.zero_grad()


class ByData:
    """An optimizer as others write them: it calls no hooks and writes through `.data`."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        self.parameters = list(parameters)

    def step(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.data.add_(parameter.grad.data, alpha=-0.01)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer | ByData]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.01),
    "Adam fused": lambda parameters: torch.optim.Adam(parameters, 0.01, fused=True),
    "AdamW foreach": lambda parameters: torch.optim.AdamW(parameters, 0.01, foreach=True),
    "somebody else's": ByData,
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("name", "spec", "optimizer"),
    [(*pair, key) for pair in fitting(MODELS) for key in OPTIMIZERS if key == "SGD" or pair[0] == "linear"],
)
def test_once_for_each_optimizer_step_over_four_micro_batches(
    name: str, spec: str, optimizer: str, training: bool, counts: Counter[int]
):
    """In one mode, whichever it is."""
    model = constrained(MODELS[name](), spec, counts, training=training)
    moving = OPTIMIZERS[optimizer](model.parameters())
    for _ in range(3):
        counts.clear()
        step_of(model, moving)
        assert_once(model, counts, spec)


@pytest.mark.parametrize(("name", "spec"), fitting(CELLS))
def test_once_for_a_cell_that_is_unrolled(name: str, spec: str, counts: Counter[int]):
    """A hundred steps, forward and backward."""
    model = constrained(CELLS[name](), spec, counts)
    loss_of(model).backward()
    assert_once(model, counts, spec)


@pytest.mark.parametrize("caching", [True, False], ids=["caching", "no caching"])
@pytest.mark.parametrize(("name", "spec"), [pair for pair in fitting(MODELS) if pair[0] != "linear"])
def test_once_for_a_forward_of_what_reads_its_weights_itself(name: str, spec: str, caching: bool, counts: Counter[int]):
    model = constrained(MODELS[name](), spec, counts)
    computed.caching(model, caching)
    loss_of(model).backward()
    assert_once(model, counts, spec)


def mixed(model: nn.Module) -> None:
    """All that may come between two steps, in one mode."""
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), nullcontext()):
        with context:
            model(inputs())
    loss_of(model).backward()
    for reentrant in (True, False):
        x = inputs().clone().requires_grad_()
        checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    assert "ComputedParameter" in repr(model)
    str(model[0].weight), model.state_dict(), list(model.parameters()), copy.deepcopy(model), surgery.plan(model, {})


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", EVERY_SPEC)
def test_nothing_that_comes_between_two_steps_evaluates_again(spec: str, training: bool, counts: Counter[int]):
    model = constrained(MODELS["linear"](), spec, counts, training=training)
    loss_of(model)
    assert_once(model, counts, spec)
    mixed(model), mixed(model)
    assert {counts[link] for link in links(model)} <= ({0, 1} if "lora" in spec else {0})


class Tanh(nn.Module):
    """A parametrization of torch that counts."""

    calls = 0

    def forward(self, raw: Tensor) -> Tensor:
        Tanh.calls += 1
        return raw.tanh()


@pytest.mark.parametrize(("name", "fewest"), [("linear", 8), ("LSTM", 12), ("attention", 4)])
def test_torch_evaluates_at_each_access(name: str, fewest: int):
    """What the loops above ask for: at least one a micro-batch, in a recurrent layer several."""
    model = MODELS[name]()
    for module in list(model.modules()):
        for key, each in list(module.named_parameters(recurse=False)):
            if (each.dim() == 2 and name != "attention") or key == "in_proj_weight":
                parametrize.register_parametrization(module, key, Tanh())
    Tanh.calls = 0
    step_of(model, torch.optim.SGD(model.parameters(), 0.01))
    assert Tanh.calls >= fewest
