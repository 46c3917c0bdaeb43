"""State-dict keys are a promise: the golden file holds them, in order, for every kind of computed parameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.parameter import ComputedParameter

GOLDEN = Path(__file__).with_name("state_dict_keys.txt")


class Scaled(nn.Module):
    """A foreign module with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, raw: Tensor) -> Tensor:
        return raw * self.scale + self.shift


class Product(nn.Module):
    """A foreign module whose right inverse gives two tensors."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left * right

    def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return value, torch.ones_like(value)


class Sampled(nn.Module):
    """A module without inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(4, 4))

    def forward(self) -> Tensor:
        return self.mean.exp()


def linear(spec: object) -> nn.Module:
    """A Linear with its weight under ``spec``."""
    return surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec})


def conv(spec: object) -> nn.Module:
    """A convolution with its weight under ``spec``."""
    return surgery.apply_constraints(nn.Conv2d(4, 4, 3), {"weight": spec})


def generated() -> nn.Module:
    """A Linear whose weight is a module without inputs."""
    model = nn.Linear(4, 4)
    del model.weight
    model.weight = ComputedParameter(Sampled())
    return model


def chained() -> nn.Module:
    """A constraint, and two chained to it later."""
    model = linear("symmetric")
    surgery.constrain(model, weight="spectral")
    return surgery.constrain(model, weight="lora(2)")


def tied() -> nn.Module:
    """One weight in two hosts."""
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 4), "head": nn.Linear(4, 4)})
    model["head"].weight = model["embedding"].weight
    return surgery.apply_constraints(model, {"head.weight": "spectral"})


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{f"Linear, {spec}": (lambda spec=spec: linear(spec)) for spec in (
        "spectral", "orthogonal", "positive", "greater_than(0)", "interval(-1, 1)", "unit_norm", "weight_norm",
        "symmetric", "skew", "lora(2)", "symmetric | spectral", "lora(2) | spectral",
    )},
    **{f"Conv2d, {spec}": (lambda spec=spec: conv(spec)) for spec in (
        "spectral", "orthogonal", "weight_norm", "lora(2)",
    )},
    "Linear, weight and bias": lambda: surgery.apply_constraints(
        nn.Linear(4, 4), {"weight": "spectral", "bias": "positive"}
    ),
    "Linear, a foreign module": lambda: linear(Scaled()),
    "Linear, a foreign module of two inputs": lambda: linear(Product()),
    "Linear, a module without inputs": generated,
    "Linear, chained one after the other": chained,
    "a tie": tied,
}  # fmt: skip


def written() -> str:
    """The keys of all models, as the golden file has them."""
    parts = [f"[{name}]\n" + "\n".join(make().state_dict()) + "\n" for name, make in MODELS.items()]
    return "\n".join(parts)


def test_the_keys_are_those_of_the_golden_file() -> None:
    """Compared exactly. A key that changes here breaks every checkpoint: add lines, do not change any."""
    assert written() == GOLDEN.read_text()


@pytest.mark.parametrize("name", MODELS)
def test_own_state_dicts_load_strictly(name: str) -> None:
    """Into a model made in the same way, after which the values are equal."""
    saved, loaded = MODELS[name](), MODELS[name]()
    with torch.no_grad():
        for raw in saved.parameters():
            raw.add_(0.1 * torch.randn_like(raw))
    loaded.load_state_dict(saved.state_dict(), strict=True)
    expected = surgery.computed_parameters(saved)
    for key, weight in surgery.computed_parameters(loaded).items():
        assert torch.equal(weight.baked_value(), expected[key].baked_value())
