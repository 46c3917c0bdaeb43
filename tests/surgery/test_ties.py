"""Ties: one computed parameter in all places, or an error, or one for each place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery
from tests.surgery.models import TiedLM
from tests.surgery.picture import differences, picture


def test_a_tie_is_one_computed_parameter_in_all_places():
    model, tokens = TiedLM(), torch.randint(7, (2, 5))
    parameter = model.embedding.weight
    surgery.apply_constraints(model, {"head.weight": "orthogonal"})
    assert model.head.weight is model.embedding.weight
    assert model.head.weight.raws["raw"] is parameter
    assert list(surgery.computed_parameters(model)) == ["embedding.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(tokens).square().sum().backward()
        optimizer.step()
    weight = model.embedding.weight.detach().double()
    torch.testing.assert_close(weight.T @ weight, torch.eye(4, dtype=torch.float64), atol=1e-5, rtol=0)
    assert model.head.weight is model.embedding.weight
    assert len(list(model.parameters())) == 3


def test_the_last_rule_that_matches_any_name_of_a_tie_decides():
    model = TiedLM()
    surgery.apply_constraints(model, {"embedding.weight": "spectral", "head.weight": "orthogonal"}, strict=False)
    assert model.embedding.weight.spec == "orthogonal"


def test_a_tie_can_be_refused():
    model = TiedLM()
    before = picture(model)
    message = (
        r"embedding\.weight \(Embedding\), rule 'head.weight': 'orthogonal': is tied to head\.weight; pass tie='share'"
    )
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {"head.weight": "orthogonal"}, tie="error")
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {"mix.weight": "symmetric"}, tie="error")


@pytest.mark.parametrize("name", ["head.weight", "embedding.weight"])
@pytest.mark.parametrize("spec", ["orthogonal", "lora(2)", "weight_norm"])
def test_a_split_tie_leaves_the_other_part_as_it_was(name: str, spec: str):
    model = TiedLM()
    parameter, bits = model.head.weight, model.head.weight.detach().clone()
    other = model.head if name == "embedding.weight" else model.embedding
    plan = surgery.plan(model, {name: spec}, tie="split")
    before = picture(model)
    plan.apply()
    assert other.weight is parameter
    assert parameter.requires_grad
    assert torch.equal(parameter, bits)
    raws = value_raws(model, name)
    assert not any(raw is parameter for raw in raws)
    assert plan.total_after == sum(tensor.numel() for tensor in model.parameters())
    assert plan.trainable_after == sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    with torch.no_grad():
        raws[-1].add_(1.0)
    assert torch.equal(parameter, bits)
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def value_raws(model: nn.Module, name: str) -> list[nn.Parameter]:
    return list(surgery.computed_parameters(model)[name].raws.values())


@pytest.mark.parametrize("spec", ["orthogonal", "lora(2)"])
def test_a_tie_that_is_split_on_both_sides_has_two_raws(spec: str):
    model = TiedLM()
    model.embedding.weight.grad = torch.ones(7, 4)
    parameter, before = model.head.weight, picture(model)
    plan = surgery.plan(model, {"{head,embedding}.weight": spec}, tie="split")
    plan.apply()
    first, second = value_raws(model, "embedding.weight")[0], value_raws(model, "head.weight")[0]
    assert first is parameter
    assert second is not first
    assert torch.equal(first, second)
    assert plan.total_after == sum(tensor.numel() for tensor in model.parameters())
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def test_a_split_tie_trains_where_the_other_part_is_frozen():
    model = TiedLM()
    surgery.apply_constraints(model, {"*": "frozen", "head.weight": "spectral"}, tie="split")
    assert not model.embedding.weight.requires_grad
    assert model.head.weight.requires_grad


def test_one_half_of_a_tie_cannot_be_frozen():
    model = TiedLM()
    before = picture(model)
    with pytest.raises(
        surgery.PlanError, match=r"head\.weight, rule 'head\.\*': is tied to embedding\.weight, which would be"
    ):
        surgery.apply_constraints(model, {"head.*": "frozen"}, tie="split")
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {"head.*": "frozen"})
    assert not model.embedding.weight.requires_grad


def test_a_shared_module_is_one_place_with_two_names():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    surgery.apply_constraints(model, {"2.weight": "spectral"}, tie="error")
    assert list(surgery.computed_parameters(model)) == ["0.weight"]
    assert model[0].weight is model[2].weight
    assert surgery.plan(model, {"*.weight": "spectral"}).sites[0].site.names == ("0.weight", "2.weight")
