"""Rotations, spans, fixed ranks, invertible matrices, AOL, orthogonal convolutions: against NumPy and real layers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor, nn

import surgery
from computed.constraints.aol import Aol, balance, correlations
from computed.constraints.dynamic_orthogonal import DynamicOrthogonal
from computed.constraints.fixed_rank import FixedRank, Invertible
from computed.constraints.orthogonal import Grassmannian, Orthogonal, SpecialOrthogonal
from computed.parameter import ComputedParameter
from computed.paraunitary import factors_of, loss_of_length, ranks_of


def trained(parameter: ComputedParameter, steps: int = 40, rate: float = 0.3) -> Tensor:
    """The value in eval after large steps towards something far outside."""
    optimizer = torch.optim.Adam([raw for raw in parameter.parameters() if raw.requires_grad], rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter * torch.randn(parameter.shape, dtype=parameter.dtype)).sum().backward()
        optimizer.step()
    return parameter.eval().detach().clone()


def distance_to_rotations(matrix: np.ndarray) -> float:
    """The least distance to a rotation of three dimensions, by search from many starts."""

    def away(turn: np.ndarray) -> float:
        x, y, z = turn
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return float(((scipy.linalg.expm(skew) - matrix) ** 2).sum())

    rng = np.random.default_rng(0)
    return min(scipy.optimize.minimize(away, 3 * rng.normal(size=3)).fun for _ in range(12)) ** 0.5


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_rotation_is_the_nearest_one(sign):
    weight = torch.randn(3, 3, dtype=torch.float64)
    weight *= sign * torch.linalg.det(weight).sign()
    value = ComputedParameter.from_value(weight, SpecialOrthogonal()).detach()
    assert torch.linalg.det(value) == pytest.approx(1.0)
    assert float((value - weight).norm()) == pytest.approx(distance_to_rotations(weight.numpy()), rel=1e-5)


@pytest.mark.parametrize("kind", ["cayley", "exp", "qr", "newton_schulz"])
def test_a_rotation_stays_one(kind):
    value = trained(ComputedParameter.from_value(-torch.eye(5), SpecialOrthogonal(map=kind)))
    assert torch.linalg.det(value.double()) == pytest.approx(1.0, abs=1e-5)


def test_a_square_of_the_wrong_part_is_outside_rotations():
    constraint = SpecialOrthogonal()
    assert constraint.violation(torch.diag(torch.tensor([1.0, -1.0])), ()) == 2.0
    assert constraint.violation(torch.eye(3), ()) == 0.0


def test_a_span_does_not_move_within_itself():
    weight = torch.randn(7, 3, dtype=torch.float64)
    parameter = ComputedParameter.from_value(weight, Grassmannian())
    q = parameter.detach().clone()
    expected = scipy.linalg.polar(weight.numpy())[0]
    np.testing.assert_allclose(q.numpy(), expected, atol=1e-12)
    # a loss of the basis, and one of the span
    (parameter * torch.randn(7, 3, dtype=torch.float64)).sum().backward()
    gradient = parameter.raws["raw"].grad
    assert (q.T @ gradient).abs().max() < 1e-12
    parameter.raws["raw"].grad = None
    target = torch.randn(7, 7, dtype=torch.float64)
    ((parameter @ parameter.T) * target).sum().backward()
    symmetric = target + target.T
    horizontal = symmetric @ q - q @ (q.T @ symmetric @ q)
    torch.testing.assert_close(parameter.raws["raw"].grad, horizontal)


@pytest.mark.parametrize("shape", [(6, 6), (8, 3), (3, 8)])
def test_a_dynamic_base_has_the_riemannian_gradient_after_every_step(shape):
    parameter = ComputedParameter.from_value(torch.randn(shape, dtype=torch.float64), DynamicOrthogonal())
    optimizer = torch.optim.SGD(parameter.parameters(), 0.3)
    for _ in range(5):
        given = torch.randn(shape, dtype=torch.float64)
        optimizer.zero_grad()
        (parameter * given).sum().backward()
        q = parameter.detach()
        q, g = (q, given) if shape[0] >= shape[1] else (q.T, given.T)
        expected = g - q @ (q.T @ g + g.T @ q) / 2
        found = parameter.raws["raw"].grad
        torch.testing.assert_close(found if shape[0] >= shape[1] else found.T, expected)
        optimizer.step()


def test_a_dynamic_base_takes_the_steps_of_plain_retractions():
    """SGD from here, by the Cayley transform written out."""
    weight = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    parameter = ComputedParameter.from_value(weight, DynamicOrthogonal())
    optimizer = torch.optim.SGD(parameter.parameters(), 0.1)
    q, target = weight.numpy(), torch.randn(5, 5, dtype=torch.float64)
    for _ in range(6):
        optimizer.zero_grad()
        (parameter * target).sum().backward()
        optimizer.step()
        skew = q.T @ target.numpy() - target.numpy().T @ q
        half = -0.1 * q @ skew @ q.T / 4
        q = np.linalg.solve(np.eye(5) - half, (np.eye(5) + half) @ q)
    # steps are shortened by a part in a thousand: see REACH
    np.testing.assert_allclose(parameter.detach().numpy(), q, atol=2e-3)


@pytest.mark.parametrize("rate", [1e-4, 1e-2])
def test_errors_of_many_short_steps_do_not_add_up(rate):
    """Each step starts where the last one ended: a thousand of them left 1e-5 before each was corrected."""
    parameter = ComputedParameter.from_value(torch.randn(40, 40), DynamicOrthogonal())
    optimizer = torch.optim.AdamW(parameter.parameters(), rate, weight_decay=0.1)
    for _ in range(1000):
        optimizer.zero_grad()
        (parameter * torch.randn(40, 40)).sum().backward()
        optimizer.step()
    constraint = parameter.constraints[0]
    assert constraint.violation(parameter.eval().detach(), ()) < 1e-6


def test_without_a_step_a_dynamic_value_is_its_base():
    parameter = ComputedParameter.from_value(torch.randn(6, 6), DynamicOrthogonal())
    assert parameter.value().grad_fn.name() == "CloneBackward0" or parameter.value().requires_grad
    assert torch.equal(parameter.detach(), parameter.constraints[0].base)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (4, 3, 2, 2)])
def test_a_fixed_rank_is_the_nearest_matrix_and_stays(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    if len(shape) == 4:
        host = nn.Conv2d(3, 4, 2).double()
        host.weight = nn.Parameter(weight)
        surgery.constrain(host, weight=FixedRank(3))
        parameter = host.weight
    else:
        parameter = ComputedParameter.from_value(weight, FixedRank(3))
    u, s, vh = np.linalg.svd(weight.flatten(1).numpy(), full_matrices=False)
    np.testing.assert_allclose(parameter.detach().flatten(1).numpy(), (u[:, :3] * s[:3]) @ vh[:3], atol=1e-10)
    s = np.linalg.svd(trained(parameter).flatten(1).numpy(), compute_uv=False)
    assert s[2] > 5e-4 * s[0]
    assert s[3] < 1e-12 * s[0]


def test_a_lost_rank_is_given_back_and_one_too_many_taken():
    for weight in (torch.zeros(4, 5), torch.ones(4, 5), torch.randn(4, 5)):
        value = ComputedParameter.from_value(weight, FixedRank(2, cond=100.0)).detach().double()
        s = torch.linalg.svdvals(value)
        assert s[1] >= 0.0099 * s[0] > 0
        assert s[2] <= 1e-6 * s[0]
        again = ComputedParameter.from_value(value.float(), FixedRank(2, cond=100.0)).detach()
        torch.testing.assert_close(again, value.float(), rtol=0, atol=1e-5 * float(s[0]))


def test_determinants_are_positive_whatever_the_weight_and_the_steps():
    """GeoTorch's invertible maps had a negative one in 22 of 40 fresh samples."""
    for seed in range(40):
        torch.manual_seed(seed)
        weight = torch.randn(6, 6)
        parameter = ComputedParameter.from_value(weight, Invertible())
        before = parameter.detach().double()
        assert torch.linalg.det(before) > 0
        if torch.linalg.det(weight.double()) > 0 and np.linalg.cond(weight.numpy()) < 900:
            torch.testing.assert_close(before.float(), weight, rtol=1e-4, atol=1e-5)
        else:
            # no further than the border, whose distance is the smallest singular value, and a thousandth inside
            s = torch.linalg.svdvals(weight.double())
            assert (before - weight).norm() <= s[-1] + 2.1e-3 * s[0]
        value = trained(parameter, 20).double()
        assert torch.linalg.det(value) > 0
        assert np.linalg.cond(value.numpy()) < 1001


