"""Spectral against torch's own spectral_norm and NumPy's singular values."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from computed.constraints.spectral import Spectral
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter
from computed.site import site_of


def sigma(matrix: Tensor) -> float:
    return float(np.linalg.svd(matrix.detach().double().flatten(1).numpy(), compute_uv=False)[0])


def constraint_of(parameter: ComputedParameter) -> Spectral:
    found = parameter.constraints[0]
    assert isinstance(found, Spectral)
    return found


def of_host(host: nn.Module, constraint: Spectral) -> ComputedParameter:
    constraint.bind(site_of(host, ("weight",), host.weight, shape=host.weight.shape))
    return ComputedParameter.from_value(host.weight, constraint)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("layer", "sizes"), [
    (nn.Linear, (12, 9)), (nn.Conv2d, (3, 8, 3)), (nn.ConvTranspose2d, (3, 8, 3)),
])  # fmt: skip
def test_trains_as_torchs_spectral_norm_does(layer, sizes, steps):
    plain = layer(*sizes)
    theirs = spectral_norm(copy.deepcopy(plain), n_power_iterations=steps)
    ours = of_host(copy.deepcopy(plain), Spectral(n_power_iterations=steps))
    constraint_of(ours).commit((theirs.parametrizations.weight[0]._u, theirs.parametrizations.weight[0]._v))
    ours.reset()
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9) for each in (theirs, ours)]
    for _ in range(6):
        target = torch.randn(plain.weight.shape)
        values = []
        for weight, optimizer in zip((theirs.weight, ours.value()), optimizers, strict=True):
            optimizer.zero_grad()
            (weight * target).sum().backward()
            optimizer.step()
            values.append(weight.detach())
        torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("settings", [{"norm": 2.0}, {"bound": 0.7}])
@pytest.mark.parametrize("shape", [(20, 30), (200, 150), (16, 3, 3, 3)])
def test_eval_holds_after_any_training(shape, settings, rate):
    parameter = ComputedParameter.from_value(torch.randn(shape), Spectral(**settings, dim=0))
    optimizer = torch.optim.Adam(parameter.parameters(), lr=rate)
    for _ in range(5):
        optimizer.zero_grad()
        (parameter * torch.randn(shape)).sum().backward()
        optimizer.step()
    parameter.eval()
    target = next(iter(settings.values()))
    if "norm" in settings:
        assert sigma(parameter.value()) == pytest.approx(target, rel=1e-4)
    else:
        assert sigma(parameter.value()) <= target * 1.0001


def test_a_weight_under_the_bound_is_itself_and_so_is_its_gradient():
    weight = torch.randn(9, 9)
    parameter = ComputedParameter.from_value(weight, Spectral(bound=sigma(weight) * 1.001))
    cotangent = torch.randn(9, 9)
    (parameter * cotangent).sum().backward()
    assert torch.equal(parameter.detach(), weight)
    assert torch.equal(parameter.raws["raw"].grad, cotangent)


def test_a_capped_weight_keeps_the_raw():
    weight = nn.Parameter(torch.randn(40, 30))
    bits = weight.detach().clone()
    parameter = ComputedParameter.from_value(weight, Spectral(bound=1.0))
    assert parameter.raws["raw"] is weight
    assert torch.equal(weight, bits)


@pytest.mark.parametrize("excess", [1e-5, 1e-4, 1e-3])
def test_a_weight_just_over_the_bound_is_capped(excess):
    weight = torch.randn(20, 30)
    bound = sigma(weight) / (1 + excess)
    value = ComputedParameter.from_value(weight, Spectral(bound=bound)).detach()
    assert sigma(value) == pytest.approx(bound, rel=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [3, 40, 200])
def test_a_capped_weight_is_not_capped_again(size, dtype):
    for _ in range(10):
        capped = ComputedParameter.from_value(torch.randn(size, size + 5, dtype=dtype), Spectral(bound=1.0)).detach()
        assert torch.equal(ComputedParameter.from_value(capped, Spectral(bound=1.0)).detach(), capped)


@pytest.mark.parametrize("settings", [{"norm": 2.0}, {"bound": 0.5}])
def test_no_admissible_weight_is_nearer_in_the_spectral_norm(settings):
    weight = torch.randn(8, 6, dtype=torch.float64)
    target = next(iter(settings.values()))
    value = ComputedParameter.from_value(weight, Spectral(**settings)).detach()
    # |W - X| >= ||W| - |X|| for every X of that norm
    assert sigma(weight - value) == pytest.approx(abs(sigma(weight) - target), rel=1e-9)


@pytest.mark.parametrize("settings", [{"norm": 2.0}, {"bound": 0.5}, {"bound": 100.0}])
def test_gradient_in_eval_is_that_of_the_map_with_the_true_norm(settings):
    raw = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    constraint = Spectral(**settings)
    constraint.allocate_state(raw.shape, raw)

    def value_of(raw: Tensor) -> Tensor:
        with torch.no_grad():
            state = constraint.settled_state(raw)
        return constraint.value_given(raw, state)

    assert torch.autograd.gradcheck(value_of, raw, check_forward_ad=False)


@pytest.mark.parametrize(("host", "dim", "rows"), [
    (nn.Linear(5, 3), None, 3), (nn.Embedding(7, 3), None, 7), (nn.Conv1d(5, 4, 2), 0, 4), (nn.Conv2d(5, 4, 2), 0, 4),
    (nn.Conv3d(5, 4, 2), 0, 4), (nn.ConvTranspose1d(5, 4, 2), 1, 4), (nn.ConvTranspose2d(5, 4, 2), 1, 4),
    (nn.Conv2d(6, 4, 2, groups=2), 0, 4),
])  # fmt: skip
def test_rows_run_along_outputs(host, dim, rows):
    parameter = of_host(host, Spectral())
    constraint = constraint_of(parameter)
    assert constraint.dim == dim
    assert len(constraint.u) == rows
    assert repr(constraint) == ("Spectral(norm=1.0)" if dim is None else f"Spectral(norm=1.0, dim={dim})")
    matrix = parameter.eval().detach().movedim(dim or 0, 0)
    assert sigma(matrix) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("dim", "resolved"), [(0, 0), (1, 1), (-1, 2), (-3, 0)])
def test_dim_says_where_rows_run(dim, resolved):
    parameter = of_host(_experts(), Spectral(dim=dim))
    assert constraint_of(parameter).dim == resolved
    assert sigma(parameter.eval().detach().movedim(resolved, 0)) == pytest.approx(1, rel=1e-4)


def test_an_unknown_host_is_asked_for_dim():
    with pytest.raises(ConstraintRefusedError, match=r"dim=0 .*\(4, 30\), dim=1 .*\(5, 24\), or exempt it"):
        of_host(_experts(), Spectral())
    assert Spectral().why_not(site_of(_experts(), ("weight",), torch.ones(4, 5, 6), shape=None)) is None


def test_a_dim_that_is_not_there_is_refused():
    with pytest.raises(ConstraintRefusedError, match=r"dim=2, but shape \(3, 3\) has dimensions 0 to 1"):
        ComputedParameter.from_value(torch.ones(3, 3), Spectral(dim=2))
    with pytest.raises(ConstraintRefusedError, match=r"spectral needs 2 or more dimensions, got shape \(64,\)"):
        ComputedParameter.from_value(torch.ones(64), Spectral())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"norm": 1.0, "bound": 1.0}, "norm or bound, got norm=1.0 and bound=1.0"),
    ({"norm": 0.0}, "positive finite norm, got 0.0"), ({"norm": float("inf")}, "positive finite norm, got inf"),
    ({"bound": -1.0}, "positive finite bound, got -1.0"), ({"eps": 0.0}, "positive finite eps, got 0.0"),
    ({"n_power_iterations": 0}, "n_power_iterations >= 1, got 0"),
    ({"n_power_iterations": 1.5}, "n_power_iterations must be a whole number, got 1.5"),
    ({"dim": "0"}, "dim must be a whole number, got '0'"),
])  # fmt: skip
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Spectral(**arguments)


def test_a_zero_weight_stays_under_a_bound_and_gets_a_norm():
    zero = torch.zeros(200, 300)
    capped = ComputedParameter.from_value(zero, Spectral(bound=1.0))
    assert torch.equal(capped.detach(), zero)
    (capped * torch.ones(200, 300)).sum().backward()
    assert torch.equal(capped.raws["raw"].grad, torch.ones(200, 300))
    assert sigma(ComputedParameter.from_value(zero, Spectral(2.0)).detach()) == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e20, 1e35])
@pytest.mark.parametrize("settings", [{"norm": 2.0}, {"bound": 2.0}])
def test_a_weight_at_any_scale_keeps_its_direction(settings, scale):
    direction = torch.randn(9, 7)
    parameter = ComputedParameter.from_value(scale * direction, Spectral(**settings))
    factor = scale if "bound" in settings and scale < 1 else 2 / sigma(direction)
    torch.testing.assert_close(parameter.detach(), direction * factor, rtol=1e-5, atol=0)
    assert (parameter.detach() * parameter).sum().isfinite()


@pytest.mark.parametrize("size", [5, 200])
def test_a_weight_that_is_no_number_is_not_repaired_in_silence(size):
    parameter = ComputedParameter.from_value(torch.full((size, size), torch.nan), Spectral(bound=2.0))
    assert parameter.eval().detach().isnan().all()
    with torch.no_grad():
        parameter.copy_(3 * torch.eye(size))
    assert sigma(parameter.value()) == pytest.approx(2, rel=1e-5)


def test_a_weight_that_trains_through_zero_comes_back():
    parameter = ComputedParameter.from_value(torch.randn(6, 5), Spectral(bound=1.0))
    raw = parameter.raws["raw"]
    optimizer = torch.optim.SGD([raw], lr=1.0)
    for target in (torch.zeros(6, 5), 3 * torch.randn(6, 5)):
        raw.grad = raw.detach() - target
        optimizer.step()
        assert parameter.detach().isfinite().all()
    for _ in range(60):
        raw.grad = torch.zeros_like(raw)
        parameter.value()
        optimizer.step()
    assert sigma(parameter.detach()) == pytest.approx(1, rel=1e-3)


def test_says_where_a_weight_is_scaled_up():
    weight = torch.randn(9, 7)
    for constraint, larger in (
        (Spectral(2 * sigma(weight)), True),
        (Spectral(0.5 * sigma(weight)), False),
        (Spectral(bound=2 * sigma(weight)), False),
    ):
        assert constraint.scales_up(weight, constraint.right_inverse(weight).state) is larger


def test_settings_move_while_it_trains():
    parameter = ComputedParameter.from_value(torch.randn(9, 7), Spectral(bound=2.0)).eval()
    assert sigma(parameter.value()) == pytest.approx(2, rel=1e-5)
    constraint_of(parameter).bound = 1.0
    assert sigma(parameter.value()) == pytest.approx(1, rel=1e-5)
    assert parameter.spec == "spectral(bound=1.0)"


def test_violation_is_relative_and_exact():
    matrix = torch.diag(torch.tensor([3.0, 1.0]))
    constraint = Spectral(2.0)
    assert constraint.violation(matrix, ()) == pytest.approx(0.5, rel=1e-12)
    assert constraint.violation(matrix / 3, ()) == pytest.approx(0.5, rel=1e-6)
    assert Spectral(bound=2.0).violation(matrix, ()) == pytest.approx(0.5, rel=1e-12)
    assert Spectral(bound=2.0).violation(matrix / 3, ()) == 0


def _experts() -> nn.Module:
    host = nn.Module()
    host.weight = nn.Parameter(torch.randn(4, 5, 6))
    return host


@pytest.mark.parametrize("shape", [(6, 4), (200, 150)])
def test_the_converged_state_starts_from_what_it_says(shape):
    """Holds of eval do not watch the rest of the committed state."""
    weight = ComputedParameter.from_value(torch.randn(shape), "spectral").eval()
    constraint = weight.constraints[0]
    assert set(constraint.settles_from) < set(constraint.state_names)
    before = constraint.settled_state(weight.raws["raw"])
    for name in set(constraint.state_names) - set(constraint.settles_from):
        constraint._buffers[name].normal_()
    assert all(
        torch.equal(one, other) for one, other in zip(constraint.settled_state(weight.raws["raw"]), before, strict=True)
    )
    value = weight.detach().clone()
    constraint.v.copy_(torch.randn_like(constraint.v))
    torch.testing.assert_close(weight.detach(), value)
