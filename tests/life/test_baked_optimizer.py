"""Adam survives a bake: with the state of the raw that a plain Parameter is, in its place, stepping as Adam does.

Truth is torch's own Adam over a plain model that was given the baked values and the states by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import surgery
from tests.surgery.picture import differences, picture

SPECS = (
    "orthogonal",
    "spectral(bound=0.5)",
    "symmetric",
    "positive",
    "weight_norm",
    "lora(2)",
    "symmetric | weight_norm",
)
KINDS: dict[str, Callable[[object], Optimizer]] = {
    "Adam": lambda groups: torch.optim.Adam(groups, 0.01),
    "Adam foreach": lambda groups: torch.optim.Adam(groups, 0.01, foreach=True),
    "AdamW fused": lambda groups: torch.optim.AdamW(groups, 0.01, fused=True),
    "Adam amsgrad": lambda groups: torch.optim.Adam(groups, 0.01, amsgrad=True, weight_decay=0.1),
}
ORDER = ["0.weight", "0.bias", "2.weight", "2.bias"]


def plain_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def groups_of(model: nn.Module) -> list[dict[str, object]]:
    return [{"params": list(model[0].parameters()), "lr": 0.03}, {"params": list(model[2].parameters())}]


def train(model: nn.Module, optimizer: Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def states_by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    return {name: dict(optimizer.state.get(each, {})) for name, each in model.named_parameters()}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_it_steps_as_adam_does_on_a_plain_model_with_its_state(spec: str, kind: str, training: bool):
    model = plain_model()
    optimizer = KINDS[kind](groups_of(model))
    surgery.apply_constraints(model, {"*.weight": spec}, optimizer=optimizer)
    train(model, optimizer, steps=4, seed=1)
    states = {id(each): dict(state) for each, state in optimizer.state.items()}
    copies = {id(each): copy.deepcopy(state) for each, state in optimizer.state.items()}
    surgery.bake(model.train(training), optimizer=optimizer)
    model.train()
    # in the original order, each group with its own options
    assert [name for name, _ in model.named_parameters()] == ORDER
    assert [[id(each) for each in group["params"]] for group in optimizer.param_groups] == [
        [id(model[position].weight), id(model[position].bias)] for position in (0, 2)
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.03, 0.01]
    # the very state of what goes on, none of what is new
    for name, each in model.named_parameters():
        goes_on = id(each) in states
        assert goes_on == ("bias" in name or spec != "lora(2)")  # whose base was never trained
        assert (each in optimizer.state) == goes_on
        if goes_on:
            assert all(optimizer.state[each][key] is value for key, value in states[id(each)].items())
    assert len(optimizer.state) <= 4
    twin = plain_model()
    twin.load_state_dict(model.state_dict())
    twins = KINDS[kind](groups_of(twin))
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        if id(one) in copies:
            twins.state[other] = copies[id(one)]
    train(model, optimizer, steps=3, seed=2), train(twin, twins, steps=3, seed=2)
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other), name
    ours, theirs = states_by_name(model, optimizer), states_by_name(twin, twins)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    twins.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("spec", SPECS)
def test_a_second_bake_changes_nothing(spec: str, caplog: pytest.LogCaptureFixture):
    model = plain_model()
    optimizer = torch.optim.Adam(model.parameters())
    surgery.apply_constraints(model, {"*.weight": spec}, optimizer=optimizer)
    train(model, optimizer, steps=2, seed=1)
    surgery.bake(model, optimizer=optimizer)
    before, state = picture(model), copy.deepcopy(optimizer.state_dict())
    caplog.clear()
    with caplog.at_level("INFO", "surgery"):
        assert surgery.bake(model, optimizer=optimizer) is model
    assert caplog.messages == ["nothing to bake"]
    assert differences(before, picture(model)) == []
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