LAYERS = {
    "linear": (lambda: nn.Linear(7, 5, bias=False), (7,)),
    "1d": (lambda: nn.Conv1d(3, 4, 5, bias=False), (3, 11)),
    "zeros around": (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), (4, 7, 7)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False), (4, 6, 6)),
    "groups, stride": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, stride=2, bias=False), (4, 7, 7)),
    "dilation": (lambda: nn.Conv2d(4, 6, 3, dilation=2, bias=False), (4, 7, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), (4, 4, 4)),
}


def norm_of(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest singular value of a linear layer, by its whole matrix in float64."""
    exact = layer.double()
    size = int(np.prod(shape))
    with torch.no_grad():
        matrix = exact(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, -1)
    return float(np.linalg.norm(matrix.numpy(), 2))


@pytest.mark.parametrize("name", LAYERS)
def test_aol_bounds_the_layer_at_insertion_and_in_every_step(name):
    make, shape = LAYERS[name]
    layer = make()
    with torch.no_grad():
        layer.weight.mul_(4)
    surgery.constrain(layer, weight="aol(2.0)")
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(5):
        frozen = make()
        frozen.weight = nn.Parameter(layer.weight.detach().clone())
        assert norm_of(frozen, shape) <= 2.0 * (1 + 1e-6)
        optimizer.zero_grad()
        (-layer(torch.randn(4, *shape)).square().mean()).backward()
        optimizer.step()


def test_aol_keeps_orthogonal_columns_and_scales_the_rest_evenly():
    columns = torch.linalg.qr(torch.randn(9, 4))[0] * torch.tensor([1.0, 0.5, 0.2, 1.0])
    kept = ComputedParameter.from_value(columns, Aol()).detach()
    torch.testing.assert_close(kept, columns, rtol=1e-5, atol=1e-6)
    weight = torch.randn(9, 4)
    value = ComputedParameter.from_value(weight, Aol()).detach()
    ratio = (value / weight).flatten()
    largest = torch.linalg.eigvalsh((weight.T @ weight).abs().double())[-1]
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(largest) ** -0.5), rtol=1e-4, atol=0)


def test_correlations_are_those_of_shifted_kernels():
    kernel = torch.randn(4, 3, 3, 2, dtype=torch.float64)
    expected = np.zeros((3, 3))
    for i, j in itertools.product(range(3), repeat=2):
        for down, along in itertools.product(range(-2, 3), range(-1, 2)):
            total = 0.0
            for y, x in itertools.product(range(3), range(2)):
                if 0 <= y + down < 3 and 0 <= x + along < 2:
                    total += float(kernel[:, i, y, x] @ kernel[:, j, y + down, x + along])
            expected[i, j] += abs(total)
    np.testing.assert_allclose(correlations(kernel, 1)[0].numpy(), expected, atol=1e-12)


def test_a_balance_dominates_where_one_can():
    overlap = torch.rand(1, 5, 5, dtype=torch.float64)
    overlap = overlap + overlap.mT
    small = overlap / torch.linalg.eigvalsh(overlap)[0, -1] * 0.999
    q = balance(small, 1e-6)
    assert q.min() > 0
    assert ((small @ q.unsqueeze(-1)).squeeze(-1) <= q).all()


CIRCULAR = {
    "square": (6, 6, (3, 3)),
    "more out": (3, 8, (3, 3)),
    "fewer out": (8, 5, (3, 3)),
    "odd": (5, 5, (3, 3)),
    "one": (1, 1, (3, 3)),
    "even taps": (4, 4, (2, 4)),
    "one tap": (4, 6, (1, 1)),
}


@pytest.mark.parametrize("name", CIRCULAR)
def test_an_orthogonal_convolution_keeps_lengths_on_a_torus(name):
    width, out, taps = CIRCULAR[name]
    layer = nn.Conv2d(width, out, taps, bias=False)
    surgery.constrain(layer, weight="orthogonal_conv")
    for kernel in (layer.weight.detach().clone(), trained(layer.weight)):
        frequencies = torch.fft.fft2(kernel.double(), s=(9, 9)).permute(2, 3, 0, 1)
        s = torch.linalg.svdvals(frequencies)
        torch.testing.assert_close(s, torch.ones_like(s), rtol=0, atol=5e-6)
        padded = nn.Conv2d(width, out, taps, padding=tuple(tap // 2 for tap in taps), bias=False)
        padded.weight = nn.Parameter(kernel)
        assert norm_of(padded, (width, 6, 6)) <= 1 + 1e-5


@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_the_identity_is_an_orthogonal_convolution_and_is_kept(channels):
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    nn.init.dirac_(layer.weight)
    before = layer.weight.detach().clone()
    surgery.constrain(layer, weight="orthogonal_conv")
    torch.testing.assert_close(layer.weight.detach() + 0.0, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_factors_are_found_again(dims):
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](4, 6, 3).double()
    surgery.constrain(layer, weight="orthogonal_conv")
    value = trained(layer.weight)
    assert loss_of_length(value) < 1e-12
    inmost, frames = factors_of(value)
    assert [frame.shape[1] for frame in frames] == ranks_of(list(range(dims)) * 2, 6)
    plain = type(layer)(4, 6, 3).double()
    plain.weight = nn.Parameter(value.clone())
    surgery.constrain(plain, weight="orthogonal_conv")
    torch.testing.assert_close(plain.weight.detach() + 0.0, value, rtol=0, atol=1e-10)
    assert inmost.shape == (6, 4)


def test_the_loss_of_length_is_that_of_images():
    kernel = torch.randn(5, 3, 2, 3, dtype=torch.float64)
    gram = np.zeros((3, 3, 3, 5))
    for (y, x), (v, u) in itertools.product(itertools.product(range(2), range(3)), repeat=2):
        gram[:, :, v - y + 1, u - x + 2] += (kernel[:, :, y, x].T @ kernel[:, :, v, u]).numpy()
    gram[:, :, 1, 2] -= np.eye(3)
    assert loss_of_length(kernel) == pytest.approx(np.abs(gram).max())


def test_a_span_is_told_by_the_rows_of_a_transposed_convolution():
    with pytest.raises(surgery.PlanError, match=r"a square matrix \(6, 6\), which has one span"):
        surgery.constrain(nn.ConvTranspose1d(2, 6, 3), weight="grassmannian")
    layer = nn.ConvTranspose1d(6, 2, 3)
    surgery.constrain(layer, weight="grassmannian")
    assert layer.weight.spec == "grassmannian(dim=1)"


def test_what_is_no_single_convolution_is_refused():
    for layer, text in (
        (nn.Conv2d(4, 4, 3, stride=2), r"takes no stride and no groups, got stride=\(2, 2\) and groups=1"),
        (nn.Conv2d(4, 4, 3, groups=2), r"got stride=\(1, 1\) and groups=2"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.Linear(4, 4), "needs a convolution's weight"),
    ):
        with pytest.raises(surgery.PlanError, match=text):
            surgery.constrain(layer, weight="orthogonal_conv")


def test_orthogonal_maps_reach_the_same_target():
    target = torch.linalg.qr(torch.randn(6, 6))[0]
    for make in (Orthogonal, lambda: Orthogonal(map="exp"), lambda: Orthogonal(map="qr"), DynamicOrthogonal):
        turn = torch.randn(6, 6)
        start = target @ torch.linalg.matrix_exp(0.3 * (turn - turn.T))
        parameter = ComputedParameter.from_value(start, make())
        optimizer = torch.optim.Adam(parameter.parameters(), 0.05)
        for _ in range(400):
            optimizer.zero_grad()
            (parameter - target).square().sum().backward()
            optimizer.step()
        assert (parameter.detach() - target).abs().max() < 0.02


@pytest.mark.parametrize(
    "spec", ["bjorck", "almost_orthogonal(0.25)", "singular_clip(0.5)", "orthogonal(map='newton_schulz')"]
)
def test_compiled_derivatives_are_those_of_eager_where_singular_values_are_equal(spec):
    """As they are right after an insertion; torch's derivative of a decomposition divides by their differences."""
    layer = nn.Linear(6, 6)
    nn.init.orthogonal_(layer.weight)
    surgery.constrain(layer, weight=spec)
    x, gradients = torch.randn(4, 6), []
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        layer.zero_grad()
        call(x).square().sum().backward()
        gradients.append(layer.weight.raws["raw"].grad.clone())
    assert gradients[0].isfinite().all()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
