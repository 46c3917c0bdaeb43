"""Optimizers and changes of a model: who follows keeps place, options and state; who is left behind is told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import surgery
from surgery.optimizers import Following

Make = Callable[[Iterable[Any]], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda params: torch.optim.SGD(params, 0.05, momentum=0.9),
    "Adam": lambda params: torch.optim.Adam(params, 0.01),
    "Adam foreach": lambda params: torch.optim.Adam(params, 0.01, foreach=True),
    "AdamW fused": lambda params: torch.optim.AdamW(params, 0.01, fused=True),
    "AdamW amsgrad": lambda params: torch.optim.AdamW(params, 0.01, amsgrad=True, weight_decay=0.1),
    "RMSprop": lambda params: torch.optim.RMSprop(params, 0.01, centered=True),
    "Adagrad": lambda params: torch.optim.Adagrad(params, 0.01),
    "Rprop": lambda params: torch.optim.Rprop(params, 0.01),
}
SPECS = ("orthogonal", "weight_norm", "lora(2)", "symmetric | weight_norm", "spectral(bound=0.5)")
REPLACING = ("weight_norm", "lora(2)", "symmetric | weight_norm")  # these make raws of their own


def model_of(size: int = 4) -> nn.Sequential:
    """Two square layers: any constraint can take their weights."""
    return nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, size))


def step(model: nn.Module, optimizer: Optimizer, seed: int = 0) -> None:
    """One step on numbers of its own."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


def described(optimizer: Optimizer) -> list[object]:
    """Groups and states down to identities and bits."""
    found: list[object] = []
    for group in optimizer.param_groups:
        found.append([id(parameter) for parameter in group["params"]])
        found.append({key: value for key, value in group.items() if key != "params"})
    for parameter, state in optimizer.state.items():
        found.append((id(parameter), {key: _bits(value) for key, value in state.items()}))
    return found


def _bits(value: object) -> object:
    return value.detach().clone().reshape(-1).view(torch.uint8).tolist() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_follows_and_goes_back(name: str, spec: str) -> None:
    """After undo it is what it was, bit for bit, and goes on as one that never followed."""
    model = model_of()
    twin = copy.deepcopy(model)
    optimizer, twins = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](twin.parameters())
    for seed in range(3):
        step(model, optimizer, seed), step(twin, twins, seed)
    before, weight, bias = described(optimizer), model[2].weight, model[2].bias
    state = optimizer.state[bias]
    surgery.apply_constraints(model, {"2.weight": spec}, optimizer=optimizer)
    params = optimizer.param_groups[0]["params"]
    raws = [raw for raw in model[2].weight.raws.values() if raw.requires_grad or raw is weight]
    assert [id(p) for p in params] == [id(p) for p in (model[0].weight, model[0].bias, *_first(weight, raws), bias)]
    assert optimizer.state[bias] is state
    assert all(raw is weight or raw not in optimizer.state for raw in raws)
    values = {role: raw.detach().clone() for role, raw in model[2].weight.raws.items() if raw.requires_grad}
    for seed in range(3, 6):
        step(model, optimizer, seed)
    moved = {role: not torch.equal(raw, values[role]) for role, raw in model[2].weight.raws.items() if role in values}
    assert all(moved.values()), moved
    surgery.undo(model)
    with torch.no_grad():
        model.load_state_dict(twin.state_dict())  # what undo leaves alone, the other layer, has been trained
    assert state_of(weight, described(optimizer)) == state_of(weight, before) is not None
    assert described(optimizer)[0] == before[0]
    assert set(optimizer.state) == set(params)


def state_of(parameter: nn.Parameter, found: list[object]) -> object:
    """Its entry of what `described` gives."""
    entries = [entry for entry in found if isinstance(entry, tuple) and entry[0] == id(parameter)]
    return entries[0] if entries else None


def _first(weight: nn.Parameter, raws: list[nn.Parameter]) -> list[nn.Parameter]:
    """The replaced Parameter where it is still a raw, then the new ones."""
    return [*[raw for raw in raws if raw is weight], *[raw for raw in raws if raw is not weight]]


