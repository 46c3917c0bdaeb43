"""Norms of convolutions as operators, against their matrices, made column by column and decomposed by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import surgery
from computed.constraints.operator_norm import OperatorScale
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter
from computed.symbol_peak import operator_norm

# each with the shape of its inputs
LAYERS = {
    "zero padding": (lambda: nn.Conv2d(4, 4, 3, padding=1), (8, 8)),
    "no padding": (lambda: nn.Conv2d(4, 3, 3), (8, 8)),
    "wide padding": (lambda: nn.Conv2d(4, 3, 3, padding=4), (6, 6)),
    "same": (lambda: nn.Conv2d(4, 3, 5, padding="same"), (8, 8)),
    "circular": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (8, 8)),
    "circular, stride 2": (lambda: nn.Conv2d(4, 4, 3, 2, 1, padding_mode="circular"), (8, 8)),
    "circular, groups": (lambda: nn.Conv2d(4, 4, 3, 1, 1, 1, 2, padding_mode="circular"), (8, 8)),
    "stride 2": (lambda: nn.Conv2d(4, 4, 3, 2, 1), (8, 8)),
    "stride 3 x 2, kernel 2 x 5": (lambda: nn.Conv2d(3, 5, (2, 5), (3, 2)), (9, 11)),
    "stride 4, kernel 2": (lambda: nn.Conv2d(3, 5, 2, 4), (9, 9)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, 1, 1, groups=2), (8, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 5, 1, 2, groups=6), (8, 8)),
    "dilation 2": (lambda: nn.Conv2d(4, 4, 3, 1, 2, 2), (10, 10)),
    "dilation 2, stride 2": (lambda: nn.Conv2d(4, 4, 3, 2, 2, 2), (10, 10)),
    "dilation 3, stride 2": (lambda: nn.Conv1d(4, 4, 4, 2, 3, 3), (40,)),
    "dilation 4, stride 6": (lambda: nn.Conv1d(4, 4, 4, 6, 3, 4), (60,)),
    "one dimension": (lambda: nn.Conv1d(5, 7, 9, padding=4), (40,)),
    "three dimensions": (lambda: nn.Conv3d(2, 3, 3, (1, 2, 1), 1), (5, 5, 4)),
    "kernel 1": (lambda: nn.Conv2d(7, 5, 1), (2, 2)),
    "kernel 1, stride 2": (lambda: nn.Conv2d(7, 5, 1, 2), (4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, padding=1), (6, 6)),
    "transposed, stride 2, groups": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2), (5, 5)),
    "transposed, output padding": (lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1), (5, 5)),
}


def matrix_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest singular value of the layer without its bias as a matrix, in float64."""
    size = int(np.prod(shape))
    with torch.no_grad():
        ends = layer(torch.eye(size).reshape(size, *shape)) - layer(torch.zeros(1, *shape))
    return float(np.linalg.norm(ends.reshape(size, -1).double().numpy(), 2))


def constrained(name: str, spec: str = "operator_norm") -> tuple[nn.Module, tuple[int, ...]]:
    build, pixels = LAYERS[name]
    host = build()
    return surgery.constrain(host, weight=spec), (host.in_channels, *pixels)


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_exceeds_its_norm(name, evidence):
    """In eval the layer's matrix has at most the norm, and not much less: images are small here."""
    layer, shape = constrained(name, "operator_norm(norm=2.0)")
    norm = matrix_norm(layer.eval(), shape)
    assert 2.0 * 0.75 < norm <= 2.0 * 1.001
    evidence(f"operator_norm: norm of the layer's whole matrix over the norm asked, {name}", f"{norm / 2:.4f}")


@pytest.mark.parametrize("name", LAYERS)
def test_a_bound_keeps_what_is_below(name):
    """A weight below the bound stays as it is, and one above it is brought to it."""
    build, _ = LAYERS[name]
    host = build()
    before = host.weight.detach().clone()
    loose = surgery.constrain(build(), weight="operator_norm(bound=1e3)").eval()
    loose.load_state_dict({"weight": before, "bias": host.bias})
    assert torch.equal(loose.weight.detach(), before)
    layer, shape = constrained(name, "operator_norm(bound=0.25)")
    assert 0.25 * 0.75 < matrix_norm(layer.eval(), shape) <= 0.25 * 1.001


@pytest.mark.parametrize("name", ["circular", "circular, stride 2", "circular, groups"])
def test_wide_images_reach_the_norm(name):
    """The norm is that over images of every size: periodic ones of more pixels come near to it."""
    layer, _ = constrained(name)
    assert matrix_norm(layer.eval(), (4, 16, 16)) >= 0.99


