"""Digits under layers of norm 1: what is certified holds, and kernels of real training have the norm that is said."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor
from torch.nn import functional

import surgery
from computed.constraints.operator_norm import OperatorScale
from computed.parameter import ComputedParameter
from computed.symbol_bound import operator_norm_bound

pytest.importorskip("sklearn", reason="the digits are those of scikit-learn, of the extra 'examples'")

from examples import digits_lipschitz as example

SMALL_EPOCHS = 3
CONSTRAINED = [rules for rules, given in example.RULES.items() if given]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the example runs by itself: its batches are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def epochs(size: str) -> int:
    return example.EPOCHS if size == "full" else SMALL_EPOCHS


@pytest.fixture(scope="module")
def fits(epochs: int) -> dict[str, list[example.Fit]]:
    return {rules: [example.fit(rules, 0, epochs)] for rules in example.RULES}


def test_no_attack_beats_a_certificate(fits, size):
    for found in (fit for each in fits.values() for fit in each):
        for certified, attacked in zip(found.certified, found.attacked, strict=True):
            assert certified <= attacked <= found.right
        assert sorted(found.certified, reverse=True) == list(found.certified)
        assert found.noisy[0] <= found.right + 0.02
    least = 0.9 if size == "full" else 0.6
    assert min(found[0].right for found in fits.values()) > least


def test_bounds_hold_for_certain_and_certify_more(fits):
    for rules in CONSTRAINED:
        (found,) = fits[rules]
        # certify leaves what is orthogonal, which holds to rounding in float32
        assert found.bound <= (1.0 if rules == "capped" else 1 + 1e-5)
        assert found.radius > fits["free"][0].radius > 0
    assert fits["free"][0].bound > 1.0


@pytest.mark.parametrize("rules", example.RULES)
def test_the_network_is_nowhere_steeper_than_its_bound(rules):
    """Against jacobians at pictures, in float64 by NumPy."""
    model = example.trained(rules, 1, 1)
    if rules in CONSTRAINED:
        surgery.certify(model)
        assert surgery.check(model).ok
    bound = example.lipschitz_bound(model).bound
    surgery.bake(model).double()
    for picture in example.data()[0][-4:].double():
        jacobian = torch.func.jacrev(lambda one: model(one.unsqueeze(0)).squeeze(0))(picture).detach()
        assert np.linalg.norm(jacobian.reshape(10, 64).numpy(), 2) <= bound * (1 + 1e-9)


def test_a_certified_radius_is_that_of_the_margin():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
    model[1].weight.data.copy_(torch.eye(2))
    pixels, labels = torch.tensor([[[[3.0, 1.0]]], [[[1.0, 3.0]]]]), torch.tensor([0, 0])
    radii = example.certified_radii(model, 1.0, pixels, labels)
    # the border, where both are equal, is sqrt(2) away
    assert radii.tolist() == pytest.approx([2**0.5, -(2**0.5)])
    assert example.attacked(model, pixels[:1], labels[:1], 1.41) == 1.0
    assert example.attacked(model, pixels[:1], labels[:1], 1.42) == 0.0


def test_pairs_are_sorted():
    x = torch.randn(3, 6, 2, 2, dtype=torch.float64)
    expected = np.sort(x.numpy().reshape(3, 2, 3, 2, 2), axis=1)[:, ::-1].reshape(3, 6, 2, 2)
    assert np.array_equal(example.PairSort()(x).numpy(), expected)


def test_noise_and_attacks_have_the_length_that_is_said():
    long = example.lengthened(torch.randn(5, 1, 8, 8), 2.5)
    assert torch.allclose(long.flatten(1).norm(dim=1), torch.full((5,), 2.5))
    assert torch.equal(example.lengthened(torch.zeros(1, 1, 8, 8), 1.0), torch.zeros(1, 1, 8, 8))


def true_norm(kernel: Tensor, pixels: int) -> float:
    """The largest singular value of the convolution with zeros around, in float64 by Lanczos' method."""
    kernel = kernel.double()
    out, width = kernel.shape[:2]

    def forth(x: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(x).reshape(1, width, pixels, pixels)
        return functional.conv2d(image, kernel, padding=1).flatten().numpy()

    def back(y: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(y).reshape(1, out, pixels, pixels)
        return functional.conv_transpose2d(image, kernel, padding=1).flatten().numpy()

    shape = out * pixels**2, width * pixels**2
    operator = LinearOperator(shape, matvec=forth, rmatvec=back, dtype=np.float64)
    # the norm is wanted to six digits; a residual of 1e-6 gives it to twelve
    (sigma,) = svds(operator, 1, ncv=60, tol=1e-6, return_singular_vectors=False, random_state=0)
    return float(sigma)


def settled_estimate(kernel: Tensor) -> float:
    """What eval divides a kernel by that `operator_norm` is laid on: the weight over its value."""
    constraint = OperatorScale(norm=1.0, stride=1, groups=1)
    value = ComputedParameter.from_value(kernel, constraint).eval().detach().double()
    raw = kernel.double()
    return float((raw * raw).sum() / (raw * value).sum())


def test_lanczos_finds_the_norm_of_the_whole_matrix():
    kernel = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    unit = torch.eye(3 * 25, dtype=torch.float64).reshape(-1, 3, 5, 5)
    matrix = functional.conv2d(unit, kernel, padding=1).flatten(1)
    assert true_norm(kernel, 5) == pytest.approx(np.linalg.norm(matrix.numpy(), 2), rel=1e-9)


@pytest.mark.parametrize("rules", ["free", "orthogonal"])
def test_norms_of_trained_kernels_are_at_most_two_percent_above_those_on_images(rules, epochs, size, evidence):
    """Estimate over truth is in [1, 1.02] on images of 16 x 16 pixels and more; the certain bound adds 0.6 %."""
    ratios: dict[str, list[float]] = {}
    for seed in range(example.SEEDS if size == "full" else 1):
        for kernel in example.trained_kernels(rules, seed, epochs).values():
            estimate, certain = settled_estimate(kernel), operator_norm_bound(kernel.double(), 1, [1, 1])
            assert estimate <= certain <= 1.006 * estimate
            for pixels in (16, 32):
                ratios.setdefault(f"{pixels} pixels", []).append(estimate / true_norm(kernel, pixels))
    for found in ratios.values():
        assert min(found) >= 1.0
        assert max(found) <= 1.02
    assert max(ratios["32 pixels"]) < max(ratios["16 pixels"])
    told = ", ".join(f"{name}: {min(found):.4f} to {max(found):.4f}" for name, found in ratios.items())
    evidence(f"operator_norm: estimate over the norm on images, kernels trained on digits, {rules}", told)


def test_kernels_are_those_before_certifying():
    kernels = example.trained_kernels("capped", 0, 1)
    model = example.trained("capped", 0, 1)
    assert list(kernels) == ["0.weight", "2.weight"]
    assert torch.equal(kernels["2.weight"], model[2].weight.detach())
    assert [tuple(kernel.shape) for kernel in kernels.values()] == [(16, 1, 3, 3), (16, 16, 3, 3)]


def test_the_table_and_the_picture(fits, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the picture needs matplotlib, of the extra 'examples'")
    example.print_table(fits)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert f"{fits['free'][0].right:.1%}" in printed
    example.draw(fits, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_tells_where_the_free_network_is_better(fits, capsys: pytest.CaptureFixture[str]):
    ties = {rules: [fits["capped"][0]] for rules in example.RULES}
    example.print_table(ties)
    assert capsys.readouterr().out.endswith("best of the three in:\n  nothing\n")
    better = replace(ties["free"][0], right=0.999, seconds=0.01)
    worse = replace(better, right=0.5, radius=-1.0, bound=99.0)
    example.print_table({**ties, "free": [worse, better, better]})
    told = capsys.readouterr().out.split("best of the three in:\n")[1]
    assert told.split("\n  ") == ["  test pictures read rightly", "seconds of training\n"]


def test_all_of_it(size, epochs, evidence, tmp_path, capsys):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the picture needs matplotlib, of the extra 'examples'")
    example.main(tmp_path / "picture.png", example.SEEDS if size == "full" else 1, epochs)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"picture: {tmp_path / 'picture.png'}"
    lines = [line for line in printed.splitlines() if line.startswith(("test pictures", "L, ", "certified at"))]
    for line in lines:
        name, figures = line[:40].strip(), line[40:].split()
        evidence(f"digits under layers of norm 1, {name}: free, capped, orthogonal", ", ".join(figures))
    assert len(lines) == 2 + len(example.RADII)
