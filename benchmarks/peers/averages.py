"""13: the average of models under a spectral norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.peers.libraries import OURS, TORCH, Library
from benchmarks.peers.models import PERCEPTRON, in_eval
from benchmarks.peers.observing import Measure, Probe, asked, by

STEPS, RATES, DECAY = 50, (0.01, 0.1, 1.0), 0.9
LARGEST = 1.01


@dataclass(frozen=True, kw_only=True)
class Averaged(Measure):
    """The largest norm of a weight of the average."""

    norm: float

    def right(self) -> bool:
        """One, nearly."""
        return self.norm <= LARGEST

    def fact(self) -> str:
        """The norm."""
        return f"norm {self.norm:.3f}"


def norm_after(library: Library, rate: float) -> float:
    """Train, average on the way, and measure what the average multiplies with, by NumPy."""
    inputs, targets = torch.randn(32, 6), torch.randn(32, 6)
    with asked():
        model = library.insert(PERCEPTRON.build(), PERCEPTRON, "spectral")
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(STEPS):
            optimizer.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            optimizer.step()
            averaged.update_parameters(model)
        layers = [averaged.module[position] for position in (0, 2)]
        weights = [in_eval(layer, torch.eye(6)) - in_eval(layer, torch.zeros(1, 6)) for layer in layers]
    return max(float(np.linalg.norm(weight.double().numpy(), 2)) for weight in weights)


def measure(library: Library) -> Averaged:
    """The worst of three rates of learning."""
    norms = {rate: norm_after(library, rate) for rate in RATES}
    notes = (", ".join(f"norm {norm:.3f} at rate {rate:g}" for rate, norm in norms.items()),)
    return Averaged(norm=max(norms.values()), notes=notes)


PROBE = Probe(
    13,
    "An average keeps its norm",
    f"AveragedModel(use_buffers=True) with a decay of {DECAY} follows {STEPS} steps of Adam of two layers under a "
    "spectral norm of 1, at rates of 0.01, 0.1 and 1; the largest singular value in eval is NumPy's. GeoTorch and PEFT "
    "have no spectral norm.",
    f"it is at most {LARGEST}",
    "tests/life/test_ranked.py::test_13_an_average_keeps_its_norm",
    by(measure, OURS, TORCH),
)
