"""Two of every four weights are zero: pruning a trained network for the kernels that skip them, and further by size.

A small convolutional network that reads scikit-learn's digits is pruned by rules. ``n_m(2, 4)`` leaves of every four
neighbours among the inputs of a layer the two that are largest in size, the pattern that GPUs have instructions for;
``mask(0.5)`` leaves as many, wherever they are. The network is trained on, baked, and its zeros are counted. Then
higher sparsities, in two ways that take as many steps: all at once and trained on, or gradually, where
`surgery.configure` raises the sparsity before each step along a cubic curve (Zhu and Gupta, "To prune, or not to
prune", 2017, arXiv:1710.01878, equation 1). What is masked keeps its raw, so that a weight can come back while the mask
still moves.

The first convolution has one input, which makes no four, and stays dense. Figures are medians over three seeds, which
differ in the dense network they start from; batches come in the same order for all.

Run ``python examples/digits_two_four.py [picture.png]``; it needs scikit-learn, and for the
picture matplotlib, both of the extra ``examples``.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from textwrap import fill

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import surgery

PRUNED = "{conv2,hidden,head}.weight"
TWO_FOUR = {PRUNED: "n_m(2, 4)"}
SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.98)
SEEDS, EPOCHS, FINE_TUNED, BATCH = 3, 12, 8, 64
RISING = 0.7  # the part of fine-tuning in which a gradual sparsity grows
TRAINED = 1400  # of 1797 pictures; the others test
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "digits_two_four.png"
TEXT, PATTERN = "#222222", "#b8860b"
WAYS = {  # fields of a curve: how they are called and drawn
    "at_once": ("pruned at once, not trained on", "#9a9a9a", "o:"),
    "tuned": ("pruned at once, trained on", "#7da7d0", "s-"),
    "gradual": ("pruned gradually while trained on", "#1f5fa8", "D-"),
}


class Network(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 16, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, 10) of pictures (n, 1, 8, 8)."""
        maps = F.max_pool2d(F.relu(self.conv1(pixels)), 2)
        return self.head(F.relu(self.hidden(F.relu(self.conv2(maps)).flatten(1))))


@dataclass(frozen=True)
class Curve:
    """Shares of test pictures read rightly, for each sparsity: pruned at once, then trained on; pruned gradually."""

    at_once: tuple[float, ...]
    tuned: tuple[float, ...]
    gradual: tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """What one seed came to, each before and after it was trained on: dense, two of four, by sparsity."""

    dense: tuple[float, float]
    two_four: tuple[float, float]
    curve: Curve


