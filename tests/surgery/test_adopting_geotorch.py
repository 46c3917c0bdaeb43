"""GeoTorch's constraints are adopted as the parametrizations that they are; `make peers` runs this."""

import copy
import pickle

import pytest
import torch
from torch import nn

import surgery

geotorch = pytest.importorskip("geotorch", reason="geotorch is installed by `make peers` alone")

CONSTRAINTS = {
    "orthogonal": {},
    "low_rank": {"rank": 3},
    "fixed_rank": {"rank": 3},
    "sphere": {},
    "positive_definite": {},
    "symmetric": {},
    "skew": {},
    "grassmannian": {},
    "almost_orthogonal": {"lam": 0.1},
    "invertible": {},
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_it_is_taken_over_bit_for_bit_and_given_back(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    for layer in model:
        getattr(geotorch, name)(layer, "weight", **CONSTRAINTS[name])
    inputs, keys = torch.randn(3, 6), list(model.state_dict())
    twin = copy.deepcopy(model)
    want = model.eval()(inputs)
    surgery.adopt(model)
    assert torch.equal(model(inputs), want)
    assert torch.equal(pickle.loads(pickle.dumps(model))(inputs), want)
    for each in (model, twin):
        optimizer = torch.optim.SGD(each.train().parameters(), lr=0.1)
        each(inputs).square().sum().backward()
        optimizer.step()
    trained = model.eval()(inputs)
    assert torch.equal(trained, twin.eval()(inputs))
    assert torch.equal(surgery.bake(copy.deepcopy(model))(inputs), trained)
    surgery.undo(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(inputs), want)
