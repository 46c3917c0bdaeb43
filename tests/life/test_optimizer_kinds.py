"""Whichever optimizer moves raws, and however it writes them: each value that is held follows.

After every step each value is compared, bit for bit, with that of a copy that holds nothing; the training is compared
with that of a twin that never held anything, and that of what writes through ``.data`` with torch's own SGD.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import computed
import surgery
from tests.computed.identity import Counting
from tests.surgery.models import SPECS, SQUARE_SPECS

RATE = 0.02
Raws = list[nn.Parameter]
Make = Callable[[Raws], Optimizer]
MODES: dict[str, dict[str, bool]] = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
KINDS: dict[str, Callable[..., Optimizer]] = {
    "SGD": lambda raws, **mode: torch.optim.SGD(raws, RATE, momentum=0.9, weight_decay=0.1, **mode),
    "Adam": lambda raws, **mode: torch.optim.Adam(raws, RATE, weight_decay=0.1, **mode),
    "AdamW": lambda raws, **mode: torch.optim.AdamW(raws, RATE, weight_decay=0.1, **mode),
}
BACKENDS = {"small": ("aot_eager",), "full": ("aot_eager", "inductor")}


class Zoo(nn.Module):
    """A layer for each constraint of the catalogue, one that is counted, and a plain one; each sees the same batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in (*SPECS, *SQUARE_SPECS))
        self.counted = nn.Linear(4, 4)
        self.plain = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [torch.tanh(layer(x)) for layer in (*self.layers, self.counted, self.plain)]
        return torch.stack(outputs, dim=-1)


def zoo() -> Zoo:
    torch.manual_seed(1)
    model, rules = Zoo(), {}
    for position, spec in enumerate((*SPECS, *SQUARE_SPECS)):
        rules[f"layers.{position}.weight"] = spec
    return surgery.apply_constraints(model, {**rules, "counted.weight": Counting()})


def trained(model: nn.Module) -> Raws:
    return [raw for raw in model.parameters() if raw.requires_grad]


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        yield (
            torch.randn(6, 4, generator=generator),
            torch.randn(6, 4, len((*SPECS, *SQUARE_SPECS)) + 2, generator=generator),
        )


def backward(model: nn.Module, x: Tensor, y: Tensor) -> None:
    (model(x) - y).square().sum().backward()


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in surgery.computed_parameters(model).items()}