def test_long_inputs_reach_the_norm():
    """A convolution of zeros around comes up to its norm from below as inputs grow."""
    layer = surgery.constrain(nn.Conv1d(3, 3, 5, padding=2), weight="operator_norm").eval()
    norms = [matrix_norm(layer, (3, length)) for length in (8, 32, 128, 400)]
    assert norms == sorted(norms)
    assert 0.999 < norms[-1] <= 1.0001


def test_a_spectral_norm_is_not_that_of_the_operator():
    """Smooth kernels: the matrix's norm is one, the operator's is more than twice that; here it is one."""
    smooth = torch.ones(4, 4, 3, 3) + 0.1 * torch.randn(4, 4, 3, 3)
    norms = {}
    for spec in ("spectral", "operator_norm"):
        layer = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        layer.weight.data.copy_(smooth)
        norms[spec] = matrix_norm(surgery.constrain(layer, weight=spec).eval(), (4, 8, 8))
    assert norms["spectral"] > 2.0
    assert norms["operator_norm"] == pytest.approx(1.0, abs=1e-3)


def test_no_peak_is_missed(size, evidence):
    """Random kernels against a dense grid of angles: the largest of these is reached, or exceeded by a little."""
    rng = np.random.default_rng(7)
    shares = []
    for _ in range(400 if size == "full" else 30):
        dims = int(rng.integers(1, 3))
        taps, stride = rng.integers(1, 8, dims), [int(step) for step in rng.integers(1, 4, dims)]
        groups, out, width = (int(number) for number in rng.integers(1, 5, 3))
        weight = torch.from_numpy(rng.standard_normal((groups * out, width, *taps)))
        shares.append(operator_norm(weight.float(), groups, stride) / dense_norm(weight, groups, stride))
    assert min(shares) >= 1 - 1e-3
    assert sorted(shares)[len(shares) // 50] >= 1 - 1e-6  # all but one in fifty
    evidence(
        "operator_norm: the norm found, as a share of the largest on a dense grid of angles, least of random kernels",
        f"{min(shares):.5f} of {len(shares)}",
    )


def dense_norm(weight: torch.Tensor, groups: int, stride: list[int]) -> float:
    """The largest norm on a dense grid, by NumPy's FFT: aliases of a stride are columns of one matrix."""
    points = [step * (48 // len(stride)) for step in stride]
    kernel = weight.numpy().reshape(groups, -1, *weight.shape[1:])
    axes = tuple(range(3, kernel.ndim))
    spectrum = np.fft.fftn(kernel, s=points, axes=axes)
    for dim, step in enumerate(stride):
        axis = 3 + dim
        apart = spectrum.reshape(*spectrum.shape[:axis], step, points[dim] // step, *spectrum.shape[axis + 1 :])
        moved = np.moveaxis(apart, axis, 3)
        spectrum = moved.reshape(*moved.shape[:2], -1, *moved.shape[4:])
    matrices = np.moveaxis(spectrum, (1, 2), (-2, -1)) / np.sqrt(np.prod(stride))
    return float(np.linalg.norm(matrices, 2, axis=(-2, -1)).max())


def test_training_follows_the_norm():
    """Steps of SGD that move each entry by about 5 %: values in train mode exceed the norm by little, in eval not."""
    layer = surgery.constrain(nn.Conv2d(6, 6, 3, padding=1), weight="operator_norm")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.003)
    norms = []
    for _ in range(30):
        optimizer.zero_grad()
        value = layer.weight + 0.0
        norms.append(operator_norm(value.detach(), 1, [1, 1]))
        (value * torch.randn(6, 6, 3, 3)).sum().backward()
        optimizer.step()
    assert min(norms) >= 1 - 1e-3, "an estimate from below makes values too large, never too small"
    assert sorted(norms)[len(norms) // 2] < 1.02
    assert max(norms) < 1.15
    assert operator_norm(layer.eval().weight.detach(), 1, [1, 1]) == pytest.approx(1.0, abs=2e-4)


def test_a_peak_that_grows_elsewhere_is_found():
    """From a smooth kernel to one of alternating signs: the waves find the angle on the other side of the circle."""
    layer = surgery.constrain(nn.Conv1d(1, 1, 3), weight="operator_norm")
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 2.0, 1.0]]]))
    optimizer.step()
    raw = layer.weight.raws["raw"]
    for share in torch.linspace(0, 2, 40):
        with torch.no_grad():
            ends = torch.tensor([[[1.0, 2.0, 1.0]]]), torch.tensor([[[-2.0, 4.0, -2.0]]])
            raw.copy_(torch.lerp(*ends, share.clamp_max(1)))
        (layer.weight + 0.0).sum().backward()
        optimizer.zero_grad()
        raw.grad = torch.zeros_like(raw)
        optimizer.step()
    value = layer.weight + 0.0
    assert operator_norm(value.detach(), 1, [1]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("spec", ["operator_norm", "operator_norm(bound=0.1)"])
def test_gradients_of_float64(spec):
    """The derivative in eval, where the norm is converged, is that of the weight over its norm: by differences."""
    layer = surgery.constrain(nn.Conv1d(2, 3, 3, stride=2, dtype=torch.float64), weight=spec).eval()
    parameter = layer.weight
    probe = torch.randn(3, 2, 3, dtype=torch.float64)
    (parameter * probe).sum().backward()
    raw = parameter.raws["raw"]
    numeric = torch.zeros_like(raw)
    weight, step = raw.detach().clone(), 1e-4
    target = 1.0 if spec == "operator_norm" else 0.1
    for index in np.ndindex(*raw.shape):
        ends = []
        for sign in (1, -1):
            moved = weight.clone()
            moved[index] += sign * step
            ends.append((moved * target / operator_norm(moved, 1, [2]) * probe).sum())
        numeric[index] = (ends[0] - ends[1]) / (2 * step)
    # the angle is found to 1e-2 of a window, and sigma's derivative is off by as much
    assert torch.allclose(raw.grad, numeric, atol=2e-2 * float(numeric.abs().max()))


def test_linear_layers_have_the_norm_of_a_matrix():
    """With two dimensions it is what spectral is."""
    weight = torch.randn(7, 5)
    ours = ComputedParameter.from_value(weight, OperatorScale(3.0))
    assert np.linalg.norm(ours.detach().double().numpy(), 2) == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize(
    ("build", "spec", "said"),
    [
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "operator_norm", "padding_mode='reflect'"),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate"), "operator_norm", "pad with zeros"),
        (lambda: nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"), "operator_norm", "circular padding=(2, 2)"),
        (lambda: nn.Conv2d(2, 2, 3, stride=2), "operator_norm(stride=3)", "Conv2d has stride=(2, 2)"),
        (lambda: nn.Conv2d(2, 2, 3, groups=2), "operator_norm(groups=1)", "Conv2d has stride=(1, 1) and groups=2"),
        (lambda: nn.Bilinear(2, 3, 4), "operator_norm", "give stride= and groups="),
        (lambda: nn.Bilinear(2, 3, 4), "operator_norm(stride=1, groups=3)", "groups=3, which does not divide the 4"),
        (lambda: nn.Bilinear(2, 3, 4), "operator_norm(stride=[1, 1], groups=1)", "has 1 dimensions of taps"),
        (lambda: nn.LayerNorm(3), "operator_norm", "needs 2 or more dimensions"),
    ],
)
def test_refuses_what_has_no_such_norm(build, spec, said):
    """Padding that repeats pixels, geometry that is not the host's or is not known, vectors."""
    with pytest.raises((ConstraintRefusedError, surgery.SurgeryError)) as refusal:
        surgery.constrain(build(), weight=spec)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"norm": 1.0, "bound": 2.0}, "operator_norm takes norm or bound"),
        ({"norm": 0.0}, "operator_norm needs a positive finite norm"),
        ({"stride": 0}, "operator_norm needs a stride >= 1, got 0"),
        ({"stride": (1, 2.5)}, "operator_norm: stride must be a whole number, got 2.5"),
        ({"groups": -1}, "operator_norm needs groups >= 1, got -1"),
        ({"n_power_iterations": 0}, "operator_norm needs n_power_iterations >= 1"),
    ],
)
def test_refuses_wrong_arguments(arguments, said):
    """At once, with the argument's name."""
    with pytest.raises(ValueError, match="operator_norm") as refusal:
        OperatorScale(**arguments)
    assert said in str(refusal.value)


def test_circular_padding_refused_only_where_it_repeats():
    """A kernel that needs its padding is taken; so is one of a dilation that needs more."""
    for layer in (
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, padding=2, dilation=2, padding_mode="circular"),
        nn.Conv2d(2, 2, 5, padding="same", padding_mode="circular"),
    ):
        assert isinstance(surgery.constrain(layer, weight="operator_norm").weight, ComputedParameter)


def test_no_image_of_noise_is_stretched():
    """What the norm promises: differences of outputs are no longer than those of inputs, on images of other sizes."""
    layer = surgery.constrain(nn.Conv2d(3, 8, 3, stride=2, padding=1), weight="operator_norm").eval()
    with torch.no_grad():
        for size in (5, 16, 33):
            one, other = torch.randn(2, 16, 3, size, size)
            moved = (layer(one) - layer(other)).flatten(1).norm(dim=1) / (one - other).flatten(1).norm(dim=1)
            assert (moved <= 1).all()
