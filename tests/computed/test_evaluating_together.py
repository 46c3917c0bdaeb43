"""Small weights evaluated in one go: the bits, the state and the gradients that each has alone.

The reference is a twin with `caching(model, False)`, which evaluates each at every read.
"""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

import computed
import surgery
from computed.constraints.spectral import Spectral
from tests.computed.test_holding import assert_same_gradients

SIZES = (16, 16, 16, 16, 5)


class Branches(nn.Module):
    """Layers of which each forward uses some."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        pairs = itertools.pairwise(SIZES)
        self.layers = nn.ModuleList([nn.Linear(n, m, dtype=dtype) for n, m in pairs])
        self.used = range(len(self.layers))

    def forward(self, x: Tensor) -> Tensor:
        for i in self.used:
            x = torch.tanh(self.layers[i](x))
        return x


@pytest.fixture
def teams(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values each evaluation of the constraint gave."""
    found: list[int] = []
    whole = Spectral.evaluate_together

    def counting(self: Spectral, those: list[Spectral], raws: list[Tensor]) -> object:
        found.append(len(those))
        return whole(self, those, raws)

    monkeypatch.setattr(Spectral, "evaluate_together", counting)
    return found


def trained(model: nn.Module, spec: str = "spectral", **options: object) -> tuple[nn.Module, torch.optim.Optimizer]:
    surgery.apply_constraints(model, {"*.weight": spec}, keep_undo=False)
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, *, to_none: bool = True) -> Tensor:
    optimizer.zero_grad(set_to_none=to_none)
    out = model(x)
    out.square().sum().backward()
    optimizer.step()
    return out.detach()


def test_after_a_step_all_are_evaluated_at_the_first_read(teams: list[int]) -> None:
    model, optimizer = trained(Branches())
    step(model, optimizer, torch.randn(3, 16))
    assert teams == [1, 1, 1, 1]
    teams.clear()
    step(model, optimizer, torch.randn(3, 16))
    assert teams == [4]  # (16, 16) three times, and (5, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", ["spectral", "spectral(bound=0.3)", "spectral(norm=2.0, n_power_iterations=3)"])
def test_values_states_and_gradients_are_those_of_each_alone(spec: str, dtype: torch.dtype, teams: list[int]) -> None:
    torch.manual_seed(0)
    model, optimizer = trained(Branches(dtype), spec)
    twin = computed.caching(copy.deepcopy(model), False)
    for _ in range(5):
        x = torch.randn(4, 16, dtype=dtype)
        for one in (model, twin):
            one.load_state_dict(model.state_dict())
        values = [layer.weight.value().detach().clone() for layer in model.layers]
        assert all(torch.equal(value, layer.weight.value()) for value, layer in zip(values, twin.layers, strict=True))
        for one in (model, twin):
            one.zero_grad()
            one(x).square().sum().backward()
        assert_same_gradients(model, twin)
        optimizer.step()
        twin.load_state_dict(model.state_dict())
    step(model, optimizer, torch.randn(4, 16, dtype=dtype))
    assert 4 in teams


def test_training_is_bit_for_bit_that_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, optimizer = trained(Branches())
    twin = copy.deepcopy(model)
    theirs = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    surgery_of_twin = surgery.computed_parameters(twin).values()
    for turn in range(6):
        for parameter in surgery_of_twin:
            parameter.__dict__["alone"] = True
        x = torch.randn(4, 16)
        assert torch.equal(step(model, optimizer, x), step(twin, theirs, x)), turn
        for raw, other in zip(model.buffers(), twin.buffers(), strict=True):
            assert torch.equal(raw, other)
        # gradients are equal to rounding alone
        twin.load_state_dict(model.state_dict())


