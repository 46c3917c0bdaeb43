"""Whoever writes, in whatever mode it is read, under whatever constraint: a held value is the one of no hold at all.

Each cell holds the value in every mode, writes, and reads in one. Two references read beside it: a twin that evaluates
at each read, through the same history, and a model built anew from the state dict, which never read anything. Values
are compared bit for bit, gradients to 8 eps of the raw's dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import computed
import surgery
from computed import held, layout, reading, sources, writing
from computed.constraints.conversions import TransformConstraint
from tests.computed.constraints.test_contract import CORE

WIDTH = 4
CHAINS = ("symmetric | spectral(bound=0.5)", "weight_norm | lora(2, seed=1)")
NAMES = {
    "small": (
        "spectral", "spectral, bound", "operator_norm", "orthogonal", "positive", "greater_than", "interval",
        "unit_norm", "weight_norm", "symmetric", "skew", "lora", "mask", "fake_quant", "function, inverse", CHAINS[0],
    ),
    "full": (*CORE, *CHAINS),
}  # fmt: skip
INSIDE = {"greater_than": (1.2, 2.0), "interval, far from zero": (101.0, 107.0)}

Model = nn.Linear
Write = Callable[[Model, Model], None]


@cache
def original(name: str) -> Model:
    """A layer whose weight is well inside; copied for each cell."""
    torch.default_generator.manual_seed(0)
    made = nn.Linear(WIDTH, WIDTH)
    nn.init.uniform_(made.weight, *INSIDE.get(name, (0.05, 0.3)))
    spec = name if name in CHAINS else lambda site: CORE[name]()
    return computed.invalidate(surgery.apply_constraints(made, {"weight": spec}))


@cache
def elsewhere(name: str) -> Model:
    """A copy of it with other raws: what is written comes from there."""
    model = copy.deepcopy(original(name))
    with torch.no_grad():
        for raw in raws(model):
            raw.add_(torch.rand_like(raw) / 2)
    return model


def raws(model: Model) -> list[nn.Parameter]:
    return [raw for name, raw in model.named_parameters() if name != "bias"]


def each_raw(write: Callable[[nn.Parameter, Tensor], object]) -> Write:
    def write_all(model: Model, other: Model) -> None:
        with torch.no_grad():
            for raw, given in zip(raws(model), raws(other), strict=True):
                write(raw, given.detach().clone())

    return write_all


def step(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Write:
    """A step along the other model's raws."""

    def write(model: Model, other: Model) -> None:
        trained = [raw for raw in raws(model) if raw.requires_grad]
        for raw, slope in zip(raws(model), raws(other), strict=True):
            raw.grad = slope.detach().clone() if raw.requires_grad else None
        make(trained).step()
        model.zero_grad()

    return write


def value_by_part(model: Model, other: Model) -> None:
    with torch.no_grad():
        model.weight[1:3].copy_(other.weight[1:3])


WRITERS: dict[str, Write] = {
    "copy_": each_raw(lambda raw, given: raw.copy_(given)),
    "data.copy_": each_raw(lambda raw, given: raw.data.copy_(given)),
    "data =": each_raw(lambda raw, given: setattr(raw, "data", given)),
    "view": each_raw(lambda raw, given: raw.view(-1)[1:].copy_(given.view(-1)[1:])),
    "set_": each_raw(lambda raw, given: raw.set_(given)),
    "numpy": each_raw(lambda raw, given: raw.detach().numpy().__setitem__(..., given.numpy())),
    "vector": lambda model, other: vector_to_parameters(parameters_to_vector(raws(other)).detach(), raws(model)),
    "SGD": step(lambda trained: torch.optim.SGD(trained, 0.1, foreach=False)),
    "SGD fused": step(lambda trained: torch.optim.SGD(trained, 0.1, fused=True)),
    "Adam foreach": step(lambda trained: torch.optim.Adam(trained, 0.1, foreach=True)),
    "AdamW fused": step(lambda trained: torch.optim.AdamW(trained, 0.1, fused=True)),
    "load": lambda model, other: model.load_state_dict(other.state_dict()),
    "load by assigning": lambda model, other: model.load_state_dict(copy.deepcopy(other.state_dict()), assign=True),
    "load a plain one": lambda model, other: model.load_state_dict(surgery.state_dict(other, format="plain")),
    "value.copy_": lambda model, other: model.weight.data.copy_(other.weight.detach()),
    "value.data =": lambda model, other: setattr(model.weight, "data", other.weight.detach().clone()),
    "value.init": lambda model, other: torch.nn.init._no_grad_fill_(model.weight, 0.7),
    "value by part": value_by_part,
}
READING: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


