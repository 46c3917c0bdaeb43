"""Convolutions as products of small tensors: how many numbers a trained network needs, and what time they save.

A convolutional network of 227,210 numbers is trained on scikit-learn's digits. Then rules make its two wide
convolutions computed from factors that have a share of their numbers together: ``tucker`` (a 1 x 1 convolution to few
channels, a small one, a 1 x 1 convolution back) at five shares, and at one of them ``cp`` (a sum of products of
vectors) and ``tensor_train`` too. The layers run by their factors, without making the weight, in eval too. Shown are
how far the plan says that the weights are moved, accuracy right after the change and after the factors were trained on,
and the time of a batch beside the dense network's, in turns. A tenth of the numbers is not a tenth of the time: a layer
becomes three or four, each with calls and maps of its own.

Figures are medians over three seeds; times are those of the first, medians of interleaved rounds on one thread.

Run ``python examples/digits_tucker.py [picture.png]``; it needs scikit-learn, and for the
picture matplotlib, both of the extra ``examples``.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from textwrap import fill

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import surgery

FACTORED = "{conv2,conv3}.weight"
SHARES = (0.5, 0.25, 0.1, 0.03, 0.01)
SPECS = (*(f"tucker({share})" for share in SHARES), "cp(0.1)", "tensor_train(0.1)")
DENSE = "dense"
SEEDS, EPOCHS, FINE_TUNED, BATCH = 3, 6, 3, 64
TRAINED = 1400  # of 1797 pictures; the others test
TIMED = (1, 256)  # pictures of a batch
ROUNDS = 15
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "digits_tucker.png"
COLORS = {"tucker": "#1f5fa8", "cp": "#b8860b", "tensor_train": "#4f8a5b", DENSE: "#222222"}
MARKERS = {"tucker": "o", "cp": "s", "tensor_train": "D", DENSE: "*"}


class Network(nn.Module):
    """Three convolutions of 64, 128 and 128 channels, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, padding=1)
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1)
        self.conv3 = nn.Conv2d(128, 128, 3, padding=1)
        self.head = nn.Linear(128 * 4, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, 10) of pictures (n, 1, 8, 8)."""
        maps = F.max_pool2d(F.relu(self.conv1(pixels)), 2)
        maps = F.max_pool2d(F.relu(self.conv3(F.relu(self.conv2(maps)))), 2)
        return self.head(maps.flatten(1))


@dataclass(frozen=True)
class Fit:
    """What one network came to: its numbers, how far that wide weight was moved that was moved more, its accuracy."""

    numbers: int
    moved: float
    at_once: float
    tuned: float


Fits = Mapping[str, Sequence[Fit]]  # by spec, one for each seed
Times = Mapping[int, Mapping[str, float]]  # by size of the batch and spec, in seconds


def data() -> tuple[Tensor, Tensor]:
    """1797 pictures of digits (n, 1, 8, 8) between 0 and 1, and what they are; always in the same order."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return pixels[order], torch.tensor(digits.target)[order]


def train(model: nn.Module, epochs: int, *, lr: float) -> None:
    """Adam; batches come in the same order for all."""
    pixels, labels = (part[:TRAINED] for part in data())
    order = torch.Generator().manual_seed(epochs)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(TRAINED, generator=order).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()


def accuracy(model: nn.Module) -> float:
    """The share of test pictures that are read rightly."""
    pixels, labels = (part[TRAINED:] for part in data())
    with torch.no_grad():
        return (model(pixels).argmax(1) == labels).double().mean().item()


def pretrained(seed: int, epochs: int = EPOCHS) -> Network:
    """A dense network that reads digits."""
    torch.manual_seed(seed)
    model = Network()
    train(model, epochs, lr=2e-3)
    return model


def numbers(model: nn.Module) -> int:
    """How many numbers a model is trained by."""
    return sum(parameter.numel() for parameter in model.parameters())


def factored(dense: nn.Module, spec: str, fine_tuned: int = FINE_TUNED) -> tuple[nn.Module, Fit]:
    """A copy whose wide convolutions are computed by this spec, trained on; ``dense`` leaves them as they are."""
    model, moved = copy.deepcopy(dense), 0.0
    if spec != DENSE:
        plan = surgery.plan(model, {FACTORED: spec})
        measured = [row.measures.moved for row in plan.sites if row.measures is not None]
        moved = max(each for each in measured if each is not None)
        plan.apply()
    at_once = accuracy(model.eval())
    train(model, fine_tuned, lr=1e-3)
    return model, Fit(numbers(model), moved, at_once, accuracy(model))


