"""With ``unsafe=True`` a map may change the shape of a weight: equal to torch's own, through its whole life."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import surgery


class Rows(nn.Module):
    """Of four rows three; the right inverse starts from four, and adds the last one once more to three."""

    def forward(self, raw):
        return raw[:-1]

    def right_inverse(self, value):
        return value if len(value) == 4 else torch.cat([value, value[-1:]])


class Flat(nn.Module):
    """Another number of dimensions, and no way back."""

    def forward(self, raw):
        return raw.flatten()


class Weighted(nn.Module):
    """A host that can do with any matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).reshape(4, 3))

    def forward(self, x):
        return x @ self.weight.reshape(-1, 3).T


@pytest.fixture
def pair():
    ours, theirs = Weighted(), Weighted()
    surgery.apply_constraints(ours, {"weight": Rows()}, unsafe=True)
    parametrize.register_parametrization(theirs, "weight", Rows(), unsafe=True)
    return ours, theirs


def test_without_it_the_shape_is_refused_and_the_way_is_named():
    with pytest.raises(surgery.PlanError, match=r"\(4, 3\) to \(12,\); where its host can do with that, pass unsafe"):
        surgery.apply_constraints(Weighted(), {"weight": Flat()})


def test_values_and_gradients_are_those_of_torch(pair):
    ours, theirs = pair
    for model in pair:
        model(torch.ones(2, 3)).square().sum().backward()
    assert ours.weight.shape == theirs.weight.shape
    assert torch.equal(ours.weight.detach(), theirs.weight.detach())
    assert torch.equal(ours.weight.raws["raw"].grad, theirs.parametrizations.weight.original.grad)


def test_a_write_takes_the_value_s_shape(pair):
    ours, theirs = pair
    value = torch.randn(ours.weight.shape)
    theirs.weight = value
    with torch.no_grad():
        ours.weight.copy_(value)
    assert torch.equal(ours.weight.detach(), theirs.weight.detach())
    with pytest.raises(RuntimeError):
        ours.weight.data.copy_(torch.zeros(9, 9))


def test_a_write_that_nothing_inverts_is_refused_and_changes_nothing():
    model = Weighted()
    surgery.apply_constraints(model, {"weight": Flat()}, unsafe=True)
    before = model.weight.detach().clone()
    model.weight.data.zero_()
    with pytest.raises(ValueError, match=r"weight.*cannot be written: its modules change the shape and have no right"):
        model.weight.sum()
    assert torch.equal(model.weight.detach(), before)


def test_plain_checkpoints_of_either_shape_load(pair):
    ours, _ = pair
    plain = {"weight": torch.randn(4, 3)}
    ours.load_state_dict(plain, strict=True)
    value = torch.randn(ours.weight.shape)
    ours.load_state_dict({"weight": value}, strict=True)
    assert torch.equal(ours.weight.detach(), value)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        ours.load_state_dict({"weight": torch.ones(4, 4)}, strict=True)
    flat = surgery.apply_constraints(Weighted(), {"weight": Flat()}, unsafe=True)
    flat.load_state_dict(plain, strict=True)
    assert torch.equal(flat.weight.detach(), plain["weight"].flatten())
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        flat.load_state_dict({"weight": plain["weight"].flatten()}, strict=True)


def test_undo_bake_copies_and_casts(pair):
    ours, _ = pair
    value = ours.weight.detach().clone()
    assert torch.equal(copy.deepcopy(ours).weight.detach(), value)
    assert torch.equal(copy.deepcopy(ours).double().weight.detach(), value.double())
    baked = surgery.bake(copy.deepcopy(ours))
    assert type(baked.weight) is nn.Parameter
    assert torch.equal(baked.weight.detach(), value)
    with pytest.raises(surgery.SurgeryError, match="weight: its value has another shape"):
        surgery.state_dict(ours, format="plain")
    assert surgery.undo(ours).weight.shape == (4, 3)


def test_a_plan_shows_both_shapes_and_no_distance():
    made = surgery.plan(Weighted(), {"weight": Flat()}, unsafe=True)
    assert made.sites[0].measures.moved is None
    assert "4x3 -> 12" in str(made)


def test_what_was_adopted_is_written_and_loaded_likewise():
    theirs = Weighted()
    parametrize.register_parametrization(theirs, "weight", Rows(), unsafe=True)
    surgery.adopt(theirs)
    value = torch.randn(theirs.weight.shape)
    with torch.no_grad():
        theirs.weight.copy_(value)
    assert torch.equal(theirs.weight.detach(), value)
    theirs.load_state_dict({"weight": value + 1}, strict=True)
    assert torch.equal(theirs.weight.detach(), value + 1)