@pytest.mark.parametrize("spec", SPECS)
def test_what_undo_gives_back_steps_as_if_nothing_had_been(spec: str) -> None:
    """A whole model that is constrained, trained, taken back and trained on equals one that only trains on."""
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    step(model, optimizer)
    twin = copy.deepcopy(model)
    twins = torch.optim.Adam(twin.parameters(), 0.01)
    twins.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    surgery.apply_constraints(model, {"*.weight": spec}, optimizer=optimizer)
    for parameter in (model[0].bias, model[2].bias):
        parameter.requires_grad_(False)
    step(model, optimizer, 1)
    surgery.undo(model)
    for parameter in (model[0].bias, model[2].bias):
        parameter.requires_grad_(True)
    for seed in range(2, 4):
        step(model, optimizer, seed), step(twin, twins, seed)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_new_raws_have_the_options_and_the_name_of_their_place() -> None:
    """In the group of the Parameter that they replace, whose lists are edited in place."""
    model = model_of()
    groups = [
        {"params": list(model[0].named_parameters(prefix="0")), "lr": 0.1},
        {"params": list(model[2].named_parameters(prefix="2")), "lr": 0.01, "weight_decay": 0.5},
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    lists = [id(group["params"]) for group in optimizer.param_groups]
    surgery.apply_constraints(model, {"2.weight": "lora(2)"}, optimizer=optimizer)
    assert [id(group["params"]) for group in optimizer.param_groups] == lists
    first, second = optimizer.param_groups
    assert first["param_names"] == ["0.weight", "0.bias"]
    assert second["param_names"] == ["2.weight", "2.weight.A", "2.weight.B", "2.bias"]
    assert second["params"][1] is model[2].weight.raws["A"]
    step(model, optimizer)
    schedule.step()
    assert (first["lr"], second["lr"], second["weight_decay"]) == (0.05, 0.005, 0.5)
    surgery.undo(model)
    assert second["param_names"] == ["2.weight", "2.bias"]
    assert optimizer.state_dict()["param_groups"][1]["params"] == [2, 3]


@pytest.mark.parametrize("spec", SPECS)
def test_a_state_from_before_loads_after_a_bake(spec: str) -> None:
    """Order and shapes are the original ones again; the baked Parameter trains."""
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    step(model, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    shapes = [tuple(parameter.shape) for parameter in optimizer.param_groups[0]["params"]]
    surgery.apply_constraints(model, {"*.weight": spec}, optimizer=optimizer)
    step(model, optimizer, 1)
    surgery.bake(model, "0.weight", optimizer=optimizer)
    step(model, optimizer, 2)
    surgery.bake(model, optimizer=optimizer)
    params = optimizer.param_groups[0]["params"]
    assert [id(parameter) for parameter in params] == [id(parameter) for parameter in model.parameters()]
    assert [tuple(parameter.shape) for parameter in params] == shapes
    assert set(optimizer.state) <= set(params)
    optimizer.load_state_dict(saved)
    before = [parameter.detach().clone() for parameter in params]
    step(model, optimizer, 3)
    assert not any(torch.equal(one, other) for one, other in zip(params, before, strict=True))


def test_a_tie_is_one_place() -> None:
    """One entry before, its raws afterwards, one entry again."""
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embedding"].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    surgery.apply_constraints(model, {"head.weight": "weight_norm"}, optimizer=optimizer)
    assert len(optimizer.param_groups[0]["params"]) == 2
    surgery.bake(model, optimizer=optimizer)
    (only,) = optimizer.param_groups[0]["params"]
    assert only is model["head"].weight is model["embedding"].weight


def test_a_split_tie_keeps_its_plain_part_in_place() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 4), "head": nn.Linear(4, 4, bias=False)})
    weight = model["head"].weight = model["embedding"].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    surgery.apply_constraints(model, {"head.weight": "orthogonal"}, tie="split", optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(weight), id(model["head"].weight.raws["raw"])]
    surgery.undo(model)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(weight)]


@pytest.mark.parametrize("existing", ["chain", "replace"])
def test_a_second_constraint_follows_too(existing: str) -> None:
    """Raws that stay keep their places, those that go are taken out, and undo goes back one change at a time."""
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    step(model, optimizer)
    original = described(optimizer)[0]
    surgery.apply_constraints(model, {"*.weight": "weight_norm"}, optimizer=optimizer)
    step(model, optimizer)
    once = described(optimizer)[0]
    surgery.apply_constraints(model, {"*.weight": "lora(1)"}, existing=existing, optimizer=optimizer)
    trained = {id(raw) for raw in model.parameters() if raw.requires_grad}
    assert trained <= {id(raw) for raw in optimizer.param_groups[0]["params"]}
    step(model, optimizer)
    surgery.undo(model)
    assert described(optimizer)[0] == once
    step(model, optimizer)
    surgery.undo(model)
    assert described(optimizer)[0] == original


@pytest.mark.parametrize("spec", REPLACING)
def test_a_step_in_vain_is_refused_and_changes_nothing(spec: str) -> None:
    """The error names each site and what trains instead; an optimizer that has it ends it."""
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    surgery.apply_constraints(model, {"*.weight": spec})
    model(torch.randn(2, 4)).sum().backward()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(surgery.StaleOptimizerError, match=r"SGD\.step\(\)[^$]*0\.weight: 0\.weight\.[^$]*2\.weight"):
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    other = torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], 0.1)
    optimizer.step()
    del other
    surgery.undo(model)
    step(model, optimizer)


