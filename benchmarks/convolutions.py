"""What `operator_norm` takes for the norm of a convolution, beside that norm on images, for trained kernels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from computed.constraints.operator_norm import OperatorScale
from computed.parameter import ComputedParameter
from computed.symbol_bound import operator_norm_bound
from examples.digits_lipschitz import trained_kernels

STEPS = 2000
SIZES = (8, 16, 32)


def norm_on_images(kernel: Tensor, pixels: int, steps: int = STEPS) -> float:
    """The largest singular value of a convolution (out, in, 3, 3) with zeros around, by power steps in float64."""
    exact = kernel.double()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, exact.shape[1], pixels, pixels, dtype=torch.float64, generator=generator)
    for _ in range(steps):
        image = functional.conv_transpose2d(functional.conv2d(image, exact, padding=1), exact, padding=1)
        image = image / image.norm()
    return float(functional.conv2d(image, exact, padding=1).norm())


def estimate(kernel: Tensor) -> float:
    """What eval divides the kernel by where `operator_norm` is laid on it."""
    value = ComputedParameter.from_value(kernel, OperatorScale(1.0, stride=1, groups=1)).eval().detach().double()
    return float(kernel.double().norm() / value.norm())


def ratios_to_truth() -> Iterator[tuple[str, str, str, str]]:
    """Estimate and certified bound over the norm, for each kernel and size of image."""
    for rules in ("free", "capped"):
        for name, kernel in trained_kernels(rules, 0).items():
            found, certain = estimate(kernel), operator_norm_bound(kernel.double(), 1, [1, 1])
            for pixels in SIZES:
                truth = norm_on_images(kernel, pixels)
                label = f"{rules}, {name} {tuple(kernel.shape)}"
                yield label, f"{pixels} x {pixels}", f"{found / truth:.4f}", f"{certain / truth:.4f}"
