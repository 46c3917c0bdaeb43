"""Masks whose rule ranks all its sites together: torch's global pruning, kept through the life of a model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import surgery
from computed.constraints.masks import Mask
from rewrite.rewriting import rewrite_source
from surgery.rules.errors import RuleError
from tests.surgery.picture import differences, picture

RULE = {"*.weight": "mask(0.8, scope='rule')"}


def net() -> nn.Sequential:
    """Layers whose weights differ in size, so that a rank over all of them is none of each."""
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5))
    with torch.no_grad():
        model[2].weight.mul_(3.0)
        model[4].weight.mul_(0.2)
    return model


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [layer.weight.detach() + 0.0 for layer in model.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.8, 0.99, 1.0])
def test_it_is_torchs_global_pruning(sparsity):
    model = net()
    twin = copy.deepcopy(model)
    surgery.apply_constraints(model, {"*.weight": f"mask({sparsity}, scope='rule')"})
    prune.global_unstructured(
        [(layer, "weight") for layer in twin if isinstance(layer, nn.Linear)], prune.L1Unstructured, amount=sparsity
    )
    for ours, theirs in zip(weights(model), weights(twin), strict=True):
        assert torch.equal(ours, theirs)
    total = sum(weight.numel() for weight in weights(model))
    assert sum(int((weight == 0).sum()) for weight in weights(model)) == round(sparsity * total)
    assert surgery.check(model).ok


def test_ranks_of_a_site_differ_from_those_of_a_rule():
    model = surgery.apply_constraints(net(), {"*.weight": "mask(0.6, scope='rule')"})
    shares = [parameter.constraints[0].share for parameter in surgery.computed_parameters(model).values()]
    assert len(set(shares)) == 3
    assert shares[1] < 0.6 < shares[2]
    each = surgery.apply_constraints(net(), {"*.weight": "mask(0.6)"})
    assert all(parameter.constraints[0].share is None for parameter in surgery.computed_parameters(each).values())


def test_equal_entries_are_counted_out():
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    for layer in model:
        nn.init.ones_(layer.weight)
    surgery.apply_constraints(model, {"*.weight": "mask(0.5, scope='rule')"})
    assert [int((weight != 0).sum()) for weight in weights(model)] == [25, 0]


def test_slices_are_ranked_by_their_lengths():
    model = net()
    lengths = torch.cat([weight.norm(dim=1) for weight in weights(model)])
    surgery.apply_constraints(model, {"*.weight": "mask(0.5, dim=0, scope='rule')"})
    kept = torch.cat([(weight != 0).any(1) for weight in weights(model)])
    assert int(kept.sum()) == len(lengths) - round(0.5 * len(lengths))
    assert lengths[kept].min() >= lengths[~kept].max()


def test_a_schedule_ranks_anew_what_it_moves():
    model, plain = net(), net()
    plain.load_state_dict(model.state_dict())
    surgery.apply_constraints(model, {"*.weight": "mask(0.2, scope='rule')"})
    for sparsity in (0.5, 0.9, 0.4):
        surgery.configure(model, "*.weight", sparsity=sparsity)
        expected = surgery.apply_constraints(copy.deepcopy(plain), {"*.weight": f"mask({sparsity}, scope='rule')"})
        for ours, theirs in zip(weights(model), weights(expected), strict=True):
            assert torch.equal(ours, theirs)


def test_rules_rank_apart():
    model = surgery.apply_constraints(
        net(), {"0.weight": "mask(0.5, scope='rule')", "{2,4}.weight": "mask(0.5, scope='rule')"}
    )
    first, second, third = weights(model)
    assert int((first == 0).sum()) == 300
    assert int((second == 0).sum()) + int((third == 0).sum()) == 700


def test_a_module_as_spec_ranks_too():
    model = surgery.apply_constraints(net(), {"*.weight": Mask(0.8, scope="rule")})
    for ours, theirs in zip(weights(model), weights(surgery.apply_constraints(net(), RULE)), strict=True):
        assert ours.shape == theirs.shape
    assert sum(int((weight == 0).sum()) for weight in weights(model)) == round(0.8 * 2000)


def test_a_chain_that_ends_in_it_ranks_the_weights():
    model = surgery.apply_constraints(net(), {"*.weight": "affine(2.0) | mask(0.8, scope='rule')"})
    assert sum(int((weight == 0).sum()) for weight in weights(model)) == round(0.8 * 2000)
    surgery.configure(model, "*.weight", sparsity=0.5)
    assert sum(int((weight == 0).sum()) for weight in weights(model)) == 1000


def test_it_lives_as_others_do(tmp_path):
    plain = net()
    model = surgery.apply_constraints(copy.deepcopy(plain), RULE)
    masked = weights(model)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, weights(again), masked))
    surgery.save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = copy.deepcopy(plain)
    surgery.load_checkpoint(loaded, tmp_path / "model.safetensors")
    assert all(map(torch.equal, weights(loaded), masked))
    assert all(row.action.value == "already" for row in surgery.plan(model, RULE).sites)
    model.load_state_dict(plain.state_dict())  # plain weights are masked by the share of their site
    assert all(map(torch.equal, weights(model), masked))
    before = picture(plain)
    surgery.apply_constraints(plain, RULE)
    surgery.undo(plain)
    assert not differences(before, picture(plain))


def test_a_graph_has_the_same_masks():
    model = net().eval()
    graph = surgery.apply_constraints(copy.deepcopy(model), RULE, via="fx")
    x = torch.randn(3, 20)
    assert torch.equal(graph(x), surgery.apply_constraints(model, RULE)(x))


def test_it_is_refused_where_there_are_no_weights_to_rank():
    with pytest.raises(surgery.PlanError, match="scope='rule' ranks the weights of all its sites, which sou"):
        surgery.constrained(RULE)(type("Net", (nn.Sequential,), {}))(nn.Linear(3, 3))
    with pytest.raises(surgery.PlanError, match="this one has none yet"):
        surgery.apply_constraints(nn.Sequential(nn.Linear(3, 3, device="meta")), RULE)
    with pytest.raises(surgery.PlanError, match="it must be the last of a chain"):
        surgery.apply_constraints(net(), {"*.weight": "mask(0.8, scope='rule') | affine(2.0)"})
    with pytest.raises(RuleError, match="needs the weights of all sites of its rule, which only a live model has"):
        rewrite_source("import torch.nn as nn\nlayer = nn.Linear(3, 3)\n", {"*.weight": "mask(0.8, scope='rule')"})


def test_its_arguments_are_checked():
    for wrong, text in (
        (lambda: Mask(0.5, scope="model"), "'site' or 'rule'"),
        (lambda: Mask(0.5, share=0.3), "share"),
    ):
        with pytest.raises(ValueError, match=text):
            wrong()
    assert Mask(0.8, scope="rule", share=0.25).spec() == "mask(sparsity=0.8, scope='rule', share=0.25)"
