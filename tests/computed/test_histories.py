"""Random histories: whatever is done to a held model, in whatever order, it is the model that evaluates at each read.

Two models with the same weights live through the same history, one with holds and one without. After each event their
raws, state, values and gradients are compared bit for bit, and a third model, which is built anew from the state dict,
must read the same.
"""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

import computed
import surgery
from computed.constraints.spectral import Spectral
from computed.parameter import ComputedParameter

SPECS = (
    "symmetric",
    "spectral",
    "spectral(bound=0.5)",
    "orthogonal",
    "positive",
    "weight_norm",
    "unit_norm",
    "lora(2, seed=1)",
    "symmetric | spectral(bound=0.7)",
)
LENGTH = {"small": 60, "full": 150}
SEEDS = {"small": 3, "full": 8}


# as in plain torch, what was computed before a write is not differentiated after it: each of those clears the outputs


class Life:
    """A model, its optimizer and its source of batches."""

    def __init__(self, spec: str, *, held: bool) -> None:
        torch.default_generator.manual_seed(0)
        self.model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec})
        computed.caching(self.model, held)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.5)
        self.saved = copy.deepcopy(self.model.state_dict())
        self.outputs: list[Tensor] = []

    @property
    def weight(self) -> ComputedParameter:
        assert isinstance(self.model.weight, ComputedParameter)
        return self.model.weight

    def batch(self) -> Tensor:
        return torch.randn(3, 4, dtype=self.weight.dtype)


def forward(life: Life) -> None:
    life.outputs = [*life.outputs[-2:], life.model(life.batch())]


def backward(life: Life) -> None:
    for output in life.outputs[:1]:
        if output.requires_grad:
            output.square().mean().backward()
    life.outputs = life.outputs[1:]


def step(life: Life) -> None:
    life.outputs.clear()
    life.optimizer.step()
    life.optimizer.zero_grad()


def train(life: Life) -> None:
    life.model.train()


def evaluate(life: Life) -> None:
    life.model.eval()


def read(life: Life) -> None:
    with torch.no_grad():
        life.outputs = [*life.outputs, life.weight.sum()]


def read_in_inference_mode(life: Life) -> None:
    with torch.inference_mode():
        life.model(life.batch())


def write_in_place(life: Life) -> None:
    life.outputs.clear()
    with torch.no_grad():
        life.weight.mul_(1.25).add_(torch.randn(4, 4) / 8)


def write_a_part(life: Life) -> None:
    life.outputs.clear()
    with torch.no_grad():
        life.weight[1:3].copy_(torch.randn(2, 4))


def write_by_a_view(life: Life) -> None:
    life.outputs.clear()
    with torch.no_grad():
        life.weight.T[0].fill_(0.5)


def initialise(life: Life) -> None:
    life.outputs.clear()
    nn.init.xavier_uniform_(life.weight)


def exchange_data(life: Life) -> None:
    life.outputs.clear()
    life.weight.data = torch.randn(4, 4)


def write_a_raw(life: Life) -> None:
    life.outputs.clear()
    with torch.no_grad():
        next(life.weight.parameters()).mul_(1.1)


def write_a_raw_by_data(life: Life) -> None:
    life.outputs.clear()
    next(life.weight.parameters()).data.add_(0.01)


def save(life: Life) -> None:
    life.saved = copy.deepcopy(life.model.state_dict())


def load(life: Life) -> None:
    life.outputs.clear()
    life.model.load_state_dict(life.saved)


def load_a_plain_one(life: Life) -> None:
    life.outputs.clear()
    life.model.load_state_dict(nn.Linear(4, 4).state_dict())


def copy_it(life: Life) -> None:
    adopt(life, copy.deepcopy(life.model))


def pickle_it(life: Life) -> None:
    adopt(life, pickle.loads(pickle.dumps(life.model)))


