"""What was evaluated is let go of: nothing of it outlives the step, the read, the copy or the model that it was for.

Counted are all tensors, holds and autograd nodes that Python knows of and that came with more of the same.
"""

from __future__ import annotations

import copy
import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import computed
import surgery
from computed.held import Held
from computed.hold import Hold
from computed.sources import Sources
from tests.computed.constraints.test_contract import CORE

FOREIGN: dict[str, Callable[[nn.Module], object]] = {
    "torch's spectral_norm": parametrizations.spectral_norm,
    "torch's orthogonal": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="matrix_exp"),
    "torch's weight_norm": parametrizations.weight_norm,
}
NAMES = (*CORE, *FOREIGN, "symmetric | spectral(bound=0.5)", "positive | unit_norm")
REPEATS = 10
X = torch.linspace(-1, 1, 12).view(3, 4)


def layer(name: str) -> nn.Linear:
    made = nn.Linear(4, 4)
    nn.init.uniform_(made.weight, 0.05, 0.3)
    if name in FOREIGN:
        FOREIGN[name](made)
        return surgery.adopt(made)
    spec = (lambda site: CORE[name]()) if name in CORE else name
    return computed.invalidate(surgery.apply_constraints(made, {"weight": spec}))


@pytest.fixture(scope="module", autouse=True)
def _only_what_is_new() -> Iterator[None]:
    """What all of torch consists of is looked at no more: that takes a fifth of a second each time."""
    train(layer("spectral"))  # a first step imports a great deal
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive() -> Counter[str]:
    """By class; autograd nodes have classes that torch makes."""
    gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects())
    known = (Tensor, Hold, Held, Sources)
    return Counter({k.__name__: n for k, n in kinds.items() if issubclass(k, known) or "Backward" in k.__name__})


def move(model: nn.Linear) -> None:
    for raw in model.parameters():
        raw.data.mul_(1.001)


def train(model: nn.Linear) -> None:
    model.train()
    optimizer = torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], 0.01)
    model(X).square().sum().backward()
    optimizer.step()
    model.zero_grad()


def forward_alone(model: nn.Linear) -> None:
    move(model.train())
    model(X)


def in_eval(model: nn.Linear) -> None:
    move(model.eval())
    model(X)


def without_gradients(model: nn.Linear) -> None:
    move(model)
    with torch.no_grad():
        model(X)


def checkpointed(model: nn.Linear) -> None:
    move(model)
    for reentrant in (True, False):
        checkpoint(model, X.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
    model.zero_grad()


def penalised(model: nn.Linear) -> None:
    move(model)
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    model.zero_grad()


def written(model: nn.Linear) -> None:
    model(X)
    nn.init.uniform_(model.weight, 0.05, 0.3)
    model(X)


def not_held(model: nn.Linear) -> None:
    computed.caching(model, False)
    train(model), without_gradients(model)
    computed.caching(model, True)


def copied(model: nn.Linear) -> None:
    train(copy.deepcopy(model))


def loaded(model: nn.Linear) -> None:
    model(X)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model(X)


USES = (
    train, forward_alone, in_eval, without_gradients, checkpointed, penalised, written, not_held, copied, loaded,
)  # fmt: skip


def left_behind(act: Callable[[], object]) -> dict[str, int]:
    """What stays of each of many more times."""
    act(), act()
    before = alive()
    for _ in range(REPEATS):
        act()
    return {kind: number for kind, number in (alive() - before).items() if number >= REPEATS}


@pytest.mark.parametrize("use", USES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_more_of_the_same_leaves_no_more_behind(name: str, use: Callable[[nn.Linear], None]):
    model = layer(name)
    assert left_behind(lambda: use(model)) == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_gone_leaves_nothing_behind(name: str):
    def live() -> None:
        model = layer(name)
        train(model), in_eval(model)
        surgery.bake(model)

    assert left_behind(live) == {}


def test_what_is_kept_is_seen():
    kept: list[Tensor] = []

    def keep() -> None:
        model = layer("positive")
        model(X)
        kept.append(model.weight.value())

    found = left_behind(keep)
    assert found["Hold"] == found["Held"] == found["Sources"] == REPEATS
