"""How far may a picture be changed before its label can change? A network with a bound on its slope can say.

A small convolutional network reads scikit-learn's digits (8 x 8 pixels), once free and twice under rules that keep each
layer's norm at 1 or below: `operator_norm(bound=1.0)` on convolutions, `spectral(bound=1.0)` or `orthogonal` on linear
layers, with sorted pairs between them, which lose no slope. `surgery.certify` makes the bounds hold for certain, and
`surgery.lipschitz_bound` multiplies them to a constant ``L`` of the whole network. A difference of two logits then
changes by ``sqrt(2) L`` of a change of the picture at most: where the largest logit leads by ``m``, no change shorter
than ``m / (sqrt(2) L)`` moves the label. This radius is certified, for every change there is. Beside it stand attacks,
the worst changes that gradient steps find, and random noise, which is harmless for long. What rules buy is above all
the certificate: under these attacks a free network does about as well, but nobody knows that there are no better ones.

All are trained alike, by the cross-entropy of ten times the logits; figures are medians over three seeds.

Run ``python examples/digits_lipschitz.py [picture.png]``; it needs scikit-learn, and for the
picture matplotlib, both of the extra ``examples``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import surgery

CAPPED = {"*@Conv2d.weight": "operator_norm(bound=1.0)", "*@Linear.weight": "spectral(bound=1.0)"}
RULES = {
    "free": {},
    "capped": CAPPED,
    "orthogonal": {**CAPPED, "*@Linear.weight": "orthogonal"},
}
SEEDS, EPOCHS, BATCH, WIDTH = 3, 20, 64, 16
TRAINED = 1400  # of 1797 pictures; the others test
TEMPERATURE = 10.0
RADII = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
NOISE = (0.5, 1.0, 2.0, 3.0, 4.0)
ATTACK_STEPS = 5
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "digits_lipschitz.png"
COLORS = {"free": "#b8860b", "capped": "#7da7d0", "orthogonal": "#1f5fa8"}
TEXT, GRID = "#222222", "#e4e4e4"


class PairSort(nn.Module):
    """Channels in pairs, the larger one first: a reordering of each input, so that no difference is stretched."""

    def forward(self, x: Tensor) -> Tensor:
        """The larger halves of the pairs, then the smaller ones."""
        first, second = x.chunk(2, 1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)


@dataclass(frozen=True)
class Fit:
    """What one network came to: shares of test pictures, the radius of the middle one, L, and seconds of training."""

    bound: float
    right: float
    radius: float
    certified: tuple[float, ...]
    attacked: tuple[float, ...]
    noisy: tuple[float, ...]
    seconds: float


def network(width: int = WIDTH) -> nn.Sequential:
    """Two convolutions and two linear layers: (n, 1, 8, 8) to ten logits. Nothing is pooled, which would lose slope."""
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), PairSort()),
        *(nn.Conv2d(width, width, 3, padding=1), PairSort(), nn.Flatten()),
        *(nn.Linear(width * 64, 64), PairSort(), nn.Linear(64, 10)),
    )


def data() -> tuple[Tensor, Tensor]:
    """1797 pictures of digits (n, 1, 8, 8) between 0 and 1, and what they are; always in the same order."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return pixels[order], torch.tensor(digits.target)[order]