@pytest.mark.parametrize("to_none", [True, False])
def test_what_is_not_read_keeps_its_state(teams: list[int], to_none: bool) -> None:
    model, optimizer = trained(Branches())
    x = torch.randn(3, 16)
    step(model, optimizer, x, to_none=to_none)
    before = {name: buffer.clone() for name, buffer in model.layers[1].named_buffers()}
    raw = model.layers[1].weight.raws["raw"].detach().clone()
    model.used = (0, 2, 3)
    teams.clear()
    step(model, optimizer, x, to_none=to_none)
    assert teams == [4]  # evaluated with the others, and used by nobody
    for name, buffer in model.layers[1].named_buffers():
        if "settled" not in name:
            assert torch.equal(buffer, before[name]), name
    if to_none:
        assert torch.equal(raw, model.layers[1].weight.raws["raw"])
        assert model.layers[1].weight.raws["raw"].grad is None
    teams.clear()
    step(model, optimizer, x, to_none=to_none)
    assert teams == [3]  # it was not used in the last step
    model.used = range(4)
    teams.clear()
    step(model, optimizer, x, to_none=to_none)
    assert sorted(teams) == ([3] if to_none else [1, 3])  # what nobody moved is true still


def test_a_write_between_is_projected_and_read() -> None:
    model, optimizer = trained(Branches())
    x = torch.randn(3, 16)
    step(model, optimizer, x)
    model.layers[0](x)  # evaluates the second as well
    new = torch.randn(16, 16)
    with torch.no_grad():
        model.layers[1].weight.copy_(new)
    expected = new / torch.linalg.matrix_norm(new, 2)
    torch.testing.assert_close(model.layers[1].weight.value().detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_raw_that_is_written_between_is_read() -> None:
    model, optimizer = trained(Branches())
    x = torch.randn(3, 16)
    step(model, optimizer, x)
    model.layers[0](x)
    with torch.no_grad():
        model.layers[1].weight.raws["raw"].mul_(3.0).add_(torch.eye(16))
    twin = computed.caching(copy.deepcopy(model), False)
    assert torch.equal(model.layers[1].weight.value(), twin.layers[1].weight.value())


def test_a_setting_that_is_moved_between_is_read() -> None:
    model, optimizer = trained(Branches(), "spectral(bound=0.5)")
    x = torch.randn(3, 16)
    step(model, optimizer, x)
    surgery.configure(model, "layers.1.weight", bound=0.25)
    model.layers[0](x)
    model.eval()
    assert surgery.check(model).ok
    assert float(torch.linalg.matrix_norm(model.layers[1].weight.detach(), 2)) < 0.2501


def test_members_that_are_gone_or_frozen_are_left_out(teams: list[int]) -> None:
    model, optimizer = trained(Branches())
    x = torch.randn(3, 16)
    step(model, optimizer, x)
    model.zero_grad()
    model.layers[1].weight.requires_grad_(False)
    model.layers[2].eval()
    teams.clear()
    out = model(x)
    assert teams == [2, 1]
    out.sum().backward()
    assert model.layers[1].weight.raws["raw"].grad is None


def test_a_copy_has_teams_of_its_own(teams: list[int]) -> None:
    model, optimizer = trained(Branches())
    x = torch.randn(3, 16)
    step(model, optimizer, x)
    other = copy.deepcopy(model)
    assert all(parameter._team == () for parameter in surgery.computed_parameters(other).values())
    assert torch.equal(other(x), model(x))


def test_second_derivatives_go_through_the_node_of_all() -> None:
    torch.manual_seed(0)
    model, optimizer = trained(Branches(torch.float64))
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    step(model, optimizer, x)
    twin = computed.caching(copy.deepcopy(model), False)
    for one in (model, twin):
        one.zero_grad()
        (slope,) = torch.autograd.grad(one(x).sum(), x, create_graph=True)
        slope.square().sum().backward()
    assert_same_gradients(model, twin)


def test_two_losses_that_use_different_members() -> None:
    torch.manual_seed(0)
    model, optimizer = trained(Branches())
    x = torch.randn(3, 16)
    step(model, optimizer, x)
    twin = computed.caching(copy.deepcopy(model), False)
    for one in (model, twin):
        one.zero_grad()
        one.layers[0](x).square().sum().backward()
        one.layers[1](x).square().sum().backward()
        one.layers[0](x).sum().backward()
    assert_same_gradients(model, twin)
    assert model.layers[2].weight.raws["raw"].grad is None


STEPPED = ["spectral", "positive", "lora(2)", "orthogonal", "spectral | gain", "weight_norm", "operator_norm"]


@pytest.mark.parametrize("spec", STEPPED)
@pytest.mark.parametrize("size", [16, 300])
@pytest.mark.parametrize("loss_lives", [False, True])
def test_a_step_writes_where_raws_are(spec: str, size: int, loss_lives: bool) -> None:
    """A snapshot that lived on would make the optimizer copy each raw, and a loss lives on with its graph."""
    model = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, size))
    surgery.apply_constraints(model, {"*.weight": spec}, keep_undo=False)
    optimizer = torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], 0.1)
    for turn in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(4, size)).square().sum()
        loss.backward()
        if not loss_lives:
            del loss
        places = [raw.const_data_ptr() for raw in model.parameters()]
        optimizer.step()
        if turn:  # the first may move what apply shared with others
            assert places == [raw.const_data_ptr() for raw in model.parameters()]


