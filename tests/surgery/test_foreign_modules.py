"""Modules that are no constraints of ours as rules: chains of them, what they may return, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.testing._internal.two_tensor import TwoTensor

import computed
import surgery


class Plus(nn.Module):
    def forward(self, raw):
        return raw + 1.0


class Times(nn.Module):
    def forward(self, raw):
        return 2.0 * raw


class Keeps(nn.Module):
    """It keeps what it inverts, as a base."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("base", torch.eye(3))

    def forward(self, raw):
        return self.base + raw

    def right_inverse(self, value):
        self.base = value
        return torch.zeros_like(value)


def returning(result):
    class Returning(nn.Module):
        def forward(self, raw):
            return result(raw)

    return Returning()


def inverting(result):
    class Inverting(nn.Module):
        def forward(self, *raws):
            return raws[0]

        def right_inverse(self, value):
            return result(value)

    return Inverting()


def layer():
    torch.manual_seed(0)
    return nn.Linear(3, 3)


def test_a_map_behind_one_without_a_right_inverse_leaves_the_raw():
    ours, theirs = layer(), layer()
    for made in (Plus, Times):
        surgery.constrain(ours, weight=made())
        parametrize.register_parametrization(theirs, "weight", made())
    assert torch.equal(ours.weight.detach(), theirs.weight.detach())
    assert torch.equal(ours.weight.raws["raw"], theirs.parametrizations.weight.original)


def test_a_constraint_behind_one_that_admits_it_leaves_raws_and_state_bit_for_bit():
    model = surgery.constrain(layer(), weight="spectral(bound=0.5) | orthogonal")
    first = layer()
    surgery.constrain(first, weight="weight_norm")
    raws = {name: raw.clone() for name, raw in first.weight.raws.items()}
    value = first.weight.detach().clone()
    surgery.apply_constraints(first, {"weight": "spectral(bound=100.0)"}, existing="chain")
    assert all(torch.equal(raw, raws[name]) for name, raw in first.weight.raws.items() if name in raws)
    assert torch.allclose(first.weight, value)
    assert model.weight.spec.startswith("spectral")


def test_a_list_is_a_chain():
    ours = layer()
    weight = ours.weight.detach().clone()
    surgery.apply_constraints(ours, {"weight": [Plus(), Plus, Times()], "bias": ["positive", "interval(0.1, 2.0)"]})
    assert torch.equal(ours.weight.detach(), 2 * (weight + 2))
    assert ours.bias.spec == "positive | interval(low=0.1, high=2.0)"
    twin = surgery.apply_constraints(layer(), {"bias": "positive | interval(0.1, 2.0)"})
    assert torch.equal(ours.bias.detach(), twin.bias.detach())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([], r"\[\]: an empty list is no chain"),
        (["none"], "'none' is a rule of its own and no part of a chain"),
        (["spectral", None], "None is a rule of its own and no part of a chain"),
        (["spectral(", "lora(2)"], "'\\(' was never closed"),
        ([3], "a value of type int is no spec"),
        (surgery.constrain(nn.Linear(2, 2), weight=Plus()).weight, "a computed parameter is no spec; give its own"),
        (returning(lambda raw: 2), "Returning.forward returned int; it must return a tensor"),
        (returning(lambda raw: (raw, raw)), "Returning.forward returned tuple; it must return a tensor"),
        (returning(lambda raw: raw > 0), "Returning gives bool, through which no gradient comes"),
        (
            inverting(lambda value: value.to("meta")),
            "right_inverse gave float32 on meta; raws are float tensors on cpu",
        ),
        (inverting(lambda value: value > 0), "right_inverse gave bool on cpu"),
        (inverting(lambda value: (value, None)), "right_inverse returned NoneType at position 1"),
        (inverting(lambda value: 3), "right_inverse returned int; it must return a tensor or a sequence"),
    ],
)
def test_what_cannot_be_is_refused_by_name(spec, words):
    model = layer()
    before = model.weight
    with pytest.raises(surgery.PlanError, match=f"(?s)weight.*{words}"):
        surgery.apply_constraints(model, {"weight": spec})
    assert model.weight is before


def test_a_right_inverse_that_keeps_its_argument_keeps_a_copy():
    model = layer()
    before = model.weight.detach().clone()
    surgery.constrain(model, weight=Keeps())
    assert torch.equal(model.weight.detach(), before)
    source = nn.Linear(3, 3)
    model.load_state_dict(source.state_dict())
    loaded = source.weight.detach().clone()
    with torch.no_grad():
        source.weight.zero_()
    assert torch.equal(model.weight.detach(), loaded)


@pytest.mark.parametrize("map_", ["cayley", "matrix_exp"])
def test_a_right_inverse_that_is_not_implemented_is_none(map_):
    theirs = parametrizations.orthogonal(layer(), orthogonal_map=map_, use_trivialization=False)
    ours = surgery.constrain(layer(), weight=theirs.parametrizations.weight[0])
    assert torch.equal(ours.weight.detach(), theirs.weight.detach())


def test_wrapper_tensors_share_no_storage():
    model = layer()
    model._apply(lambda tensor: TwoTensor(tensor, tensor))
    surgery.constrain(model, weight=nn.Identity())
    assert torch.equal(model.weight.value().a, layer().weight.detach())


class Source(nn.Module):
    """A module without inputs: the essay's form."""

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.ones(3, 3))

    def forward(self) -> torch.Tensor:
        return 2 * self.root


@pytest.mark.parametrize("spec", [Source(), Source, lambda site: Source()], ids=["module", "class", "factory"])
def test_a_module_without_inputs_has_no_raw_for_what_stands_there(spec):
    model = layer()
    with pytest.raises(
        surgery.PlanError, match=r"Source\.forward takes no input.*del host\.weight; host\.weight = comp"
    ):
        surgery.constrain(model, weight=spec)
    del model.weight
    model.weight = computed.ComputedParameter(Source())
    assert model.weight.tolist() == [[2.0] * 3] * 3
