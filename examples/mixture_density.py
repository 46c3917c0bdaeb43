"""A mixture density network whose scales stay positive and whose weights stay probabilities, by two rules.

Bishop's inverse problem: ``x = t + 0.3 sin(2 pi t) + noise`` with ``t`` and the noise uniform; given ``x``, what was
``t``? In the middle three answers fit, and their mean is wrong. A small net gives the means of ``COMPONENTS`` normal
distributions for each ``x``; their scales ``sigmas`` and weights ``weights`` are parameters of the whole mixture. The
model says what it means, ``log(weights) - log(sigmas)``, and its parameters are plain. Four ways to fit it:

* rules: ``{"sigmas": "positive", "weights": "simplex"}`` on the model as it is;
* by hand: the model written anew, with logarithms of the scales and a softmax;
* projected: the plain model, scales clamped and weights clamped and divided by their sum after each step;
* plain: nothing.

What loses: the plain fit, on every seed. Its weights grow, since the likelihood rises with their sum, and what it calls
its likelihood is none; under SGD a step may take a scale below zero, and all is NaN. At large steps of Adam, projecting
and dividing the weights afterwards lose much likelihood too. Rules and by hand end alike under Adam; what the rules
save is the second model. Under SGD by hand is the better one: the softplus of ``positive`` is slow to come back from a
scale that a step has thrown far out, as two seeds show (``ExpTransform()`` of torch, as a rule, is the map by hand).
Weights that do not depend on ``x`` limit this model: where one answer fits, components lie on each other or are wasted.

Reference: Bishop, "Mixture density networks", 1994, section 5, where weights and scales depend on ``x`` too.

Run ``python examples/mixture_density.py [picture.png]``; the picture needs matplotlib, of the extra ``examples``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import surgery

RULES = {"sigmas": "positive", "weights": "simplex"}
COMPONENTS = 3
HIDDEN = 24
SHOWN, HELD_OUT = 400, 2000
STEPS = 500
SEEDS = tuple(range(10))
WORST = -3  # where the picture draws what is worse
SMALLEST = 1e-3  # what the projection clamps to
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "mixture_density.png"
COLOURS = {"rules": "#1f5fa8", "by hand": "#2e8b57", "projected": "#b8860b", "plain": "#c0392b"}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam, 0.01": partial(torch.optim.Adam, lr=0.01),
    "Adam, 0.05": partial(torch.optim.Adam, lr=0.05),
    "SGD, 0.02": partial(torch.optim.SGD, lr=0.02, momentum=0.9),
}


class MixtureDensity(nn.Module):
    """``p(t | x) = sum_k weights_k Normal(t; means_k(x), sigmas_k)``; it knows nothing of constraints."""

    def __init__(self, components: int = COMPONENTS) -> None:
        super().__init__()
        self.means = nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, components))
        self.sigmas = nn.Parameter(torch.full((components,), 0.3))
        self.weights = nn.Parameter(torch.full((components,), 1 / components))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Log densities (n,) of ``t`` (n,) given ``x`` (n,)."""
        return log_density(self.means(x[:, None]), self.sigmas, self.weights, t)