def test_what_is_held_by_nobody_on_purpose_is_no_error() -> None:
    """Raws that are frozen are not to be trained; a reused raw is where it was; other models do not matter."""
    model, other = model_of(), model_of()
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], 0.1)
    surgery.apply_constraints(model, {"*.weight": "orthogonal"})
    step(model, optimizer)
    surgery.apply_constraints(model, {"0.bias": "frozen"})
    step(model, optimizer)
    surgery.apply_constraints(other, {"0.weight": "weight_norm"})
    other[0].weight.requires_grad_(False)
    step(model, optimizer)
    other[0].weight.requires_grad_(True)
    with pytest.raises(surgery.StaleOptimizerError, match=r"0\.weight: 0\.weight\.g"):
        step(model, optimizer)


def test_an_optimizer_over_raws_is_told_of_undo_and_bake() -> None:
    """What it holds is gone from the model in both cases."""
    for back in (surgery.undo, surgery.bake):
        model = surgery.apply_constraints(model_of(), {"*": "frozen", "*.weight": "lora(1)"})
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        model[0].weight.raws["base"].requires_grad_(False)
        adapters = [raw for name, raw in model.named_parameters() if name.endswith((".A", ".B"))]
        optimizer = torch.optim.SGD(adapters, 0.1)
        step(model, optimizer)
        back(model)
        model.requires_grad_(True)
        with pytest.raises(surgery.StaleOptimizerError, match=r"0\.weight: 0\.weight"):
            step(model, optimizer)


def test_a_fault_while_optimizers_follow_leaves_model_and_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All or nothing: the second optimizer fails, the first one goes back."""
    model = model_of()
    one, two = (torch.optim.Adam(part.parameters(), 0.01) for part in (model[0], model[2]))
    step(model, one), step(model, two)
    before = [described(each) for each in (one, two)]
    keys = list(model.state_dict())
    follow = Following.follow

    def failing(self: Following, exchanges: Any) -> None:
        follow(self, exchanges)
        if self.optimizer is two:
            raise RuntimeError("planted")

    monkeypatch.setattr(Following, "follow", failing)
    with pytest.raises(RuntimeError, match="planted"):
        surgery.apply_constraints(model, {"*.weight": "weight_norm"}, optimizer=[one, two])
    assert [described(each) for each in (one, two)] == before
    assert list(model.state_dict()) == keys
    assert surgery.computed_parameters(model) == {}


def test_what_cannot_follow_is_refused_before_anything_changes() -> None:
    """All reasons at once."""
    model = model_of()
    history = torch.optim.LBFGS(model[0].parameters())

    def closure() -> Tensor:
        history.zero_grad()
        loss = model(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    history.step(closure)
    with pytest.raises(
        surgery.PlanError, match=r"2 problems[^$]*0\.weight is held by an LBFGS[^$]*2\.weight is in no g"
    ):
        surgery.apply_constraints(model, {"*.weight": "lora(1)"}, optimizer=history)
    assert surgery.computed_parameters(model) == {}
    with pytest.raises(surgery.SurgeryError, match="optimizer=int: it is a torch"):
        surgery.apply_constraints(model, {"*.weight": "lora(1)"}, optimizer=[3])  # type: ignore[list-item] # what is refused
    with pytest.raises(surgery.SurgeryError, match="optimizer=str"):
        surgery.bake(model, optimizer=["Adam"])  # type: ignore[list-item] # what is refused


def test_a_fresh_lbfgs_follows() -> None:
    """Its own list of parameters is the one that is edited."""
    model = model_of()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    surgery.apply_constraints(model, {"*.weight": "weight_norm"}, optimizer=optimizer)
    x = torch.randn(8, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    assert closure().item() < before


def test_nothing_to_bake_leaves_optimizers() -> None:
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    step(model, optimizer)
    before = described(optimizer)
    surgery.bake(model, optimizer=optimizer)
    assert described(optimizer) == before


def test_a_tied_tensor_that_goes_on_elsewhere_may_be_trained_alone() -> None:
    """A split leaves it to another site, where it is nobody's replaced Parameter."""
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 4), "head": nn.Linear(4, 4, bias=False)})
    model["head"].weight = model["embedding"].weight
    surgery.apply_constraints(model, {"head.weight": "lora(2)"}, tie="split")
    optimizer = torch.optim.SGD(model["embedding"].parameters(), 0.1)
    model["head"](model["embedding"](torch.arange(4))).square().sum().backward()
    optimizer.step()
