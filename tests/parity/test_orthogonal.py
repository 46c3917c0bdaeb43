"""Orthogonal weights: the constraint of our own against NumPy, and the maps of torch's as rules against torch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import surgery
from tests.parity.maps import stepper
from tests.surgery.picture import differences, picture

SHAPES = [(4, 4), (5, 3), (3, 5)]
# torch's other maps have no right inverse without use_trivialization
MAPS = [("matrix_exp", True), ("cayley", True), ("householder", True), ("householder", False)]


def polar(value: Tensor) -> np.ndarray:
    """The nearest matrix with orthonormal columns, or rows; torch takes the Q of a QR decomposition instead."""
    u, _, vh = np.linalg.svd(value.detach().double().numpy(), full_matrices=False)
    return u @ vh


def error(value: Tensor) -> float:
    q = value.detach().double().numpy()
    q = q if len(q) >= len(q.T) else q.T
    return float(np.abs(q.T @ q - np.eye(len(q.T))).max())


def write(layer: nn.Module, value: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(value)


def random_orthonormal(layer: nn.Linear) -> Tensor:
    return nn.init.orthogonal_(torch.empty(layer.weight.shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal(shape: tuple[int, int]):
    layer = nn.Linear(*shape)
    expected = polar(layer.weight)
    surgery.constrain(layer, weight="orthogonal")
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, atol=1e-6)
    value = random_orthonormal(layer)
    write(layer, value)
    assert torch.equal(layer.weight, value)
    value = torch.randn(layer.weight.shape)
    write(layer, value)
    np.testing.assert_allclose(layer.weight.detach().numpy(), polar(value), atol=1e-6)
    step = stepper(layer)
    for _ in range(2):
        before = layer.weight.detach().clone()
        step(torch.randn(3, shape[0]))
        assert not torch.equal(layer.weight, before)
        assert error(layer.weight) < 3e-6


@pytest.mark.parametrize(("orthogonal_map", "trivialization"), MAPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_by_the_maps_of_torch(shape: tuple[int, int], orthogonal_map: str, trivialization: bool):
    """Registered, written and trained in step."""
    ours, theirs = nn.Linear(*shape), nn.Linear(*shape)
    theirs.load_state_dict(ours.state_dict())
    settings = {"orthogonal_map": orthogonal_map, "use_trivialization": trivialization}
    donor = parametrizations.orthogonal(copy.deepcopy(ours), **settings)
    surgery.constrain(ours, weight=donor.parametrizations.weight[0])
    parametrizations.orthogonal(theirs, **settings)

    def assert_same() -> None:
        torch.testing.assert_close(ours.weight.detach(), theirs.weight.detach(), rtol=1e-4, atol=2e-5)
        assert error(ours.weight) < 1e-5

    assert_same()
    for value in (random_orthonormal(ours), torch.randn(ours.weight.shape)):
        write(ours, value)
        theirs.weight = value
        assert_same()
    steps = stepper(ours), stepper(theirs)
    for _ in range(2):
        batch = torch.randn(3, shape[0])
        for step in steps:
            step(batch)
        assert_same()


def test_orthogonal_errors():
    layer = nn.Linear(3, 4)
    before = picture(layer)
    with pytest.raises(surgery.PlanError, match=r"orthogonal has no argument 'orthogonal_map', did you mean 'map'"):
        surgery.constrain(layer, weight="orthogonal(orthogonal_map='foo')")
    with pytest.raises(surgery.PlanError, match=r"orthogonal needs 2 or more dimensions, got shape \(4,\)"):
        surgery.constrain(layer, bias="orthogonal")
    assert differences(before, picture(layer)) == []
    surgery.constrain(layer, weight="orthogonal")
    value = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match="must match the size"):
        write(layer, torch.randn(5, 5))
    with pytest.raises(ValueError, match=r"cannot set data of shape \(5, 5\)"):
        layer.weight.data = torch.randn(5, 5)
    assert torch.equal(layer.weight, value)


@pytest.mark.parametrize("spec", ["orthogonal", "spectral"])
def test_orthogonal_and_spectral_refuse_complex_weights(spec: str):
    """torch takes them, but for one of its maps."""
    layer = nn.Linear(3, 3, dtype=torch.complex64)
    with pytest.raises(surgery.PlanError, match=r"weight \(Linear\).*has dtype complex64; only float tensors"):
        surgery.constrain(layer, weight=spec)
