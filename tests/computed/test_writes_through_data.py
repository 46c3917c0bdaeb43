"""``w.data`` takes writes in any grad mode and at any time, as that of a Parameter does."""

import copy

import pytest
import torch
from torch import nn

import computed
import surgery

SPECS = ["spectral", "orthogonal", "positive", "weight_norm", "symmetric", "lora(2)"]


@pytest.fixture(params=SPECS)
def spec(request):
    return request.param


@pytest.fixture(params=["fresh", "read", "read without gradients", "trained", "eval", "caching off"])
def model(request, spec):
    torch.manual_seed(0)
    made = surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec})
    if request.param == "caching off":
        computed.caching(made, False)
    if request.param == "eval":
        made.eval()
    if request.param == "read without gradients":
        with torch.no_grad():
            made(torch.ones(2, 4))
    elif request.param != "fresh":
        made(torch.ones(2, 4)).sum().backward()
    if request.param == "trained":
        torch.optim.SGD(made.parameters(), lr=0.1).step()
    return made


def written(model, value):
    """The same value, written with gradients off, on a twin."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.weight.copy_(value)
    return twin.weight.detach()


@pytest.mark.parametrize("mode", [True, False])
def test_a_whole_write_counts(model, mode):
    value = torch.randn(4, 4)
    expected = written(model, value)
    assert not model.weight.data.requires_grad
    with torch.set_grad_enabled(mode):
        model.weight.data.copy_(value)
    assert torch.equal(model.weight.detach(), expected)


def test_a_write_to_a_part_by_a_view_that_is_gone_counts(model):
    value = model.weight.detach().clone()
    value[1:3] = 0.5
    expected = written(model, value)
    model.weight.data[1:3].fill_(0.5)
    assert torch.equal(model.weight.detach(), expected)


def test_the_initialisers_of_dcgan_run_with_gradients_on(model):
    torch.manual_seed(1)
    value = torch.empty(4, 4).normal_(0.0, 0.02)
    expected = written(model, value)
    torch.manual_seed(1)
    model.weight.data.normal_(0.0, 0.02)
    assert torch.equal(model.weight.detach(), expected)


def test_what_is_kept_of_it_still_writes_after_other_reads(model):
    kept = model.weight.data
    model(torch.ones(2, 4))
    value = torch.randn(4, 4)
    expected = written(model, value)
    kept.copy_(value)
    assert torch.allclose(model.weight.detach(), expected)