class ByHand(nn.Module):
    """The same mixture from logarithms and logits."""

    def __init__(self, components: int = COMPONENTS) -> None:
        super().__init__()
        self.means = nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, components))
        self.log_sigmas = nn.Parameter(torch.full((components,), math.log(0.3)))
        self.logits = nn.Parameter(torch.zeros(components))

    @property
    def sigmas(self) -> Tensor:
        """The scales."""
        return self.log_sigmas.exp()

    @property
    def weights(self) -> Tensor:
        """The weights of the components."""
        return self.logits.softmax(0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Log densities (n,) of ``t`` (n,) given ``x`` (n,)."""
        return log_density(self.means(x[:, None]), self.sigmas, self.weights, t)


@dataclass(frozen=True)
class Fit:
    """What one fit came to; its paths end where it became NaN."""

    model: nn.Module
    claimed: float
    held_out: float
    least_sigmas: list[float] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Whether the end is a density, and why not."""
        if not math.isfinite(self.claimed):
            return "NaN"
        inside = self.least_sigmas[-1] > 0 and abs(self.sums[-1] - 1) < 1e-4
        return "density" if inside else "no density"


def log_density(means: Tensor, sigmas: Tensor, weights: Tensor, t: Tensor) -> Tensor:
    """The logarithm of the mixture's density (n,) at ``t`` (n,), for means (n, k), scales and weights (k,)."""
    standardised = (t[:, None] - means) / sigmas
    parts = torch.log(weights) - torch.log(sigmas) - standardised.square() / 2 - math.log(2 * math.pi) / 2
    return parts.logsumexp(-1)


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs ``x``, ``t`` of Bishop's inverse problem."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(count, generator=generator)
    noise = 0.2 * torch.rand(count, generator=generator) - 0.1
    return t + 0.3 * torch.sin(2 * math.pi * t) + noise, t


def made(way: str, seed: int) -> nn.Module:
    """The model of one way; all ways of a seed start at the same function."""
    torch.manual_seed(seed)
    if way == "by hand":
        return ByHand()
    model = MixtureDensity()
    return surgery.apply_constraints(model, RULES) if way == "rules" else model


def project(model: nn.Module) -> None:
    """Clamp scales and weights, and divide the weights by their sum."""
    with torch.no_grad():
        model.sigmas.clamp_min_(SMALLEST)
        model.weights.clamp_min_(SMALLEST)
        model.weights.div_(model.weights.sum())


def fit(way: str, seed: int, optimizer_name: str = "Adam, 0.01", *, steps: int = STEPS) -> Fit:
    """Fit one way by the likelihood of all data at once, until the end or the first NaN."""
    model = made(way, seed)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    x, t = data(SHOWN, 0)
    least_sigmas, sums = [], []
    for _ in range(steps):
        loss = -model(x, t).mean()
        if not math.isfinite(loss.item()):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if way == "projected":
            project(model)
        least_sigmas.append(model.sigmas.min().item())
        sums.append(model.weights.sum().item())
    model.eval()
    x, t = data(HELD_OUT, 1)
    with torch.no_grad():
        claimed = model(x, t).mean().item()
        weights = model.weights / model.weights.sum()
        held_out = log_density(model.means(x[:, None]), model.sigmas, weights, t).mean().item()
    return Fit(model, claimed, held_out, least_sigmas, sums)


def print_table(fits: Mapping[str, Mapping[str, Sequence[Fit]]]) -> None:
    """How often each way ends at a density, and the log likelihood of what was held out."""
    ways = next(iter(fits.values()))
    print(f"of {len(next(iter(ways.values())))} seeds: how many end at a density; log likelihood of held-out points")
    for optimizer, ways in fits.items():
        counted = f"{optimizer:<12}{'density':>9}{'no density':>12}{'NaN':>6}"
        print(f"\n{counted}{'claimed':>11}{'true':>9}{'least':>9}{'best':>9}")
        for way, several in ways.items():
            print(table_line(way, several))
    print("\nclaimed, true: medians; true is with the weights divided by their sum")
    sums = [one.sums[-1] for ways in fits.values() for one in ways["plain"] if one.sums]
    print(f"sums of the weights of the plain fits at their end: {min(sums):.1f} to {max(sums):.1f}")


def table_line(way: str, several: Sequence[Fit]) -> str:
    """The counts of the verdicts, and the likelihoods of the fits that are numbers."""
    verdicts = [one.verdict for one in several]
    counts = f"{way:<12}{verdicts.count('density'):9}{verdicts.count('no density'):12}{verdicts.count('NaN'):6}"
    finite = [one for one in several if one.verdict != "NaN"]
    if not finite:
        return counts
    true = [one.held_out for one in finite]
    return f"{counts}{median(one.claimed for one in finite):11.3f}{median(true):9.3f}{min(true):9.3f}{max(true):9.3f}"


def draw(fits: Mapping[str, Mapping[str, Sequence[Fit]]], picture: Path) -> None:
    """Draw the best fit by rules, and how all fits ended."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(10, 5.4), layout="constrained", dpi=100)
    panels = figure.subplot_mosaic([["fit", "ends"], ["fit", "sums"]], width_ratios=(6, 6), height_ratios=(5, 4))
    draw_mixture(panels["fit"], max(next(iter(fits.values()))["rules"], key=lambda one: one.held_out).model)
    for column, ways in enumerate(fits.values()):
        for row, (way, several) in enumerate(ways.items()):
            place = column + 0.2 * (row - 1.5)
            ends = [max(one.held_out, WORST) for one in several if one.verdict != "NaN"]
            label = way if column == 0 else None
            panels["ends"].plot(
                [place] * len(ends), ends, "o", color=COLOURS[way], markersize=4, alpha=0.6, label=label
            )
            failed = sum(one.verdict == "NaN" for one in several)
            if failed:
                text = f"{failed} NaN"
                panels["ends"].text(place, WORST - 0.15, text, color=COLOURS[way], fontsize=8, ha="center", va="top")
    panels["ends"].set_xticks(range(len(fits)), fits)
    panels["ends"].set(
        ylabel=f"log likelihood, {WORST:.0f} or more", ylim=(WORST - 0.5, 1), xlim=(-0.5, len(fits) - 0.5)
    )
    panels["ends"].set_title("Held out, weights divided by their sum; each seed", fontsize=10)
    panels["ends"].legend(loc="lower left", frameon=False, ncols=2, fontsize=8)
    for way, several in list(fits.values())[-1].items():
        for one in several:
            panels["sums"].plot(one.sums, color=COLOURS[way], linewidth=1)
            if one.verdict == "NaN":
                panels["sums"].plot(len(one.sums) - 1, one.sums[-1], "x", color=COLOURS[way])
    panels["sums"].set(ylabel="sum of the weights", xlabel=f"step of {list(fits)[-1]}; a cross where it became NaN")
    for axes in panels.values():
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("A mixture density network: by rules a density on every seed, plain on none")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def draw_mixture(axes: Any, model: nn.Module) -> None:
    """Draw the data, and means and two scales of each component."""
    grid = torch.linspace(-0.1, 1.1, 200)
    axes.plot(*data(SHOWN, 0), ".", color="#aaaaaa", markersize=3, label="shown")
    with torch.no_grad():
        means, sigmas, weights = model.means(grid[:, None]), model.sigmas.tolist(), model.weights.tolist()
    for colour, mean, sigma, weight in zip(("#1f5fa8", "#c0392b", "#b8860b"), means.T, sigmas, weights, strict=True):
        axes.plot(grid, mean, color=colour, label=f"weight {weight:.2f}, sigma {sigma:.3f}")
        axes.fill_between(grid, mean - 2 * sigma, mean + 2 * sigma, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="x", ylabel="t", xlim=(-0.1, 1.1), ylim=(-0.2, 1.3))
    axes.set_title("By rules, best of the seeds: means and 2 sigma", fontsize=10)
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def main() -> None:
    """Fit all ways on all seeds, print the table, draw the picture."""
    torch.set_num_threads(1)
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    fits = {
        optimizer: {way: [fit(way, seed, optimizer) for seed in SEEDS] for way in COLOURS} for optimizer in OPTIMIZERS
    }
    print_table(fits)
    draw(fits, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
