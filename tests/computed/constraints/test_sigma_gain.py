"""``gain`` behind ``spectral`` is sigma-reparametrisation; truth is NumPy's SVD, and torch's spectral norm."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import surgery
from computed.parameter import ComputedParameter
from computed.spec_error import UnknownConstraintError

HOSTS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(7, 5),
    "wide": lambda: nn.Linear(3, 200),
    "Conv2d": lambda: nn.Conv2d(3, 4, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(3, 4, 3),
}


def sigma_max(weight: Tensor, rows: int = 0) -> float:
    matrix = weight.detach().double().movedim(rows, 0).flatten(1).numpy()
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def gain_of(weight: ComputedParameter) -> Tensor:
    return dict(weight.named_parameters())["constraints.1.g"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_chain_keeps_a_weight_and_its_gain_is_the_largest_singular_value(host: str, dtype: torch.dtype):
    model = HOSTS[host]().to(dtype)
    before = model.weight.detach().clone()
    surgery.apply_constraints(model, {"weight": "spectral | gain"}).eval()
    eps = max(torch.finfo(dtype).eps, 1e-6)  # what eval's converged vectors are good for
    assert (model.weight.detach() - before).double().abs().max() <= 4 * eps * before.double().abs().max()
    sigma = sigma_max(before, 1 if host == "ConvTranspose2d" else 0)
    assert gain_of(model.weight).item() == pytest.approx(sigma, rel=torch.finfo(dtype).eps)


@pytest.mark.parametrize("host", HOSTS)
def test_after_training_the_largest_singular_value_is_the_gain(host: str):
    model = surgery.apply_constraints(HOSTS[host](), {"weight": "spectral | gain"})
    start = gain_of(model.weight).item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0.1)
    target = torch.randn(model.weight.shape)
    for _ in range(20):
        optimizer.zero_grad()
        (model.weight - target).square().sum().backward()
        optimizer.step()
    model.eval()
    gain = gain_of(model.weight).item()
    assert abs(gain - start) > 0.1
    assert sigma_max(model.weight, 1 if host == "ConvTranspose2d" else 0) == pytest.approx(abs(gain), rel=1e-3)
    assert surgery.check(model).ok
    kept = model.weight.detach().clone()
    assert torch.equal(surgery.bake(model).weight, kept)


def test_values_and_gradients_are_those_of_torch_times_the_gain():
    ours = nn.Linear(6, 4, dtype=torch.float64)
    theirs = copy.deepcopy(ours)
    surgery.apply_constraints(ours, {"weight": "spectral | gain"}).eval()
    gamma = torch.tensor([sigma_max(theirs.weight)], dtype=torch.float64, requires_grad=True)
    parametrizations.spectral_norm(theirs, n_power_iterations=500).eval()
    x, cotangent = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    expected = x @ (gamma * theirs.weight).T + theirs.bias
    found = ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    (found * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    torch.testing.assert_close(gain_of(ours.weight).grad, gamma.grad, rtol=1e-8, atol=1e-12)
    # the raw is the weight over its gain, so its gradient is that times the gain
    original = theirs.parametrizations.weight.original.grad
    torch.testing.assert_close(ours.weight.raws["raw"].grad, original * gamma.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("spec", ["gain", "spectral | gain"])
def test_a_weight_of_zeros_is_kept_and_trains(spec: str):
    model = surgery.apply_constraints(nn.Linear(3, 2, bias=False), {"weight": spec})
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(model.weight, torch.zeros(2, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (model.weight - torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    assert float(model.weight.detach().min()) > 0


@pytest.mark.parametrize(
    ("entry", "dtype"),
    [(65504.0, torch.float16), (6e-8, torch.float16), (3.4e38, torch.float32), (1e-40, torch.float32)],
    ids=str,
)
def test_the_ends_of_a_dtype_are_kept_to_half_a_percent(entry: float, dtype: torch.dtype):
    weight = torch.full((3, 4), entry, dtype=dtype)
    value = ComputedParameter.from_value(weight, "gain").detach()
    assert value.isfinite().all()
    assert (value.double() / weight.double() - 1).abs().max() <= 0.0056


def test_behind_spectral_a_norm_beyond_the_dtype_is_shortened_to_its_largest_number():
    value = ComputedParameter.from_value(torch.full((30, 40), 6e4).half(), "spectral | gain").eval().detach()
    assert sigma_max(value) == pytest.approx(65504, rel=2e-3)


def test_rows_are_told_where_no_host_tells_them():
    weight = torch.randn(2, 3, 4, dtype=torch.float64)
    for dim in (0, 1, -1):
        parameter = ComputedParameter.from_value(weight, f"gain(dim={dim})")
        assert parameter.raws["g"].item() == pytest.approx(sigma_max(weight, dim))
        assert parameter.spec == f"gain(dim={dim % 3})"
    with pytest.raises(ValueError, match="gain: dim must be a whole number, got 'rows'"):
        ComputedParameter.from_value(weight, "gain(dim='rows')")


def test_its_keys_and_its_other_name():
    model = surgery.apply_constraints(nn.Linear(3, 2), {"weight": "spectral | gain"})
    assert [key for key in model.state_dict() if key.endswith(("raw", "g"))] == [
        "weight.raw",
        "weight.constraints.1.g",
    ]
    with pytest.raises(UnknownConstraintError, match="unknown constraint 'sigma_reparam', did you mean 'gain'"):
        ComputedParameter.from_value(torch.ones(2, 2), "sigma_reparam")