def data() -> tuple[Tensor, Tensor]:
    """1797 pictures of digits (n, 1, 8, 8) between 0 and 1, and what they are; always in the same order."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return pixels[order], torch.tensor(digits.target)[order]


def train(model: nn.Module, epochs: int, *, lr: float, before_step: Callable[[float], object] | None = None) -> None:
    """Adam; ``before_step`` is called with the part of the steps that are done."""
    pixels, labels = (part[:TRAINED] for part in data())
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    order = torch.Generator().manual_seed(epochs)
    batches = [batch for _ in range(epochs) for batch in torch.randperm(TRAINED, generator=order).split(BATCH)]
    model.train()
    for step, batch in enumerate(batches):
        if before_step is not None:
            before_step(step / len(batches))
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
    train(model, epochs, lr=3e-3)
    return model


def pruned(dense: nn.Module, rules: Mapping[str, str], epochs: int = FINE_TUNED) -> tuple[nn.Module, float, float]:
    """A copy under these rules, trained on and baked, with its accuracy before and after."""
    model = surgery.apply_constraints(copy.deepcopy(dense), rules).eval()
    at_once = accuracy(model)
    train(model, epochs, lr=1e-3)
    return surgery.bake(model), at_once, accuracy(model)


def sparsity_at(done: float, target: float) -> float:
    """The sparsity once a part of the steps is done: from none, fast at first, to ``target``, where it stays."""
    return target * (1 - (1 - min(1.0, done / RISING)) ** 3)


def gradually_pruned(dense: nn.Module, sparsity: float, epochs: int = FINE_TUNED) -> nn.Module:
    """A copy whose masks grow while it is trained on, baked."""
    model = surgery.apply_constraints(copy.deepcopy(dense), {PRUNED: "mask(0.0)"})

    def raise_sparsity(done: float) -> None:
        surgery.configure(model, PRUNED, sparsity=sparsity_at(done, sparsity))

    train(model, epochs, lr=1e-3, before_step=raise_sparsity)
    return surgery.bake(model)


def fit(seed: int, epochs: int = EPOCHS, fine_tuned: int = FINE_TUNED) -> Fit:
    """Train one dense network, and prune copies of it in every way."""
    dense = pretrained(seed, epochs)
    longer = copy.deepcopy(dense)
    train(longer, fine_tuned, lr=1e-3)
    by_size = [pruned(dense, {PRUNED: f"mask({sparsity})"}, fine_tuned)[1:] for sparsity in SPARSITIES]
    gradual = tuple(accuracy(gradually_pruned(dense, sparsity, fine_tuned)) for sparsity in SPARSITIES)
    curve = Curve(tuple(before for before, _ in by_size), tuple(after for _, after in by_size), gradual)
    return Fit((accuracy(dense), accuracy(longer)), pruned(dense, TWO_FOUR, fine_tuned)[1:], curve)


def groups_of_four(weight: Tensor) -> Tensor:
    """Neighbours among the inputs of a weight (out, in, ...): (groups, 4)."""
    return weight.detach().movedim(1, -1).reshape(-1, 4)


def as_matrix(weight: Tensor) -> Tensor:
    """The weight (out, in, ...) with each four in a row, as kernels for this pattern want it: (out, ... * in)."""
    return weight.detach().movedim(1, -1).flatten(1)


def taken_by_torch(weight: Tensor) -> str:
    """What `torch.sparse.to_sparse_semi_structured` makes of a baked weight in half precision, or why it does not."""
    try:
        return type(torch.sparse.to_sparse_semi_structured(as_matrix(weight).half())).__name__
    except RuntimeError as error:
        return str(error)


def print_counts(model: nn.Module) -> None:
    """Zeros, and groups with more than two others, of the baked layers; and whether torch packs them here."""
    print(f"{'baked':<16}{'shape':>18}{'numbers':>9}{'zeros':>8}{'groups':>8}{'over 2 of 4':>13}")
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.dim() > 1]
    for name, weight in weights:
        start = f"{name:<16}{'x'.join(map(str, weight.shape)):>18}{weight.numel():>9,}{int((weight == 0).sum()):>8,}"
        if weight.shape[1] % 4:
            print(f"{start}{'-':>8}{'dense':>13}")
            continue
        groups = groups_of_four(weight)
        print(f"{start}{len(groups):>8,}{int(((groups != 0).sum(1) > 2).sum()):>13}")
    taken = taken_by_torch(dict(weights)["hidden.weight"])
    print("\n" + fill(f"to_sparse_semi_structured of the hidden layer: {taken}", 80, subsequent_indent="  "))


def print_table(fits: Sequence[Fit]) -> None:
    """Medians over the seeds."""
    print(f"{'medians of ' + str(len(fits)) + ' seeds':<40}{'at once':>10}{'trained on':>12}{'gradually':>11}")

    def line(text: str, *figures: Callable[[Fit], float]) -> None:
        cells = [f"{median(figure(each) for each in fits):.1%}" for figure in figures]
        print(f"{text:<40}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, (10, 12, 11), strict=False)))

    line("dense", *(lambda each, at=at: each.dense[at] for at in (0, 1)))
    line("2 of 4 zero, n_m(2, 4)", *(lambda each, at=at: each.two_four[at] for at in (0, 1)))
    for index, sparsity in enumerate(SPARSITIES):
        ways = [lambda each, way=way, at=index: getattr(each.curve, way)[at] for way in WAYS]
        line(f"{sparsity:.0%} zero, mask({sparsity})", *ways)


def draw(fits: Sequence[Fit], picture: Path) -> None:
    """Draw the accuracy by sparsity."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained", dpi=100)
    places = range(len(SPARSITIES))
    for way, (label, color, style) in WAYS.items():
        middle = [median(getattr(each.curve, way)[at] for each in fits) for at in places]
        axes.plot(places, middle, style, color=color, linewidth=2, markersize=5, label=label)
        for each in fits:
            axes.plot(places, getattr(each.curve, way), style[0], color=color, markersize=3, alpha=0.35)
    half = SPARSITIES.index(0.5)
    before, after = (median(each.two_four[at] for each in fits) for at in (0, 1))
    dense = median(each.dense[1] for each in fits)
    axes.axhline(dense, color=TEXT, linewidth=1, linestyle="--", label="dense, trained on as long")
    axes.plot([half], [before], "*", color=PATTERN, markersize=13, label="2:4 at once", markerfacecolor="white")
    axes.plot([half], [after], "*", color=PATTERN, markersize=13, label="2:4 trained on")
    axes.set(xlabel="share of zeros in three of four layers", ylabel="share of test pictures read rightly")
    axes.set_xticks(list(places), [f"{sparsity:.0%}" for sparsity in SPARSITIES])
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    axes.set_ylim(0, 1.02)
    at = SPARSITIES.index(0.95)
    tuned, gradual = (median(getattr(each.curve, way)[at] for each in fits) for way in ("tuned", "gradual"))
    axes.set_title(
        f"Digits: dense {dense:.1%}, two of four {after:.1%}; "
        f"with 95% zeros gradually {gradual:.0%}, at once {tuned:.0%}"
    )
    axes.legend(loc="lower left", frameon=False)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def main(picture: Path = PICTURE, seeds: int = SEEDS, epochs: int = EPOCHS, fine_tuned: int = FINE_TUNED) -> None:
    """Plan, prune, count; then all seeds, the table and the picture."""
    dense = pretrained(0, epochs)
    print(surgery.plan(dense, TWO_FOUR), end="\n\n")
    print_counts(pruned(dense, TWO_FOUR, fine_tuned)[0])
    fits = [fit(seed, epochs, fine_tuned) for seed in range(seeds)]
    print()
    print_table(fits)
    draw(fits, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the batches are small
    main(*map(Path, sys.argv[1:2]))