@pytest.mark.parametrize("spec", ["spectral", "positive", "orthogonal", "weight_norm"])
@pytest.mark.parametrize("size", [16, 300])
@pytest.mark.parametrize("retained", [False, True])
def test_a_backward_after_a_step_is_that_of_the_old_raws_or_raises(spec: str, size: int, retained: bool) -> None:
    """Silently wrong it is never: one that goes through what another backward has freed says so, as torch does."""
    torch.manual_seed(0)
    layer = surgery.constrain(nn.Linear(size, size), weight=spec)
    twin = computed.caching(copy.deepcopy(layer), False)
    (raw, *_), (expected, *_) = layer.weight.trained_raws, twin.weight.trained_raws
    x = torch.randn(4, size)
    early, twins = layer(x).square().sum(), twin(x).square().sum()
    layer(x).sum().backward(retain_graph=retained)
    twins.backward()  # of the raws as they are now
    torch.optim.SGD(layer.weight.trained_raws, 0.1).step()
    layer.zero_grad()
    keeps = spec == "spectral" or (spec == "weight_norm" and size == 16)  # what its derivative needs, beside the raws
    if keeps or retained:
        early.backward()
        torch.testing.assert_close(raw.grad, expected.grad, rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(RuntimeError, match=r"^weight: an optimizer has moved the raws .* before the step"):
            early.backward()
        assert raw.grad is None


@pytest.mark.parametrize("sizes", [(16, 16), (200, 200), (255, 257)])
def test_what_is_taken_up_again_goes_on_bit_for_bit(sizes: tuple[int, int]) -> None:
    """A copy forms its teams anew: its first step is evaluated one by one, to the same bits, gradients included."""
    torch.manual_seed(0)
    n, m = sizes
    model = nn.Sequential(nn.Linear(n, m), nn.Tanh(), nn.Linear(m, n), nn.Tanh(), nn.Linear(n, m))
    model, optimizer = trained(model)
    for _ in range(3):
        step(model, optimizer, torch.randn(4, n))
    again = copy.deepcopy(model)
    resumed = torch.optim.SGD(again.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        x = torch.randn(4, n)
        step(model, optimizer, x)
        step(again, resumed, x)
        for (name, one), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(one, other), name


def test_a_team_whose_memory_format_changes_goes_on() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)).double()
    model, optimizer = trained(model)
    twin = computed.caching(copy.deepcopy(model), False)
    others = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for turn in range(5):
        if turn == 2:
            model.to(memory_format=torch.channels_last)
        x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
        step(model, optimizer, x)
        step(twin, others, x)
        for name, one in model.named_parameters():
            torch.testing.assert_close(one, dict(twin.named_parameters())[name])