def trained(rules: str, seed: int, epochs: int = EPOCHS) -> nn.Sequential:
    """A network under the rules of this name, trained and in eval mode; its bounds are not certain yet."""
    pixels, labels = (part[:TRAINED] for part in data())
    torch.manual_seed(seed)
    model = network()
    if RULES[rules]:
        surgery.apply_constraints(model, RULES[rules])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(TRAINED).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(TEMPERATURE * model(pixels[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def trained_kernels(rules: str, seed: int, epochs: int = EPOCHS) -> dict[str, Tensor]:
    """The kernels (out, in, 3, 3) of a trained network by name, as eval reads them, before `surgery.certify`."""
    model = trained(rules, seed, epochs)
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    return {f"{name}.weight": layer.weight.detach().clone() for name, layer in layers}


def lipschitz_bound(model: nn.Module) -> surgery.LipschitzBound:
    """What no change of a picture is stretched beyond."""
    return surgery.lipschitz_bound(model, (1, 8, 8), known={PairSort: 1.0})


def margins(model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """By how much the logit of the label leads all others; below 0 where it does not."""
    logits = model(pixels)
    wanted = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return wanted - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def certified_radii(model: nn.Module, bound: float, pixels: Tensor, labels: Tensor) -> Tensor:
    """How far each picture may be moved, whatever the direction, and is still read rightly; below 0 for wrong ones."""
    with torch.no_grad():
        return margins(model, pixels, labels).double() / (2**0.5 * bound)


def lengthened(directions: Tensor, lengths: float) -> Tensor:
    """Each direction (n, ...) with this length."""
    norms = torch.linalg.vector_norm(directions.flatten(1), dim=1).clamp_min(1e-12)
    return directions * (lengths / norms).reshape(-1, *[1] * (directions.dim() - 1))


def right_despite(model: nn.Module, changed: Tensor, labels: Tensor) -> Tensor:
    """Which pictures are read rightly."""
    with torch.no_grad():
        return model(changed).argmax(1) == labels


def attacked(model: nn.Module, pixels: Tensor, labels: Tensor, radius: float) -> float:
    """The share that is read rightly after each step of a descent of the margin within ``radius`` of the picture.

    Of the margin, not of the cross-entropy, whose gradient is rounded to nothing where a network is certain.
    """
    change = torch.zeros_like(pixels)
    right = right_despite(model, pixels, labels)
    for _ in range(ATTACK_STEPS):
        change.requires_grad_(True)
        (uphill,) = torch.autograd.grad(margins(model, pixels + change, labels).sum(), change)
        change = change.detach() - lengthened(uphill, 2 * radius / ATTACK_STEPS)
        lengths = torch.linalg.vector_norm(change.flatten(1), dim=1)
        change = torch.where((lengths > radius)[:, None, None, None], lengthened(change, radius), change)
        right &= right_despite(model, pixels + change, labels)
    return right.double().mean().item()


def noisy(model: nn.Module, pixels: Tensor, labels: Tensor, length: float) -> float:
    """The share that is read rightly with noise of this Euclidean length in a random direction."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(pixels.shape, generator=generator)
    return right_despite(model, pixels + lengthened(noise, length), labels).double().mean().item()


def fit(rules: str, seed: int, epochs: int = EPOCHS, attack_on: int = 1797) -> Fit:
    """Train a network, certify it, measure it; ``attack_on`` says on how many test pictures attacks are tried."""
    start = time.thread_time()
    model = trained(rules, seed, epochs)
    seconds = time.thread_time() - start
    if RULES[rules]:
        surgery.certify(model)
    bound = lipschitz_bound(model).bound
    surgery.bake(model)
    pixels, labels = (part[TRAINED:] for part in data())
    radii = certified_radii(model, bound, pixels, labels)
    return Fit(
        bound=bound,
        right=(radii > 0).double().mean().item(),
        radius=radii.median().item(),
        certified=tuple((radii > radius).double().mean().item() for radius in RADII),
        attacked=tuple(attacked(model, pixels[:attack_on], labels[:attack_on], radius) for radius in RADII),
        noisy=tuple(noisy(model, pixels, labels, length) for length in NOISE),
        seconds=seconds,
    )


Fits = Mapping[str, Sequence[Fit]]


def medians(fits: Fits, figure: Callable[[Fit], float]) -> dict[str, float]:
    """Of each network the median over its seeds."""
    return {rules: median(figure(each) for each in found) for rules, found in fits.items()}


def print_table(fits: Fits) -> None:
    """Medians over the seeds, and where the free network is the better one."""
    print(f"{'medians of ' + str(len(fits['free'])) + ' seeds':<40}" + "".join(f"{name:>13}" for name in fits))
    free_wins = []

    def line(text: str, figure: Callable[[Fit], float], form: str, *, more_is_better: bool = True) -> None:
        found = medians(fits, figure)
        print(f"{text:<40}" + "".join(f"{value:>13{form}}" for value in found.values()))
        better = max if more_is_better else min
        if found["free"] == better(found.values()) and len(set(found.values())) > 1:
            free_wins.append(text)

    line("test pictures read rightly", lambda each: each.right, ".1%")
    line("L, which no slope is above", lambda each: each.bound, ".3g", more_is_better=False)
    line("certified radius, median picture", lambda each: each.radius, ".3f")
    for index, radius in enumerate(RADII):
        line(f"certified at radius {radius}", lambda each, at=index: each.certified[at], ".1%")
    for index, radius in enumerate(RADII):
        line(f"right under attack within {radius}", lambda each, at=index: each.attacked[at], ".1%")
    for index, length in enumerate(NOISE):
        line(f"right with noise of length {length}", lambda each, at=index: each.noisy[at], ".1%")
    line("seconds of training", lambda each: each.seconds, ".1f", more_is_better=False)
    print("\nthe free network is the best of the three in:")
    for text in free_wins or ["nothing"]:
        print(f"  {text}")


def draw(fits: Fits, picture: Path) -> None:
    """Draw what is certified, what attacks leave, and what noise leaves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), sharey=True, layout="constrained", dpi=100)
    for rules, found in fits.items():
        shares = {
            kind: [median(getattr(each, kind)[at] for each in found) for at in range(len(points))]
            for kind, points in (("certified", RADII), ("attacked", RADII), ("noisy", NOISE))
        }
        clean, color = median(each.right for each in found), COLORS[rules]
        left.plot((0, *RADII), (clean, *shares["certified"]), "o-", color=color, linewidth=2, markersize=4)
        left.plot((0, *RADII), (clean, *shares["attacked"]), "s:", color=color, linewidth=1.4, markersize=3.5)
        right.plot((0, *NOISE), (clean, *shares["noisy"]), "o-", color=color, linewidth=2, markersize=4, label=rules)
    left.plot([], [], "o-", color=TEXT, linewidth=2, markersize=4, label="certified: no change moves the label")
    left.plot([], [], "s:", color=TEXT, linewidth=1.4, markersize=3.5, label="right under attack")
    left.set(xlabel="Euclidean length of the change", ylabel="share of test pictures", ylim=(0, 1.02))
    right.set(xlabel="Euclidean length of random noise")
    left.legend(loc="upper right", frameon=False, fontsize=9)
    right.legend(loc="lower left", frameon=False)
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        axes.grid(color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    at = RADII.index(0.1)
    sure, kept = (medians(fits, lambda each, of=of: getattr(each, of)[at]) for of in ("certified", "attacked"))
    figure.suptitle(
        f"Digits: at radius 0.1 layers of norm 1 certify {sure['orthogonal']:.0%} of the labels, free ones "
        f"{sure['free']:.0%} (attacked: {kept['orthogonal']:.0%}, {kept['free']:.0%})"
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def main(picture: Path = PICTURE, seeds: int = SEEDS, epochs: int = EPOCHS) -> None:
    """Fit all networks, print the table, draw the picture."""
    fits = {rules: [fit(rules, seed, epochs) for seed in range(seeds)] for rules in RULES}
    print_table(fits)
    draw(fits, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the batches are small
    main(*map(Path, sys.argv[1:2]))