def assert_follows(model: Zoo, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every value has moved, and is the one that a copy without any hold computes from the raws; in eval too."""
    found = {}
    for training in (False, True):
        model.train(training)
        fresh = values(computed.caching(copy.deepcopy(model), False))
        found = values(model)
        for name, value in found.items():
            assert torch.equal(value, fresh[name]), (name, training)
    for name, value in found.items():
        assert not torch.equal(value, before[name]), name
    raw = model.counted.weight.raws["raw"].detach()
    assert torch.equal(model.counted.weight.detach(), raw.tanh())
    return found


def live(model: Zoo, advance: Callable[[], object], clear: Callable[[], object], steps: int = 4) -> Zoo:
    """Steps of two micro-batches, with a look at each value after each of them."""
    seen = values(model)
    for x, y in batches(steps):
        clear()
        for part, target in zip(x.chunk(2), y.chunk(2), strict=True):
            backward(model, part, target)
        advance()
        seen = assert_follows(model, seen)
    return model


def alone(make: Make, steps: int = 4) -> Zoo:
    """The twin: nothing held, nothing looked at."""
    model = computed.caching(zoo(), False)
    optimizer = make(trained(model))
    for x, y in batches(steps):
        optimizer.zero_grad()
        for part, target in zip(x.chunk(2), y.chunk(2), strict=True):
            backward(model, part, target)
        optimizer.step()
    return model


def assert_same_training(model: nn.Module, twin: nn.Module) -> None:
    state, other = model.state_dict(), twin.state_dict()
    assert list(state) == list(other)
    for name, tensor in other.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_follow_each_implementation_of_a_step(kind: str, mode: str) -> None:
    def make(raws: Raws) -> Optimizer:
        return KINDS[kind](raws, **MODES[mode])

    model = zoo()
    optimizer = make(trained(model))
    live(model, optimizer.step, optimizer.zero_grad)
    assert_same_training(model, alone(make))


@pytest.mark.parametrize("kind", KINDS)
def test_values_follow_a_compiled_step(kind: str, size: str) -> None:
    """``torch.compile(optimizer.step)``; the twin steps eagerly."""
    for backend in BACKENDS[size]:
        torch.compiler.reset()
        model = zoo()
        optimizer = KINDS[kind](trained(model))
        live(model, torch.compile(optimizer.step, backend=backend, fullgraph=False), optimizer.zero_grad)
        assert_same_training(model, alone(KINDS[kind]))
    torch.compiler.reset()


class Both:
    """Muon for matrices, AdamW for all else, as its users do."""

    def __init__(self, raws: Raws) -> None:
        matrices = [raw for raw in raws if raw.dim() == 2]
        rest = [raw for raw in raws if raw.dim() != 2]
        self.both = torch.optim.Muon(matrices, lr=RATE), torch.optim.AdamW(rest, RATE)

    def step(self) -> None:
        for each in self.both:
            each.step()

    def zero_grad(self) -> None:
        for each in self.both:
            each.zero_grad()


def test_values_follow_muon() -> None:
    """On raws of two dimensions, those of weight norm and of adapters among them; with its own weight decay of 0.1."""
    model = zoo()
    optimizer = Both(trained(model))
    roles = {name.rpartition(".")[2] for name, raw in model.named_parameters() if raw.dim() == 2 and raw.requires_grad}
    assert roles == {"weight", "raw", "g", "v", "A", "B"}
    live(model, optimizer.step, optimizer.zero_grad)
    assert_same_training(model, alone(Both))
    assert surgery.check(model.eval()).ok


class Written(Optimizer):
    """A third party's SGD: a pure function of parameter and gradient, written in one of the ways below."""

    def __init__(self, raws: Iterable[nn.Parameter], write: Callable[[Raws], None]) -> None:
        super().__init__(raws, {})
        self.write = write

    def step(self, closure: None = None) -> None:
        self.write([raw for group in self.param_groups for raw in group["params"] if raw.grad is not None])


def add_to_data(raws: Raws) -> None:
    for raw in raws:
        raw.data.add_(raw.grad, alpha=-RATE)


def new_data(raws: Raws) -> None:
    for raw in raws:
        raw.data = raw.data - RATE * raw.grad


def foreach_on_data(raws: Raws) -> None:
    torch._foreach_add_([raw.data for raw in raws], [raw.grad for raw in raws], alpha=-RATE)


def copy_into_data(raws: Raws) -> None:
    """As the optimizers do that keep copies of their own in full precision."""
    for raw in raws:
        raw.data.copy_(raw.detach() - RATE * raw.grad)


def out_of_place_there_and_back(raws: Raws) -> None:
    """As sharpness-aware ones do: away from the point, and to the next one from there."""
    kept = [raw.data.clone() for raw in raws]
    for raw, old in zip(raws, kept, strict=True):
        raw.data.add_(raw.grad)
        raw.data = old
        raw.data.sub_(RATE * raw.grad)


def one_flat_vector(raws: Raws) -> None:
    """As those do that keep all raws in one vector."""
    vector = nn.utils.parameters_to_vector(raws)
    step = nn.utils.parameters_to_vector([raw.grad for raw in raws])
    nn.utils.vector_to_parameters((vector - RATE * step).detach(), raws)


WAYS = (add_to_data, new_data, foreach_on_data, copy_into_data, out_of_place_there_and_back, one_flat_vector)


def by_sgd(raws: Raws) -> Optimizer:
    return torch.optim.SGD(raws, RATE)


@pytest.mark.parametrize("registered", [True, False], ids=["an Optimizer", "a loop"])
@pytest.mark.parametrize("write", WAYS, ids=lambda f: f.__name__)
def test_values_follow_what_writes_through_data(write: Callable[[Raws], None], registered: bool) -> None:
    """State too, whether torch knows of an optimizer or there is none, as in the loops of old tutorials."""
    model = zoo()
    raws = trained(model)
    advance = Written(raws, write).step if registered else lambda: write(raws)
    live(model, advance, model.zero_grad)
    if not registered:
        backward(model, *next(batches(1)))  # without an optimizer, the next evaluation commits the state of the last
        model.zero_grad()
    assert_same_training(model, alone(by_sgd))


def by_lbfgs(model: Zoo, look: Callable[[], object]) -> list[float]:
    """Three steps of up to four closures each; the losses."""
    optimizer = torch.optim.LBFGS(trained(model), lr=0.1, max_iter=4)
    ((x, y),) = batches(1)
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().sum()
        loss.backward()
        losses.append(loss.item())
        raw = model.counted.weight.raws["raw"].detach()
        assert torch.equal(model.counted.weight.detach(), raw.tanh())
        return loss

    for _ in range(3):
        optimizer.step(closure)
        look()
    return losses


def test_values_follow_lbfgs_inside_its_step() -> None:
    """It moves raws between the closures of one step: each of them sees the values of the moment, as the twin does."""
    model, twin, seen = zoo(), computed.caching(zoo(), False), [values(zoo())]
    losses = by_lbfgs(model, lambda: seen.append(assert_follows(model, seen[-1])))
    # whoever looks in train mode where LBFGS has stopped takes a power step there, so both are looked at
    # gradients are those of the twin to rounding, and each closure starts where the ones before have led
    assert losses == pytest.approx(by_lbfgs(twin, lambda: values(twin)), rel=1e-6)
    assert_same_training(model, twin)
    assert len(losses) > 9
    assert losses[-1] < losses[0]
    assert surgery.check(model.eval()).ok
