"""15: whether a spectral norm is the norm of what the layer does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import surgery
from benchmarks.peers.libraries import OURS, TORCH, Library
from benchmarks.peers.models import Case
from benchmarks.peers.observing import Measure, Probe, asked, by

WIDTH, RATE = 32, 1.0
LARGEST_LINEAR, LARGEST_CONVOLUTION = 1.01, 1.001
GEOMETRIES = {
    "stride 1": {"stride": 1},
    "stride 2": {"stride": 2},
    "2 groups": {"groups": 2},
}
LINEAR = Case(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False)), lambda: torch.randn(64, WIDTH), ("0.weight",))


@dataclass(frozen=True, kw_only=True)
class AfterAStep(Measure):
    """The norm of a Linear after a large step, in eval and in train mode."""

    in_eval: float
    in_train: float

    def right(self) -> bool:
        """One, nearly, in eval."""
        return self.in_eval <= LARGEST_LINEAR

    def fact(self) -> str:
        """Both."""
        return f"{self.in_eval:.3f}, in train {self.in_train:.3f}"


@dataclass(frozen=True, kw_only=True)
class OfConvolutions(Measure):
    """The largest operator norm of convolutions under a spectral norm, and whether one of operators is offered."""

    norm: float
    offered: bool

    def right(self) -> bool | None:
        """One, nearly; where only the norm of a matrix is offered, that is told."""
        return self.norm <= LARGEST_CONVOLUTION if self.offered else None

    def fact(self) -> str:
        """The norm."""
        return f"{self.norm:.3f}" if self.offered else f"by its matrix {self.norm:.3f}"


def norm_of(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest singular value of the layer as a matrix, made column by column, by NumPy."""
    size = int(np.prod(shape))
    columns = layer(torch.eye(size).reshape(size, *shape)).reshape(size, -1)
    return float(np.linalg.norm(columns.detach().double().numpy(), 2))


def after_a_step(library: Library) -> AfterAStep:
    """A step of SGD along a random slope, large against the weight; then one forward in train, and one in eval."""
    slope = torch.randn(WIDTH, WIDTH)
    with asked():
        model = library.insert(LINEAR.build(), LINEAR, "spectral").train()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        (model(torch.eye(WIDTH)) * slope).sum().backward()
        optimizer.step()
        in_train = norm_of(model, (WIDTH,))
        return AfterAStep(in_eval=norm_of(model.eval(), (WIDTH,)), in_train=in_train)


def of_convolutions(library: Library) -> OfConvolutions:
    """Circular convolutions of 4 channels on 8 x 8 pixels, under what the library has for the norm of one."""
    case = Case(lambda: nn.Identity(), lambda: torch.randn(1), ("0.weight",))
    norms = {}
    for name, geometry in GEOMETRIES.items():
        plain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False, **geometry))
        with asked():
            if library is OURS:
                model = surgery.apply_constraints(plain, {"0.weight": "operator_norm"}).eval()
            else:
                model = library.insert(plain, case, "spectral").eval()
            norms[name] = norm_of(model, (4, 8, 8))
    notes = (", ".join(f"{norm:.3f} for {name}" for name, norm in norms.items()),)
    return OfConvolutions(norm=max(norms.values()), offered=library is OURS, notes=notes)


PROBES = (
    Probe(
        15,
        "True norm of a Linear",
        "A Linear under a spectral norm takes one step of SGD, large against the weight; its largest singular value "
        "is NumPy's, in train mode after one more forward, and then in eval. GeoTorch and PEFT have no spectral norm.",
        f"it is at most {LARGEST_LINEAR} in eval; in train it is an estimate in both libraries",
        "tests/life/test_ranked.py::test_15_norm_of_a_linear",
        by(after_a_step, OURS, TORCH),
        part="a",
    ),
    Probe(
        15,
        "True norm of a convolution",
        "Circular 3x3 convolutions of 4 channels on 8x8 pixels, with stride 1, stride 2 and 2 groups, under "
        "operator_norm, or under torch's spectral norm, which sets that of the weight as a matrix: the largest "
        "singular value of the whole layer as a matrix.",
        f"it is at most {LARGEST_CONVOLUTION}, where a norm of the operator is offered",
        "tests/life/test_ranked.py::test_15_norm_of_a_convolution",
        by(of_convolutions, OURS, TORCH),
        part="b",
    ),
)