def adopt(life: Life, model: nn.Module) -> None:
    life.model = model
    life.outputs.clear()
    life.optimizer = torch.optim.SGD(life.model.parameters(), lr=0.05, momentum=0.5)


def freeze(life: Life) -> None:
    life.weight.requires_grad_(False)


def unfreeze(life: Life) -> None:
    life.weight.requires_grad_(True)


def map_over_it(life: Life) -> None:
    vmap(life.model)(life.batch())


def swap_raws(life: Life) -> None:
    given = {name: tensor.detach() * 2 for name, tensor in life.model.named_parameters()}
    functional_call(life.model, given, (life.batch(),))


def cast(life: Life) -> None:
    life.outputs.clear()
    life.model.to(torch.float64 if life.weight.dtype == torch.float32 else torch.float32)


def tighten(life: Life) -> None:
    life.outputs.clear()
    last = life.weight.constraints[-1]
    if isinstance(last, Spectral) and last.bound is not None:
        last.bound *= 0.9


def list_it(life: Life) -> None:
    list(life.model.parameters())


def forget(life: Life) -> None:
    computed.invalidate(life.model)


def print_it(life: Life) -> None:
    assert str(life.weight)
    assert repr(life.model)


EVENTS: tuple[Callable[[Life], None], ...] = (
    *(forward, backward, step) * 3,
    *(train, evaluate) * 2,
    read,
    read_in_inference_mode,
    write_in_place,
    write_a_part,
    write_by_a_view,
    initialise,
    exchange_data,
    write_a_raw,
    write_a_raw_by_data,
    save,
    load,
    load_a_plain_one,
    copy_it,
    pickle_it,
    freeze,
    unfreeze,
    map_over_it,
    swap_raws,
    cast,
    tighten,
    list_it,
    forget,
    print_it,
)


def picture(life: Life) -> dict[str, Tensor | None]:
    """Everything that a training run is made of."""
    found: dict[str, Tensor | None] = {f"state {key}": tensor for key, tensor in life.model.state_dict().items()}
    found |= {f"gradient {name}": parameter.grad for name, parameter in life.model.named_parameters()}
    found |= {"value": life.weight.detach(), "output": life.model(torch.eye(4, dtype=life.weight.dtype)).detach()}
    return {key: None if tensor is None else tensor.clone() for key, tensor in found.items()}


def rebuilt(life: Life) -> Tensor:
    """The value that a new model has with the same state dict."""
    torch.default_generator.manual_seed(5)
    plain = nn.Linear(4, 4, dtype=life.weight.dtype)
    other = surgery.apply_constraints(plain, {"weight": life.weight.spec})
    other.load_state_dict(life.model.state_dict())
    other.train(life.model.training)
    return other.weight.detach()


@pytest.mark.parametrize("spec", SPECS)
def test_a_held_model_lives_as_one_that_is_not(spec: str, size: str, evidence: Callable[[str, str], None]):
    for seed in range(SEEDS[size]):
        live(spec, random.Random(f"{spec} {seed}"), LENGTH[size])
    evidence(
        f"random histories after which a held weight under {spec} has the bits of one that is evaluated at each read",
        f"{SEEDS[size]} of {SEEDS[size]}, {LENGTH[size]} events each out of {len(set(EVENTS))} kinds",
    )


def live(spec: str, chance: random.Random, length: int) -> None:
    held, twin = Life(spec, held=True), Life(spec, held=False)
    history: list[str] = []

    def told(text: str) -> str:
        return f"{text}\nafter {', '.join(history)}"

    for moment in range(length):
        event = chance.choice(EVENTS)
        looks = chance.random() < 0.5
        history.append(event.__name__ + (", compared" if looks else ""))
        for life in (held, twin):
            torch.default_generator.manual_seed(moment)
            event(life)
        if looks or moment == length - 1:
            torch.testing.assert_close(picture(held), picture(twin), rtol=0, atol=0, msg=told)
            torch.testing.assert_close(rebuilt(held), held.weight.detach(), msg=told)
