"""The benchmark of constraints measures what it says: errors, norms on images, and the libraries where they are."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

if importlib.util.find_spec("sklearn") is None:
    pytest.skip("its kernels are trained on scikit-learn's digits, of the extra 'examples'", allow_module_level=True)

from benchmarks import constraints, convolutions, factors
from benchmarks.timing import Samples
from computed.constraints.orthogonal import Orthogonal
from computed.constraints.spectral import Spectral


def test_errors_are_numpys():
    for shape in ((7, 3), (3, 7)):
        value = torch.randn(shape)
        q = value.double().numpy()
        q = q if shape[0] > shape[1] else q.T
        assert constraints.error_of(value) == pytest.approx(np.abs(q.T @ q - np.eye(3)).max())


def test_the_norm_on_images_is_that_of_the_whole_matrix():
    kernel = torch.randn(3, 2, 3, 3)
    unit = torch.eye(2 * 36, dtype=torch.float64).reshape(-1, 2, 6, 6)
    matrix = functional.conv2d(unit, kernel.double(), padding=1).flatten(1)
    assert convolutions.norm_on_images(kernel, 6) == pytest.approx(np.linalg.norm(matrix.numpy(), 2), rel=1e-6)
    assert convolutions.estimate(kernel) >= convolutions.norm_on_images(kernel, 6) * (1 - 1e-6)


@pytest.mark.parametrize("make", [Orthogonal, Spectral])
def test_what_is_timed_is_one_evaluation_of_a_raw_that_moved(make):
    weight = nn.init.orthogonal_(torch.empty(8, 8))
    value, raws = constraints.ours(make, weight)
    assert 0 < (value() - weight).abs().max() < 0.1
    (gradient,) = torch.autograd.grad(value(), [raw for raw in raws if raw.requires_grad], torch.randn(8, 8))
    assert gradient.abs().max() > 0
    layer = torch.nn.utils.parametrizations.orthogonal(constraints.linear_of(weight), orthogonal_map="cayley")
    other, _ = constraints.theirs(layer)
    assert constraints.error_of(other()) < 1e-5


def test_rows_are_ratios_to_the_unit():
    samples = Samples({"copy": [2.0, 2.0], "a: forward": [4.0, 6.0], "a: both": [30.0, 30.0]})
    assert list(constraints.unit_rows(samples, "copy", ["a"], "8 x 8")) == [("8 x 8", "a", "2.5", "15")]


def test_a_kernel_is_read_off_a_convolution():
    layer = factors.smooth_convolution()
    with torch.no_grad():
        assert torch.allclose(factors._kernel_of(layer, 64), layer.weight, atol=1e-6)


def test_the_libraries_are_compared_where_they_are(capsys: pytest.CaptureFixture[str]):
    if constraints.missing():
        with pytest.raises(SystemExit, match="not found: `make peers` makes an environment"):
            constraints.main()
        return
    rows = {name: float(moved) for _, name, moved, _ in constraints.moved_rows((64, 64))}
    assert rows["orthogonal"] == min(rows.values()) < rows["torch, cayley"]
    changed = {library: int((factors.adapted(library)[1] != 0).sum()) for library in ("lora", "PEFT")}
    assert changed["lora"] == 0 < changed["PEFT"]
