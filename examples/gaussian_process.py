"""Hyperparameters of a Gaussian process that stay where its covariance is positive definite, by two rules.

The data are real: body mass index and progress of the disease a year later, of 442 people with diabetes (bundled with
scikit-learn), half of them shown. A small module holds ``lengthscale``, ``outputscale`` and ``noise`` as plain
parameters; the log marginal likelihood is maximised from ten random starts, by Adam and by LBFGS:

* rules: ``{"{lengthscale,outputscale}": "positive", "noise": "greater_than(1e-4)"}`` on the module as it is;
* by hand: the module written anew, from logarithms;
* plain: nothing.

What loses: the plain fit. A step takes the noise or the output scale below zero, the covariance has no Cholesky factor
any more and the fit ends in an error; or a length scale ends below zero, which the kernel squares and nobody sees. What
survives ends where the others do: the rules make fits reliable, the optimum is the same.

Reference: Rasmussen and Williams, "Gaussian processes for machine learning", 2006, algorithm 2.1 and equation 5.8.

Run ``python examples/gaussian_process.py [picture.png]``; it needs scikit-learn, of the extra ``dev``, and for the
picture matplotlib, of the extra ``examples``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import surgery

RULES = {"{lengthscale,outputscale}": "positive", "noise": "greater_than(1e-4)"}
LEAST_NOISE = 1e-4
FEATURE = 2  # body mass index
STARTS = tuple(range(10))
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "gaussian_process.png"
COLOURS = {"rules": "#1f5fa8", "by hand": "#2e8b57", "plain": "#c0392b"}
OPTIMIZERS: dict[str, tuple[int, Callable[..., torch.optim.Optimizer]]] = {
    "Adam": (120, partial(torch.optim.Adam, lr=0.1)),
    "LBFGS": (1, partial(torch.optim.LBFGS, max_iter=40, line_search_fn="strong_wolfe")),
}
Data = tuple[Tensor, Tensor]


def covariance(first: Tensor, second: Tensor, lengthscale: Tensor, outputscale: Tensor) -> Tensor:
    """The squared exponential kernel (n, m) of inputs (n,) and (m,)."""
    return outputscale * torch.exp(-((first[:, None] - second) / lengthscale).square() / 2)


class GaussianProcess(nn.Module):
    """Regression with a squared exponential kernel and normal noise; it knows nothing of constraints."""

    def __init__(self, lengthscale: float, outputscale: float, noise: float) -> None:
        super().__init__()
        self.lengthscale = nn.Parameter(torch.tensor(lengthscale, dtype=torch.double))
        self.outputscale = nn.Parameter(torch.tensor(outputscale, dtype=torch.double))
        self.noise = nn.Parameter(torch.tensor(noise, dtype=torch.double))

    def scales(self) -> tuple[Tensor, Tensor, Tensor]:
        """Length scale, output scale (a variance) and the variance of the noise."""
        return self.lengthscale, self.outputscale, self.noise

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The log marginal likelihood of targets ``y`` (n,) at ``x`` (n,)."""
        factor, solved = self.solve(x, y)
        return -y @ solved / 2 - factor.diagonal().log().sum() - len(y) * math.log(2 * math.pi) / 2

    def solve(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of the covariance of the targets, and its inverse times the targets."""
        lengthscale, outputscale, noise = self.scales()
        of_targets = covariance(x, x, lengthscale, outputscale) + noise * torch.eye(len(x), dtype=x.dtype)
        factor = torch.linalg.cholesky(of_targets)
        return factor, torch.cholesky_solve(y[:, None], factor)[:, 0]

    def predict(self, shown: Data, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (m,) of new targets at ``x`` (m,)."""
        lengthscale, outputscale, noise = self.scales()
        factor, solved = self.solve(*shown)
        across = covariance(shown[0], x, lengthscale, outputscale)
        explained = torch.linalg.solve_triangular(factor, across, upper=False).square().sum(0)
        return across.T @ solved, outputscale - explained + noise


class ByHand(GaussianProcess):
    """The same process, its parameters logarithms."""

    def __init__(self, lengthscale: float, outputscale: float, noise: float) -> None:
        super().__init__(math.log(lengthscale), math.log(outputscale), math.log(noise - LEAST_NOISE))

    def scales(self) -> tuple[Tensor, Tensor, Tensor]:
        """From logarithms, the noise above its least."""
        return self.lengthscale.exp(), self.outputscale.exp(), self.noise.exp() + LEAST_NOISE


@dataclass(frozen=True)
class Fit:
    """What one start came to; likelihoods per point."""

    model: GaussianProcess
    verdict: str
    marginal: float = math.nan
    held_out: float = math.nan
    least: float = math.nan  # the smallest of the three scales, over all steps


def data() -> tuple[Data, Data]:
    """Shown and held-out people: standardised body mass index, and progress."""
    from sklearn.datasets import load_diabetes

    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    pairs = torch.stack([torch.tensor(inputs[:, FEATURE]), torch.tensor(targets)])
    x, y = (pairs - pairs.mean(1, keepdim=True)) / pairs.std(1, keepdim=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    shown, held_out = order[::2], order[1::2]
    return (x[shown], y[shown]), (x[held_out], y[held_out])


def made(way: str, start: int) -> GaussianProcess:
    """The module of one way; all ways start at the same scales, log-uniform."""
    generator = torch.Generator().manual_seed(start)
    lengthscale, outputscale, noise = (10 ** (2 * torch.rand(3, generator=generator) - 1.5)).tolist()
    model = (ByHand if way == "by hand" else GaussianProcess)(lengthscale, outputscale, noise)
    return surgery.apply_constraints(model, RULES) if way == "rules" else model


def fit(way: str, start: int, optimizer_name: str, shown: Data, held_out: Data) -> Fit:
    """Maximise the log marginal likelihood; a covariance without a Cholesky factor ends the fit."""
    model = made(way, start)
    steps, made_optimizer = OPTIMIZERS[optimizer_name]
    optimizer = made_optimizer(model.parameters())
    least = math.inf

    def loss() -> Tensor:
        nonlocal least
        optimizer.zero_grad()
        least = min(least, *(scale.item() for scale in model.scales()))
        negative = -model(*shown) / len(shown[0])
        negative.backward()
        return negative

    try:
        for _ in range(steps):
            optimizer.step(loss)
        model.eval()
        with torch.no_grad():
            marginal = model(*shown).item() / len(shown[0])
            mean, variance = model.predict(shown, held_out[0])
    except torch.linalg.LinAlgError:
        return Fit(model, "no Cholesky", least=least)
    if not math.isfinite(marginal):
        return Fit(model, "NaN", least=least)
    verdict = "fitted" if min(scale.item() for scale in model.scales()) > 0 else "below zero"
    log_density = -((held_out[1] - mean).square() / variance + variance.log() + math.log(2 * math.pi)) / 2
    return Fit(model, verdict, marginal, log_density.mean().item(), least)
