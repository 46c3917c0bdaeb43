"""Orthogonal against SciPy's polar factor, and against what breaks other orthogonal maps."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from computed.constraints.orthogonal import Orthogonal
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter
from computed.site import site_of

SHAPES = [(5, 5), (12, 4), (4, 12), (1, 6), (6, 1)]


def error(matrix: Tensor) -> float:
    """The largest entry of QᵀQ - I, by NumPy in float64."""
    q = matrix.detach().double().flatten(1).numpy()
    q = q if q.shape[0] >= q.shape[1] else q.T
    return float(np.abs(q.T @ q - np.eye(q.shape[1])).max())


def orthogonal(value: Tensor) -> ComputedParameter:
    return ComputedParameter.from_value(value, Orthogonal())


@pytest.mark.parametrize("shape", SHAPES)
def test_starts_at_the_nearest_orthonormal_matrix(shape):
    weight = torch.randn(shape)
    expected = scipy.linalg.polar(weight.double().numpy())[0]
    np.testing.assert_allclose(orthogonal(weight).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_orthonormal_weight_is_kept_with_the_sign_of_its_determinant(shape):
    weight = nn.init.orthogonal_(torch.empty(shape))
    if shape[0] == shape[1]:
        weight[0] *= -torch.linalg.det(weight).sign()
    assert torch.equal(orthogonal(weight).detach(), weight)


RAWS = {
    "zeros": torch.zeros,
    "ones": torch.ones,
    "ones, large": lambda *shape: 1e6 * torch.ones(shape),
    "one entry": lambda *shape: torch.zeros(shape).index_fill_(1, torch.tensor(0), 1e4),
    "rank one, huge": lambda *shape: 1e30 * torch.ones(shape),
    "normal": torch.randn,
    "huge": lambda *shape: 1e30 * torch.randn(shape),
    "tiny": lambda *shape: 1e-30 * torch.randn(shape),
}


@pytest.mark.parametrize("shape", [*SHAPES, (100, 100), (300, 40)])
@pytest.mark.parametrize("raws", RAWS)
def test_every_raw_gives_an_orthonormal_value_with_finite_gradients(raws, shape):
    parameter = orthogonal(torch.randn(shape))
    raw = parameter.raws["raw"]
    with torch.no_grad():
        raw.copy_(RAWS[raws](*shape))
    (parameter * torch.randn(shape)).sum().backward()
    assert error(parameter.value()) < 4e-6
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize(("optimizer", "settings"), [
    (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.5}), (torch.optim.SGD, {"lr": 3.0}),
])  # fmt: skip
def test_large_steps_and_weight_decay_leave_it_orthonormal(optimizer, settings):
    parameter = orthogonal(torch.randn(20, 8))
    descent = optimizer(parameter.parameters(), **settings)
    for _ in range(30):
        descent.zero_grad()
        (parameter * torch.randn(20, 8)).sum().backward()
        descent.step()
        assert error(parameter.value()) < 4e-6


@pytest.mark.parametrize("shape", [(6, 6), (10, 4), (4, 10)])
def test_descent_finds_the_nearest_rotation_of_a_target(shape):
    target = torch.randn(shape, dtype=torch.float64)
    start = scipy.linalg.polar(target.numpy())[0]
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(shape[0], shape[0])))[0]
    turned[0] *= np.sign(np.linalg.det(turned))
    parameter = orthogonal(torch.from_numpy(scipy.linalg.fractional_matrix_power(turned, 0.5).real @ start))
    settings = {"max_iter": 300, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(parameter.parameters(), **settings)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = (parameter - target).square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    np.testing.assert_allclose(parameter.detach().numpy(), start, atol=1e-4)


@pytest.mark.parametrize(("host", "matrix"), [
    (nn.Conv2d(3, 8, 3), (8, 27)), (nn.Conv1d(2, 9, 3), (9, 6)), (nn.ConvTranspose2d(3, 8, 3), (8, 27)),
    (nn.Linear(4, 6), (6, 4)),
])  # fmt: skip
def test_convolutions_are_matrices_of_outputs(host, matrix):
    constraint = Orthogonal()
    constraint.bind(site_of(host, ("weight",), host.weight, shape=host.weight.shape))
    parameter = ComputedParameter.from_value(host.weight, constraint)
    rows_first = parameter.detach().movedim(constraint.rows, 0).reshape(matrix)
    assert error(rows_first) < 1e-6
    assert parameter.detach().is_contiguous()
    assert parameter.detach().shape == host.weight.shape


def test_an_unknown_host_is_asked_for_dim():
    with pytest.raises(ConstraintRefusedError, match=r"dim=0 .*\(2, 12\), dim=1 .*\(3, 8\)"):
        orthogonal(torch.randn(2, 3, 4))
    parameter = ComputedParameter.from_value(torch.randn(2, 3, 4), "orthogonal(dim=1)")
    assert parameter.spec == "orthogonal(dim=1)"
    assert error(parameter.detach().movedim(1, 0)) < 1e-6


def test_training_does_not_copy_the_base():
    parameter = orthogonal(torch.randn(6, 4))
    base = parameter.constraints[0].base
    before, version = base.clone(), base._version
    optimizer = torch.optim.SGD(parameter.parameters(), lr=0.1)
    for mode in (True, False, True):
        parameter.train(mode)
        parameter.square().sum()
        parameter.raws["raw"].grad = torch.randn(6, 4)
        optimizer.step()
    assert parameter.constraints[0].base is base
    assert base._version == version
    assert torch.equal(base, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_that_was_rounded_loads_orthonormal(dtype):
    parameter = orthogonal(torch.randn(30, 20))
    rounded = {key: tensor.to(dtype) for key, tensor in parameter.state_dict().items()}
    again = orthogonal(torch.randn(30, 20))
    again.load_state_dict(rounded)
    assert error(again.value()) < 4e-6
    torch.testing.assert_close(again.detach(), parameter.detach(), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_widening_the_model_makes_it_orthonormal_to_the_wider_dtype():
    parameter = orthogonal(torch.randn(30, 20))
    nn.ModuleList([parameter]).double()
    assert error(parameter.value()) < 1e-14


def test_a_checkpoint_keeps_the_value_and_aliases_nothing():
    parameter = orthogonal(torch.randn(6, 4))
    with torch.no_grad():
        parameter.raws["raw"].add_(torch.randn(6, 4))
    file = io.BytesIO()
    torch.save(parameter.state_dict(), file)
    file.seek(0)
    again = orthogonal(torch.randn(6, 4))
    again.load_state_dict(torch.load(file), assign=True)
    assert torch.equal(again.detach(), parameter.detach())
    host, other = nn.Module(), nn.Module()
    host.weight = orthogonal(torch.randn(6, 4))
    other.weight = nn.Parameter(torch.randn(6, 4))
    host.load_state_dict(other.state_dict(), assign=True)
    pointers = {tensor.data_ptr() for tensor in host.state_dict().values()}
    assert len(pointers) == 2
