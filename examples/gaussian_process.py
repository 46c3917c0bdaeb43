"""Hyperparameters of a Gaussian process that stay where its covariance is positive definite, by two rules.

The data are real: body mass index and progress of the disease a year later, of 442 people with diabetes (bundled with
scikit-learn), half of them shown. A small module holds ``lengthscale``, ``outputscale`` and ``noise`` as plain
parameters; the log marginal likelihood is maximised from ten random starts, by Adam and by LBFGS:

* rules: ``{"{lengthscale,outputscale}": "positive", "noise": "greater_than(1e-4)"}`` on the module as it is;
* by hand: the module written anew, from logarithms;
* plain: nothing.

What loses: the plain fit. Where a step of LBFGS takes the noise or the output scale below zero, the covariance has no
Cholesky factor any more, and every second fit ends in an error; under Adam a length scale ends below zero, which the
kernel squares and nobody sees. What survives ends where the others do. Rules and by hand are alike; both are slower
than plain steps on the way up from a length scale far too small: two starts by rules are not there yet when Adam stops.

Reference: Rasmussen and Williams, "Gaussian processes for machine learning", 2006, algorithm 2.1 and equation 5.8.

Run ``python examples/gaussian_process.py [picture.png]``; it needs scikit-learn, and for the
picture matplotlib, both of the extra ``examples``.
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
WORST = -1.35  # where the picture draws what is worse
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


def inside_band(model: GaussianProcess, shown: Data, held_out: Data) -> float:
    """The share of held-out targets within 1.96 standard deviations of their predicted means."""
    with torch.no_grad():
        mean, variance = model.predict(shown, held_out[0])
    return ((held_out[1] - mean).abs() < 1.96 * variance.sqrt()).double().mean().item()


def without_input(shown: Data, held_out: Data) -> float:
    """The held-out log likelihood of one normal distribution for all."""
    normal = torch.distributions.Normal(shown[1].mean(), shown[1].std(correction=0))
    return normal.log_prob(held_out[1]).mean().item()


def print_table(fits: Mapping[str, Mapping[str, Sequence[Fit]]], shown: Data, held_out: Data) -> None:
    """How each way ends from all starts, and the likelihoods per point."""
    ways = next(iter(fits.values()))
    print(f"of {len(next(iter(ways.values())))} starts: how they end; log likelihood per point, median and worst")
    for optimizer, ways in fits.items():
        counted = f"{optimizer:<10}{'fitted':>8}{'below zero':>12}{'no Cholesky':>13}"
        print(f"\n{counted}{'marginal':>11}{'worst':>8}{'held out':>11}")
        for way, several in ways.items():
            print(table_line(way, several))
    best = best_of(fits["LBFGS"]["rules"])
    lengthscale, outputscale, noise = (scale.item() for scale in best.scales())
    print(f"\nlength scale {lengthscale:.2f}, output scale {outputscale:.2f}, noise {noise:.2f}")
    print(f"held out without the input, one normal distribution: {without_input(shown, held_out):.3f}")
    print(f"held-out people within the band of 95 %: {inside_band(best, shown, held_out):.0%}")


def table_line(way: str, several: Sequence[Fit]) -> str:
    """The counts of the verdicts, and the likelihoods of the fits that did not fail."""
    verdicts = [one.verdict for one in several]
    failed = sum(verdict in ("no Cholesky", "NaN") for verdict in verdicts)
    counts = f"{way:<10}{verdicts.count('fitted'):8}{verdicts.count('below zero'):12}{failed:13}"
    finite = [one for one in several if math.isfinite(one.marginal)]
    if not finite:
        return counts
    marginals = [one.marginal for one in finite]
    return f"{counts}{median(marginals):11.3f}{min(marginals):8.3f}{median(one.held_out for one in finite):11.3f}"


def best_of(several: Sequence[Fit]) -> GaussianProcess:
    """The model of the largest marginal likelihood."""
    return max(several, key=lambda one: one.marginal).model


def draw(fits: Mapping[str, Mapping[str, Sequence[Fit]]], shown: Data, held_out: Data, picture: Path) -> None:
    """Draw the predictive band of the best fit, and how all fits ended."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained", dpi=100, width_ratios=(6, 5))
    draw_band(left, best_of(fits["LBFGS"]["rules"]), shown, held_out)
    for column, ways in enumerate(fits.values()):
        for row, (way, several) in enumerate(ways.items()):
            place = column + 0.25 * (row - 1)
            for verdict, marker in (("fitted", "o"), ("below zero", "v")):
                ends = [max(one.marginal, WORST) for one in several if one.verdict == verdict]
                label = {"fitted": way, "below zero": f"{way}, a scale below zero"}[verdict]
                spread = [place + 0.012 * (index - len(ends) / 2) for index in range(len(ends))]
                shows = column == 0 and bool(ends)
                right.plot(spread, ends, marker, color=COLOURS[way], alpha=0.7, label=label if shows else None)
            failed = sum(not math.isfinite(one.marginal) for one in several)
            if failed:
                text = f"{failed} of {len(several)}:\nno Cholesky\nfactor"
                right.text(place, WORST + 0.003, text, color=COLOURS[way], ha="center", va="bottom", fontsize=9)
    right.set_xticks(range(len(fits)), fits)
    right.set(ylabel="log marginal likelihood per point", xlim=(-0.6, len(fits) - 0.4), ylim=(WORST, -1.21))
    right.set_title("How each start ended", fontsize=10)
    right.legend(loc="center right", bbox_to_anchor=(1.0, 0.55), frameon=False, fontsize=9)
    for axes in (left, right):
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Gaussian-process regression: by rules every start ends at a fit, plain LBFGS fails on half")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def draw_band(axes: Any, model: GaussianProcess, shown: Data, held_out: Data) -> None:
    """Draw the data, the predicted mean and the band of 95 %."""
    grid = torch.linspace(-2.3, 3.6, 200, dtype=torch.double)
    with torch.no_grad():
        mean, variance = model.predict(shown, grid)
    half = 1.96 * variance.sqrt()
    axes.fill_between(grid, mean - half, mean + half, color="#1f5fa8", alpha=0.13, linewidth=0, label="band of 95 %")
    axes.plot(*shown, ".", color="#1f5fa8", markersize=4, alpha=0.6, label="shown")
    axes.plot(*held_out, "x", color="#777777", markersize=4, alpha=0.7, label="held out")
    axes.plot(grid, mean, color="#1f5fa8", linewidth=2, label="mean")
    axes.set(xlabel="body mass index, standardised", ylabel="progress after a year, standardised")
    axes.set_title("Diabetes: the fit by rules", fontsize=10)
    axes.legend(loc="lower right", frameon=False, fontsize=9)


def main() -> None:
    """Fit all ways from all starts, print the table, draw the picture."""
    torch.set_num_threads(1)
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    shown, held_out = data()
    fits = {
        optimizer: {way: [fit(way, start, optimizer, shown, held_out) for start in STARTS] for way in COLOURS}
        for optimizer in OPTIMIZERS
    }
    print_table(fits, shown, held_out)
    draw(fits, shown, held_out, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
