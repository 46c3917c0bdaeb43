"""Grids with one more level below zero: what integers of two's complement hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.constraints.quantised import FakeQuant
from computed.parameter import ComputedParameter
from surgery.graph.passes.integer_weights import with_integer_weights


def weight_on(spec: str, value: Tensor) -> ComputedParameter:
    return ComputedParameter.from_value(value, spec)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_scale_is_the_least_that_holds_either_sign(bits: int):
    value = torch.randn(12, 40)
    weight = weight_on(f"fake_quant({bits}, narrow=False)", value)
    exact, low, high = value.double().numpy(), 2 ** (bits - 1), 2 ** (bits - 1) - 1
    expected = np.maximum(exact.max(1) / high, -exact.min(1) / low)
    assert weight.raws["scale"].flatten().tolist() == pytest.approx(expected, rel=1e-4)
    steps = (weight.detach().double() / weight.raws["scale"].double()).round()
    assert steps.min() >= -low
    assert steps.max() <= high
    assert (steps.amin(1) == -low).any()
    assert ((steps.amin(1) == -low) | (steps.amax(1) == high)).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", ["absmax", "mse"])
def test_the_value_is_that_of_torch_s_own_fake_quantisation(bits: int, scale: str):
    value = torch.randn(12, 40)
    weight = weight_on(f"fake_quant({bits}, scale='{scale}', narrow=False)", value)
    found = weight.raws["scale"].flatten()
    zeros, ends = torch.zeros(12, dtype=torch.int32), (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    expected = torch.fake_quantize_per_channel_affine(value, found, zeros, 0, *ends)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-7)


def test_raws_beyond_an_end_stay_there_without_a_gradient():
    weight = weight_on("fake_quant(3, dim=None, narrow=False)", torch.tensor([[-4.0, 3.0, 1.0]]))
    with torch.no_grad():
        weight.raws["raw"].copy_(torch.tensor([[-5.0, 3.4, 1.2]]))
    assert weight.tolist() == [[-4.0, 3.0, 1.0]]
    (gradient,) = torch.autograd.grad(weight.sum(), [weight.raws["raw"]])
    assert gradient.tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", ["", ", group=8", ", dim=None", ", dim=1"])
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8, 11])
def test_a_weight_that_was_put_on_a_grid_is_kept_bit_for_bit(
    bits: int, narrow: bool, settings: str, dtype: torch.dtype
):
    spec = f"fake_quant({bits}{settings}, narrow={narrow})"
    once = weight_on(spec, torch.randn(6, 16, dtype=dtype)).detach()
    again = weight_on(spec, once)
    assert torch.equal(again.detach(), once)
    assert torch.equal(weight_on(spec, again.detach()).raws["scale"], again.raws["scale"])


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("bits", [12, 13, 14, 15, 16])
def test_finer_grids_are_kept_to_rounding(bits: int, narrow: bool):
    """A scale with few digits would move the end of the grid to the next level, and the weight with it."""
    spec = f"fake_quant({bits}, narrow={narrow})"
    once = weight_on(spec, torch.randn(60, 16)).detach()
    torch.testing.assert_close(weight_on(spec, once).detach(), once, rtol=3e-7, atol=1e-9)
    double = weight_on(spec, torch.randn(60, 16, dtype=torch.float64)).detach()
    assert torch.equal(weight_on(spec, double).detach(), double)


@pytest.mark.parametrize("sign", [1, -1])
def test_one_sign_uses_one_end(sign: int):
    value = sign * torch.rand(5, 32) + sign * 0.01
    weight = weight_on("fake_quant(8, narrow=False)", value)
    assert torch.equal(weight.detach().sign(), torch.full((5, 32), float(sign)).where(weight.detach() != 0, 0.0))
    end = 127 if sign > 0 else 128
    torch.testing.assert_close(weight.raws["scale"].flatten(), value.abs().amax(1) / end, rtol=1e-4, atol=0)


def test_a_check_tells_what_lies_beyond_either_end():
    model = surgery.apply_constraints(nn.Linear(16, 4), {"weight": "fake_quant(4, narrow=False)"})
    assert surgery.check(model).ok
    constraint, raws = model.weight.constraints[0], list(model.weight.raws.values())
    for steps, inside in ((-8, True), (7, True), (8, False), (-9, False)):
        value = model.weight.detach().clone()
        value[0, 0] = steps * raws[1][0, 0]
        assert (constraint.violation(value.double(), raws) < 1e-5) is inside


def test_specs_plans_and_settings_say_it():
    model = surgery.apply_constraints(nn.Linear(16, 4), {"weight": "fake_quant(4, narrow=False)"})
    assert model.weight.spec == "fake_quant(bits=4, narrow=False)"
    assert FakeQuant(4).spec() == "fake_quant(bits=4)"
    surgery.configure(model, "weight", narrow=True)
    steps = (model.weight.detach() / model.weight.raws["scale"]).round()
    assert (steps.min(), steps.max()) >= (-7, 0)
    assert model.weight.spec == "fake_quant(bits=4)"
    with pytest.raises(ValueError, match=r"fake_quant: narrow is True or False, got 1"):
        FakeQuant(4, narrow=1)  # type: ignore[arg-type] # wrong on purpose


def test_int8_holds_the_lowest_level():
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-128.0, 127.0, 3.0]]))
    graph = surgery.apply_constraints(model, {"weight": "fake_quant(8, narrow=False)"}, via="fx")
    stored = with_integer_weights(graph).weight
    assert (stored.numbers.tolist(), stored.scale.tolist()) == ([[-128, 127, 3]], [1.0])
    assert torch.equal(stored(), model.weight)
