"""Certified bounds hold, measured by NumPy: the singular values of a weight, and of a whole convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import surgery
from computed.symbol_bound import operator_norm_bound
from computed.symbol_peak import operator_norm
from surgery.errors import SurgeryError


def largest(weight: torch.Tensor) -> float:
    return float(np.linalg.norm(weight.detach().double().flatten(1).numpy(), 2))


def whole_matrix(layer: nn.Module, size: int) -> np.ndarray:
    """A convolution without bias, on images of one size, as a matrix."""
    channels = layer.in_channels
    dims = layer.weight.dim() - 2
    unit = torch.eye(channels * size**dims, dtype=torch.float64).reshape(-1, channels, *[size] * dims)
    with torch.no_grad():
        return layer.double()(unit).flatten(1).T.numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(6, 6), (200, 150), (20, 300)])
def test_a_spectral_bound_holds(shape, dtype, size: str, evidence: Callable[[str, str], None]):
    worst = 0.0
    for _ in range(3 if size == "small" else 30):
        layer = nn.Linear(shape[1], shape[0], dtype=dtype)
        surgery.apply_constraints(layer, {"weight": "spectral(bound=0.5)"})
        assert surgery.certify(layer) is layer
        worst = max(worst, largest(layer.eval().weight) / 0.5)
        assert largest(surgery.bake(layer).weight) / 0.5 <= worst
    # NumPy rounds too
    assert worst <= 1 + 1e-12
    evidence(f"certify: largest singular value over its bound, {dtype} {shape}", f"{worst:.12f}")


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False),
    "stride": lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
    "even taps": lambda: nn.Conv2d(2, 3, 4, padding=2, bias=False),
    "groups": lambda: nn.Conv2d(4, 4, 3, groups=2, padding=1, bias=False),
    "dilation": lambda: nn.Conv2d(3, 3, 3, dilation=2, padding=2, bias=False),
    "one dimension": lambda: nn.Conv1d(3, 4, 5, padding=2, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3, bias=False),
    "smooth": lambda: smooth(nn.Conv2d(3, 3, 5, padding=2, bias=False)),
}


def smooth(layer: nn.Conv2d) -> nn.Conv2d:
    with torch.no_grad():
        layer.weight.abs_()
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_a_bound_of_an_operator_holds_for_the_whole_layer(name):
    layer = surgery.apply_constraints(LAYERS[name](), {"weight": "operator_norm(bound=0.25)"})
    surgery.certify(layer)
    baked = surgery.bake(layer)
    for size in (4, 9):
        norm = np.linalg.norm(whole_matrix(copy.deepcopy(baked), size), 2)
        assert norm <= 0.25


@pytest.mark.parametrize("name", LAYERS)
def test_what_bounds_an_operator_is_no_less_than_its_norm_and_not_much_more(name, size: str):
    for _ in range(3 if size == "small" else 50):
        layer = surgery.apply_constraints(LAYERS[name]().double(), {"weight": "operator_norm(bound=100.0)"})
        constraint, weight = layer.weight.constraints[0], layer.weight.detach()
        norm, bound = constraint.measured(weight), constraint.certain(weight)
        assert norm <= bound <= 1.03 * norm


def test_a_peak_between_the_points_of_the_grid_is_covered():
    """A filter that lets one frequency pass, which is not on the grid."""
    for shift in torch.linspace(0, 1, 11):
        angle = 2 * torch.pi * (10 + shift) / 64
        taps = torch.cos(angle * torch.arange(-4, 5, dtype=torch.float64))
        weight = taps.reshape(1, 1, 9)
        assert operator_norm(weight, 1, [1]) <= operator_norm_bound(weight, 1, [1])


def test_training_state_and_others_stay():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    rules = {"0.weight": "spectral(bound=50.0)", "1.weight": "spectral", "2.weight": "orthogonal"}
    surgery.apply_constraints(model, rules)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    surgery.certify(model)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_a_bound_behind_a_chain_holds():
    layer = surgery.apply_constraints(nn.Linear(150, 150), {"weight": "symmetric | spectral(bound=0.5)"})
    surgery.certify(layer)
    weight = layer.eval().weight.detach()
    assert largest(weight) <= 0.5 * (1 + 1e-12)
    assert torch.equal(weight, weight.T)


def test_a_certified_model_goes_on_training():
    layer = surgery.apply_constraints(nn.Linear(20, 20), {"weight": "spectral(bound=0.5)"})
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(3):
        surgery.certify(layer)
        layer.train()(torch.randn(5, 20)).square().sum().backward()
        optimizer.step()
    assert surgery.check(layer.eval()).ok


def test_a_value_that_is_no_number_is_refused():
    layer = surgery.apply_constraints(nn.Linear(4, 4), {"weight": "spectral(bound=0.5)"})
    with torch.no_grad():
        layer.weight.raws["raw"][0, 0] = torch.nan
    with pytest.raises(SurgeryError, match="weight: its value is not finite"):
        surgery.certify(layer)
    with pytest.raises(SurgeryError, match="computed parameter"):
        surgery.certify(layer, "other")
