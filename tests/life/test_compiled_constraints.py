"""Every constraint of the catalogue in one graph: compiled, it is the eager model in both modes, and trains as that.

Truth is the eager model, and for the state of power iterations torch's own spectral_norm, which takes the same steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import computed
import surgery
from computed.constraint import Constraint, IteratedConstraint, Preimage
from tests.computed.constraints.test_contract import CORE

CHAINS = ("symmetric | spectral(bound=0.5)", "weight_norm | lora(2)", "lora(2) | spectral(bound=0.5)")
NAMES = (*CORE, *CHAINS)
INSIDE = {"greater_than": (1.2, 2.0), "interval, far from zero": (101.0, 107.0)}


class Bank(nn.Module):
    """A layer for each constraint, side by side."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in names)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([layer(x) for layer in self.layers])


def constrained(names: Sequence[str]) -> Bank:
    bank = Bank(names)
    rules: dict[str, object] = {}
    for position, name in enumerate(names):
        nn.init.uniform_(bank.layers[position].weight, *INSIDE.get(name, (0.05, 0.3)))
        rules[f"layers.{position}.weight"] = name if name in CHAINS else lambda site, name=name: CORE[name]()
    return computed.invalidate(surgery.apply_constraints(bank, rules))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def states(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, weight in surgery.computed_parameters(model).items()
        for constraint in weight.constraints
        if isinstance(constraint, IteratedConstraint)
        for key, value in zip(constraint.state_names, constraint.state(), strict=True)
    }


def history(model: nn.Module, run: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
    optimizer = torch.optim.Adam([raw for raw in model.parameters() if raw.requires_grad], 0.02)
    for number in range(3):
        for training in (True, False):
            model.train(training)
            optimizer.zero_grad()
            output = run(torch.linspace(-1, 1, 12).view(3, 4) + number)
            (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
            yield f"{number} {training} output", output.detach().clone()
            for name, raw in model.named_parameters():
                if raw.grad is not None:
                    yield f"{number} {training} slope of {name}", raw.grad.clone()
        model.train()
        optimizer.step()
        yield from ((f"{number} {name}", value) for name, value in states(model).items())
    yield from ((name, value.clone()) for name, value in model.state_dict().items())


ONE_OF_A_FAMILY = (
    *("spectral, bound", "operator_norm", "orthogonal", "interval", "unit_norm", "weight_norm", "skew", "lora"),
    CHAINS[0],
)
BACKENDS = {
    "small": [("aot_eager", ONE_OF_A_FAMILY)],
    "full": [("aot_eager", NAMES), ("inductor", NAMES)],
}


def test_compiled_training_is_the_eager_one(size: str):
    """Outputs and gradients in both modes at each step, state after each step, and everything at the end."""
    for backend, names in BACKENDS[size]:
        torch.compiler.reset()
        eager = constrained(names)
        model = copy.deepcopy(eager)
        ours = dict(history(model, torch.compile(model, fullgraph=True, backend=backend)))
        theirs = dict(history(eager, eager))
        assert list(ours) == list(theirs)
        for what, tensor in theirs.items():
            apart = float((ours[what] - tensor).abs().max())
            assert apart <= 1e-5 * max(1.0, float(tensor.abs().max())), (backend, what)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_state_advances_as_that_of_torch(compiled: bool):
    """One step of the power iteration with each step of the optimizer, and none without."""
    plain = nn.Linear(6, 5)
    theirs = parametrizations.spectral_norm(copy.deepcopy(plain))
    ours = surgery.apply_constraints(plain, {"weight": "spectral"})
    state = theirs.parametrizations.weight[0]
    with torch.no_grad():
        theirs.parametrizations.weight.original.copy_(ours.weight.raws["raw"])
        for name in ("u", "v"):
            getattr(state, f"_{name}").copy_(getattr(ours.weight.constraints[0], name))
    run = torch.compile(ours, fullgraph=True, backend="aot_eager") if compiled else ours
    optimizers = [torch.optim.SGD(model.parameters(), 0.3) for model in (ours, theirs)]
    start = ours.weight.constraints[0].u.clone()
    for _ in range(4):
        x = torch.randn(7, 6)
        run(2 * x)  # reads, and is thrown away
        for model, optimizer in zip((run, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (model(x) - 1).square().sum().backward()
            optimizer.step()
        torch.testing.assert_close(ours.weight.constraints[0].u, state._u, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.weight.constraints[0].v, state._v, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.weight.raws["raw"], theirs.parametrizations.weight.original, rtol=0, atol=1e-5)
    assert float((ours.weight.constraints[0].u - start).abs().max()) > 1e-2


class Noisy(Constraint):
    """``raw`` with noise in training."""

    stochastic: ClassVar[bool] = True

    def forward(self, raw: Tensor) -> Tensor:
        # not randn_like: aot_eager takes two of those for one, in plain code too
        return raw + torch.randn(raw.shape, dtype=raw.dtype) if self.training else raw * 1

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0


class Twice(nn.Module):
    """One weight, read twice in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.layer(x)


ROUTES: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]] = {
    "eager": lambda model, x: model,
    "compile": lambda model, x: torch.compile(model, fullgraph=True, backend="aot_eager"),
    "export": lambda model, x: torch.export.export(model, (x,), strict=False).module(),
    "strict export": lambda model, x: torch.export.export(model, (x,), strict=True).module(),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_random_constraint_is_a_sample_for_each_read(route: str, training: bool):
    model, x = surgery.apply_constraints(Twice(), {"layer.weight": Noisy}).train(training), torch.ones(2, 4)
    run = ROUTES[route](model, x)
    for _ in range(2):
        first, second = run(x)
        assert torch.equal(first, second) is not training