def interleaved(models: Mapping[str, nn.Module], pictures: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds that each model needs for a batch, medians of rounds in which all have their turn."""
    pixels = data()[0][:pictures]
    calls = max(1, 64 // pictures)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for turn in range(rounds + 1):  # the first one warms up
            for name, model in models.items():
                start = time.thread_time()
                for _ in range(calls):
                    model(pixels)
                if turn:
                    seconds[name].append((time.thread_time() - start) / calls)
    return {name: median(found) for name, found in seconds.items()}


def measure(
    networks: Sequence[nn.Module], fine_tuned: int = FINE_TUNED, rounds: int = ROUNDS
) -> tuple[dict[str, list[Fit]], dict[int, dict[str, float]]]:
    """Every spec on every dense network, and the times of what the first came to."""
    fits: dict[str, list[Fit]] = {spec: [] for spec in (DENSE, *SPECS)}
    timed: dict[str, nn.Module] = {}
    for dense in networks:
        for spec, found in fits.items():
            model, one = factored(dense, spec, fine_tuned)
            found.append(one)
            timed.setdefault(spec, model)
    return fits, {pictures: interleaved(timed, pictures, rounds) for pictures in TIMED}


def print_table(fits: Fits, times: Times) -> None:
    """Medians over the seeds, and times beside the dense network's."""
    small, large = times.values()
    print(f"{'medians of ' + str(len(fits[DENSE])) + ' seeds':<18}{'numbers':>9}{'moved':>7}{'at once':>9}", end="")
    print(f"{'trained on':>11}" + "".join(f"{f'batch of {pictures}':>13}" for pictures in times))
    for spec, found in fits.items():
        moved, at_once, tuned = (median(getattr(each, of) for each in found) for of in ("moved", "at_once", "tuned"))
        cells = [f"{seconds[spec] * 1e3:.2f} ms" for seconds in (small, large)]
        print(f"{spec:<18}{found[0].numbers:>9,}{moved:>7.3f}{at_once:>9.1%}{tuned:>11.1%}", end="")
        print("".join(f"{cell:>13}" for cell in cells))
    for pictures, seconds in times.items():
        slower = [spec for spec in fits if seconds[spec] > seconds[DENSE]]
        print(fill(f"slower than dense with {pictures} a batch: {', '.join(slower) or 'none'}", 80))


def draw(fits: Fits, times: Times, picture: Path) -> None:
    """Draw accuracy by numbers, and time by numbers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained", dpi=100)
    for family, color in COLORS.items():
        specs = [spec for spec in fits if spec.partition("(")[0] == family]
        counts = [fits[spec][0].numbers for spec in specs]
        style = {"color": color, "marker": MARKERS[family], "markersize": 12 if family == DENSE else 6}
        for of, line, face in (("tuned", "-", color), ("at_once", ":", "white")):
            shares = [median(getattr(each, of) for each in fits[spec]) for spec in specs]
            left.plot(counts, shares, linestyle=line, markerfacecolor=face, **style)
        for pictures, line, face in zip(times, (":", "-"), ("white", color), strict=True):
            ratios = [times[pictures][spec] / times[pictures][DENSE] for spec in specs]
            label = family if face == color else None
            right.plot(counts, ratios, linestyle=line, markerfacecolor=face, label=label, **style)
    key = {"color": "#777777", "marker": "o", "markersize": 6}
    left.plot([], [], markerfacecolor="white", linestyle=":", label="at once", **key)
    left.plot([], [], linestyle="-", label="trained on", **key)
    small, large = times
    right.plot([], [], markerfacecolor="white", linestyle=":", label=f"batch of {small}", **key)
    right.plot([], [], linestyle="-", label=f"batch of {large}", **key)
    left.legend(loc="lower right", frameon=False)
    right.legend(loc="upper left", frameon=False, ncols=2)
    left.set(ylabel="share of test pictures read rightly")
    left.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    right.set(ylabel="time of a batch over the dense network's", ylim=(0, 1.8))
    ticks = (10_000, 30_000, 100_000, 200_000)
    for axes in (left, right):
        axes.set(xlabel="numbers of the whole network (log)", xscale="log")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    spec = "tucker(0.1)"
    share = fits[spec][0].numbers / fits[DENSE][0].numbers
    tuned, dense = (median(each.tuned for each in fits[of]) for of in (spec, DENSE))
    ratio = times[large][spec] / times[large][DENSE]
    figure.suptitle(
        f"Digits: {spec} keeps {share:.0%} of the numbers, takes {ratio:.0%} of the time, "
        f"and reads {tuned:.1%} rightly (dense {dense:.1%})"
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def main(picture: Path = PICTURE, seeds: int = SEEDS, epochs: int = EPOCHS, fine_tuned: int = FINE_TUNED) -> None:
    """Plan, factor, train on, time; print the table, draw the picture."""
    networks = [pretrained(seed, epochs) for seed in range(seeds)]
    print(surgery.plan(networks[0], {FACTORED: "tucker(0.1)"}), end="\n\n")
    fits, times = measure(networks, fine_tuned)
    print_table(fits, times)
    draw(fits, times, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # so that times are those of one thread
    main(*map(Path, sys.argv[1:2]))