class Mode(NamedTuple):
    """In which a value is read."""

    training: bool
    reading: str

    def read(self, model: Model) -> Tensor:
        """The value."""
        model.train(self.training)
        with READING[self.reading]():
            return model.weight.value()

    def run(self, model: Model) -> Tensor:
        """The output."""
        with READING[self.reading]():
            return model.train(self.training)(torch.linspace(-1, 1, 3 * WIDTH).view(3, WIDTH))


PLAIN_MODES = [Mode(training, reading) for training in (True, False) for reading in ("grad", "no_grad")]
MODES = {
    "small": [*PLAIN_MODES, Mode(True, "autocast"), Mode(False, "inference_mode")],
    "full": [Mode(training, reading) for training in (True, False) for reading in READING],
}


def history(model: Model, other: Model, write: Write, mode: Mode) -> Iterator[tuple[str, Tensor]]:
    """What is there before and after the write, with the gradients of a loss where some are taken."""
    for earlier in PLAIN_MODES:
        earlier.read(model)
    yield "before", mode.read(model).detach().clone()
    write(model, other)
    output = mode.run(model)
    yield "value", mode.read(model).detach().clone()
    yield "output", output.detach().clone()
    if output.requires_grad:
        (output.float() * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        yield from ((f"gradient of {name}", raw.grad) for name, raw in model.named_parameters() if raw.grad is not None)
    tensors = {**model.state_dict(), **dict(model.named_buffers())}
    yield from ((name, tensor.clone()) for name, tensor in tensors.items())


def is_same(what: str, one: Tensor, other: Tensor) -> bool:
    """Bit for bit; gradients to 8 eps, relative to the largest entry."""
    if not what.startswith("gradient"):
        return torch.equal(one, other)
    allowed = 8 * torch.finfo(one.dtype).eps * max(1.0, float(other.abs().max()))
    return float((one - other).abs().max()) <= allowed


def wrong(name: str, write: Write, mode: Mode) -> list[str]:
    """What differs in a cell, from either reference."""
    model, other = copy.deepcopy(original(name)), elsewhere(name)
    twin = computed.caching(copy.deepcopy(model), False)
    ours, theirs = (dict(history(one, other, write, mode)) for one in (model, twin))
    if ours.keys() != theirs.keys():
        return sorted(ours.keys() ^ theirs.keys())
    found = [what for what, tensor in ours.items() if not is_same(what, tensor, theirs[what])]
    anew = computed.caching(copy.deepcopy(original(name)), False)
    anew.load_state_dict(model.state_dict())
    if not torch.equal(anew.train(mode.training).weight.detach(), ours["value"]):
        found.append("value of a model built anew")
    if torch.equal(ours["before"], ours["value"]):
        found.append("nothing was written")
    return found


@pytest.mark.parametrize("writer", WRITERS)
def test_every_cell_is_that_of_the_references(writer: str, size: str):
    cells = [(name, mode) for name in NAMES[size] for mode in MODES[size]]
    found = {cell: wrong(cell[0], WRITERS[writer], cell[1]) for cell in cells}
    assert {cell: differences for cell, differences in found.items() if differences} == {}


def test_every_constraint_is_in_the_matrix():
    small, full = ({type(original(name).weight.constraints[0]) for name in NAMES[size]} for size in ("small", "full"))
    assert full - small == {TransformConstraint}


@pytest.mark.parametrize("mode", PLAIN_MODES)
def test_a_stale_value_is_seen(mode: Mode, monkeypatch: pytest.MonkeyPatch):
    """Where nothing tells that a storage has moved, a cell is wrong."""
    for module in (held, layout, reading, sources, writing):
        monkeypatch.setattr(module, "address_of", lambda tensor: 0)
    assert {"value of a model built anew", "nothing was written"} <= set(wrong("positive", WRITERS["data.copy_"], mode))
