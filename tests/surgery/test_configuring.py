"""Settings moved while values are held: the value follows, raws stay, and an error changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import surgery
from computed.constraints.quantised import FakeQuant
from computed.parameter import ComputedParameter
from surgery.errors import SurgeryError
from tests.surgery.catalogue import CONVOLUTIONAL, SPEC_OF


def linear(spec: str) -> nn.Linear:
    return surgery.apply_constraints(nn.Linear(6, 6), {"weight": spec})


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: each.detach().numpy().tobytes() for name, each in model.state_dict().items()}


def largest(model: nn.Linear) -> float:
    return float(torch.linalg.svdvals(model.weight.detach().double())[0])


@pytest.mark.parametrize("name", [name for name in SPEC_OF if name not in CONVOLUTIONAL])
def test_settings_that_stay_change_nothing(name):
    model = linear(SPEC_OF[name]).eval()
    before, value = bits(model), model.weight.detach().clone()
    settings = dict(model.weight.constraints[0].settings())
    if settings:
        surgery.configure(model, "weight", **settings)
    assert bits(model) == before
    assert torch.equal(model.weight.detach(), value)


def test_a_bound_is_moved_between_two_reads():
    model = linear("spectral(bound=0.5)").eval()
    assert largest(model) == pytest.approx(0.5, rel=1e-3)
    for bound in (0.3, 0.1, 0.4):
        assert surgery.configure(model, "weight", bound=bound) is model
        assert largest(model) == pytest.approx(bound, rel=1e-3)
        assert surgery.check(model).ok
    assert model.weight.spec == "spectral(bound=0.4)"


def test_a_sparsity_goes_up_and_down_and_hidden_entries_come_back():
    model = linear("mask(0.25)")
    weight = model.weight.raws["raw"].detach().clone()
    for sparsity in (0.5, 0.9, 0.1):
        surgery.configure(model, "weight", sparsity=sparsity)
        assert int((model.weight == 0).sum()) == round(sparsity * 36)
        assert torch.equal(model.weight.raws["raw"].detach(), weight)
    kept = model.weight.detach() != 0
    assert torch.equal(model.weight.detach()[kept], weight[kept])


def test_what_was_trained_decides_the_next_mask():
    model = linear("mask(0.5)")
    with torch.no_grad():
        model.weight.raws["raw"].copy_(torch.arange(36.0).view(6, 6))
    surgery.configure(model, "weight", sparsity=0.75)
    assert int((model.weight == 0).sum()) == 27
    assert model.weight.detach().flatten()[27:].tolist() == list(range(27, 36))


@pytest.mark.parametrize("bits_of_grid", [2, 3, 8])
def test_the_bits_of_a_grid_are_moved(bits_of_grid):
    model = linear("fake_quant(4)").eval()
    raw = model.weight.raws["raw"].detach().clone()
    surgery.configure(model, "*", bits=bits_of_grid)
    expected = ComputedParameter.from_value(raw, FakeQuant(bits_of_grid)).detach()
    assert torch.equal(model.weight.detach(), expected)
    assert surgery.check(model).ok


def test_of_a_chain_the_constraint_that_has_the_setting_is_moved():
    model = linear("symmetric | spectral(bound=0.5) | mask(0.2)").eval()
    surgery.configure(model, "weight", bound=0.25, sparsity=0.5)
    assert model.weight.spec == "symmetric | spectral(bound=0.25) | mask(sparsity=0.5)"
    assert int((model.weight == 0).sum()) >= 18


def test_training_goes_on_with_the_optimizer_that_there_is():
    model = linear("bounded(0.4)")
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for limit in (0.4, 0.2, 0.1):
        surgery.configure(model, "weight", limit=limit)
        model(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
        assert float(model.weight.detach().abs().max()) <= limit


def test_compiled_code_sees_the_setting():
    model = linear("bounded(0.4, map='clamp')").eval()
    compiled, x = torch.compile(model, backend="eager"), torch.randn(3, 6)
    compiled(x)
    surgery.configure(model, "weight", limit=0.01)
    torch.testing.assert_close(compiled(x), nn.functional.linear(x, model.weight.detach(), model.bias))
    torch.compiler.reset()


def test_undo_gives_the_weight_back_after_a_move():
    model = nn.Linear(6, 6)
    before = bits(model)
    surgery.apply_constraints(model, {"weight": "mask(0.5)"})
    surgery.configure(model, "weight", sparsity=0.9)
    surgery.undo(model)
    assert bits(model) == before


def test_copies_go_their_own_way():
    model = linear("max_norm(0.3)")
    other = copy.deepcopy(model)
    surgery.configure(other, "weight", bound=0.1)
    assert (model.weight.spec, other.weight.spec) == ("max_norm(bound=0.3)", "max_norm(bound=0.1)")


@pytest.mark.parametrize(
    ("pattern", "settings", "told"),
    [
        ("0.weight", {"bnd": 1.0}, r"0\.weight: spectral\(bound=0\.5\) has no setting 'bnd', did you mean 'bound'\?"),
        ("0.weight", {"bound": -1.0}, r"0\.weight: spectral needs a positive finite bound, got -1\.0"),
        ("0.weight", {"norm": 1.0}, r"0\.weight: spectral takes norm or bound, got norm=1\.0 and bound=0\.5"),
        ("1.weight", {"rank": 3}, r"1\.weight: setting 'rank' would change the shapes of raws; undo, and apply"),
        ("1.weight", {"dim": 7}, r"1\.weight: .*dim=7"),
        ("*", {"sparsity": 0.5}, "0.weight: .* has no setting 'sparsity'.*; 1.weight: .* has no setting 'sparsity'"),
        (None, {"sparsity": 0.5}, "no computed parameter has setting 'sparsity'"),
        ("2.weight", {"bound": 1.0}, "2.weight"),
    ],
)
def test_an_error_changes_nothing(pattern, settings, told):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    surgery.apply_constraints(model, {"0.weight": "spectral(bound=0.5)", "1.weight": "lora(2)"})
    before = bits(model), [one.spec for one in surgery.computed_parameters(model).values()]
    with pytest.raises(SurgeryError, match=told):
        surgery.configure(model, pattern, **settings)
    assert (bits(model), [one.spec for one in surgery.computed_parameters(model).values()]) == before


def test_all_that_have_a_setting_are_moved():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    surgery.apply_constraints(model, {"[01].weight": "spectral(bound=0.5)", "2.weight": "orthogonal"})
    surgery.configure(model, None, bound=0.25)
    specs = [one.spec for one in surgery.computed_parameters(model).values()]
    assert specs == ["spectral(bound=0.25)", "spectral(bound=0.25)", "orthogonal"]
