"""Weights that are drawn anew at each read: uncertainty, and gates that learn to be zero, on nets that exist already.

Two constraints that are not in the catalogue, each a class of a few lines with ``stochastic = True``: a read in train
mode is a sample, a read in eval is one fixed value, which is held.

* `Gaussian` (Bayes by backprop): every weight is a normal distribution with a trained mean and deviation; the value in
  eval is the mean. Laid by one rule on a small net that was fitted to points with a gap between them, and trained on by
  the evidence lower bound, its samples agree at the points and part where there were none; the net alone, whose
  weights are its means, draws one line through the gap and says nothing of it.
* `HardConcrete` (L0 regularisation): columns of a weight times gates that are exactly zero or one with some
  probability, which is trained; in eval a gate is what the paper uses, exactly zero or one for most. By one rule on a
  net that reads scikit-learn's digits it chooses pixels and hidden units. Beside it stands ``mask(..., dim=1)`` of the
  catalogue, which keeps as many columns, the longest, and is trained on for as long.

At insertion both keep the pretrained weight, bit for bit in eval. What loses: where there are points the normal weights
do, to the plain net, whose likelihood is higher there, since their band is too wide; in the gap, where they win, it is
too narrow on one seed of three. Gates are worth it where few columns stay; where many may, the longest ones do as well,
without a price to be found by trying (at three times the highest one all gates close).

Reference: Blundell et al., "Weight uncertainty in neural networks", 2015 (arXiv:1505.05424), section 3; Louizos,
Welling and Kingma, "Learning sparse neural networks through L0 regularization", 2018 (arXiv:1712.01312), section 2.

Run ``python examples/stochastic_weights.py [picture.png]``; it needs scikit-learn, and for the
picture matplotlib, both of the extra ``examples``.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import ClassVar

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import computed
import surgery
from computed.constraint import Preimage, Role
from computed.parameter import ComputedParameter

NOISE = 0.05  # of the points on the curve
PRIOR = 1.0
GAP = (-0.2, 0.6)  # where there are no points
POINTS, PRETRAINING, STEPS, DRAWS = 48, 800, 1500, 4
TRAINED, EPOCHS, BATCH = 1400, 12, 64  # of 1797 pictures; the others test
PRICES = (0.01, 0.03, 0.1)  # of an open gate, beside the mean cross-entropy
SEEDS = (0, 1, 2)
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1  # beta, gamma and zeta of the paper
OPEN = 3.0  # log alpha of a gate that is one in eval, and mostly in training
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "stochastic_weights.png"


class Gaussian(computed.Constraint):
    """``value = mu + softplus(rho) eps`` with ``eps`` drawn at each read in training; ``mu`` in eval."""

    roles: ClassVar[tuple[Role, ...]] = (Role("mu"), Role("rho"))
    stochastic: ClassVar[bool] = True

    def __init__(self, start: float = 0.02) -> None:
        super().__init__()
        self.start = start

    def forward(self, mu: Tensor, rho: Tensor) -> Tensor:
        """A sample, or the mean."""
        return mu + F.softplus(rho) * torch.randn_like(mu) if self.training else mu * 1

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as mean, and a small deviation."""
        return Preimage((value, torch.full_like(value, math.log(math.expm1(self.start)))))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is a mean."""
        return 0.0


class HardConcrete(computed.Constraint):
    """``value = raw z`` with one gate ``z`` between 0 and 1 for each column of ``raw`` (out, in).

    In training ``z`` is drawn at each read: a sigmoid of ``log_alpha`` (in) and noise, stretched, and cut off.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role("raw"), Role("log_alpha"))
    stochastic: ClassVar[bool] = True

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number for each column."""
        return shape, shape[1:]

    def forward(self, raw: Tensor, log_alpha: Tensor) -> Tensor:
        """The gated weight."""
        if self.training:
            uniform = torch.rand_like(log_alpha).clamp(1e-6, 1 - 1e-6)
            concrete = torch.sigmoid((torch.logit(uniform) + log_alpha) / TEMPERATURE)
        else:
            concrete = torch.sigmoid(log_alpha)
        return raw * stretched(concrete)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value, and gates that are open."""
        return Preimage((value, value.new_full(value.shape[1:], OPEN)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is admissible."""
        return 0.0


def stretched(concrete: Tensor) -> Tensor:
    """From between 0 and 1 to between ``LOW`` and ``HIGH``, cut off at 0 and 1, which are then met exactly."""
    return (LOW + (HIGH - LOW) * concrete).clamp(0, 1)


def gates(parameter: ComputedParameter) -> Tensor:
    """The gates in eval."""
    return stretched(torch.sigmoid(parameter.raws["log_alpha"].detach()))


def of_kind(model: nn.Module, kind: type[computed.Constraint]) -> Iterator[ComputedParameter]:
    """The computed parameters with this constraint."""
    found = surgery.computed_parameters(model).values()
    return (parameter for parameter in found if isinstance(parameter.constraints[0], kind))


def divergence(model: nn.Module, prior: float = PRIOR) -> Tensor:
    """The Kullback-Leibler divergence of all normal weights from independent ``Normal(0, prior)``."""
    total = torch.zeros(())
    for parameter in of_kind(model, Gaussian):
        mean, deviation = parameter.raws["mu"], F.softplus(parameter.raws["rho"])
        ratio = (deviation.square() + mean.square()) / prior**2
        total = total + 0.5 * (ratio - 1 - 2 * (deviation / prior).log()).sum()
    return total


def expected_open(model: nn.Module) -> Tensor:
    """How many gates are not zero, in the mean over the noise: a differentiable count."""
    shift = TEMPERATURE * math.log(-LOW / HIGH)
    found = [torch.sigmoid(each.raws["log_alpha"] - shift).sum() for each in of_kind(model, HardConcrete)]
    return torch.stack(found).sum()


# a line with an uncertain part


def curve(x: Tensor) -> Tensor:
    """What the points lie on."""
    return 0.5 * torch.sin(4 * x) + 0.3 * x


def points(seed: int = 0) -> tuple[Tensor, Tensor]:
    """``x`` and ``y`` (n, 1), with a gap between them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.linspace(-1, GAP[0], POINTS // 2), torch.linspace(GAP[1], 1, POINTS // 2)])[:, None]
    return x, curve(x) + NOISE * torch.randn(x.shape, generator=generator)


def between(x: Tensor) -> Tensor:
    """Which ``x`` lie in the gap."""
    return (x > GAP[0]) & (x < GAP[1])


def fitted_line(seed: int = 0, steps: int = PRETRAINING) -> nn.Sequential:
    """A plain net, fitted by least squares; it knows nothing of constraints."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = points()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return model


def with_uncertainty(model: nn.Module, seed: int = 0, steps: int = STEPS) -> nn.Module:
    """Every weight and bias a normal distribution, by one rule; trained by the evidence lower bound."""
    torch.manual_seed(seed)
    surgery.apply_constraints(model, {"*": Gaussian()}).train()
    x, y = points()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(steps):
        optimizer.zero_grad()
        # each forward draws every weight once for all points; the gradients of several forwards add up
        for _ in range(DRAWS):
            misfit = (model(x) - y).square().sum() / (2 * NOISE**2)
            (misfit / DRAWS).backward()
        divergence(model).backward()
        optimizer.step()
    return model


def answers(model: nn.Module, x: Tensor, draws: int = 200) -> Tensor:
    """What samples of the net say at ``x``, without the noise of the points: (draws, n, 1)."""
    model.train()
    with torch.no_grad():
        drawn = torch.stack([model(x) for _ in range(draws)])
    model.eval()
    return drawn


def log_likelihood(drawn: Tensor, y: Tensor) -> Tensor:
    """Of each ``y`` (n, 1), under the mixture of normal distributions around the answers (draws, n, 1)."""
    parts = torch.distributions.Normal(drawn, NOISE).log_prob(y)
    return parts.logsumexp(0) - math.log(len(drawn))


@dataclass(frozen=True)
class Line:
    """A fit of the line: the mean log likelihood of new points where there were points, and in the gap."""

    model: nn.Module
    at_points: float
    in_gap: float


def lines(seed: int) -> tuple[Line, Line]:
    """The plain net, and the same with uncertainty."""
    x = torch.linspace(-1, 1, 401)[:, None]
    y = curve(x) + NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(100))
    plain = fitted_line(seed)
    uncertain = with_uncertainty(copy.deepcopy(plain), seed)
    found = []
    for model, draws in ((plain, 1), (uncertain, 200)):
        each = log_likelihood(answers(model, x, draws), y)
        found.append(Line(model, each[~between(x)].mean().item(), each[between(x)].mean().item()))
    return found[0], found[1]


# digits with gates


@dataclass(frozen=True)
class Gated:
    """What became of one way: columns left in each layer, the share of test pictures that is read rightly."""

    name: str
    left: tuple[int, ...]
    right: float
    model: nn.Module


def digits() -> tuple[Tensor, Tensor]:
    """1797 pictures (n, 64) between 0 and 1, and what they are; always in the same order."""
    given = load_digits()
    order = torch.randperm(len(given.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(given.data, dtype=torch.float32)[order] / 16, torch.tensor(given.target)[order]


def train(model: nn.Module, seed: int, epochs: int, price: float = 0.0) -> nn.Module:
    """By the mean cross-entropy, and a price for each gate that is open."""
    pixels, labels = (part[:TRAINED] for part in digits())
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(
        [
            {"params": [p for name, p in model.named_parameters() if "log_alpha" not in name], "lr": 3e-3},
            {"params": [p for name, p in model.named_parameters() if "log_alpha" in name], "lr": 3e-2},
        ]
    )
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(TRAINED).split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(pixels[batch]), labels[batch])
            if price:
                loss = loss + price * expected_open(model)
            loss.backward()
            optimizer.step()
    return model.eval()


def reader(seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
    """A plain net that reads digits, trained."""
    torch.manual_seed(seed)
    return train(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), seed, epochs
    )


def columns_left(model: nn.Module) -> tuple[int, ...]:
    """How many columns of each weight are not zero, in eval."""
    weights = (layer.weight for layer in model if isinstance(layer, nn.Linear))
    return tuple(int((weight.detach() != 0).any(0).sum()) for weight in weights)


def judged(name: str, model: nn.Module) -> Gated:
    """Count and test it."""
    pixels, labels = (part[TRAINED:] for part in digits())
    with torch.no_grad():
        right = (model.eval()(pixels).argmax(1) == labels).double().mean().item()
    return Gated(name, columns_left(model), right, model)


def gated(base: nn.Module, price: float, seed: int = 0, epochs: int = 2 * EPOCHS) -> Gated:
    """Gates on all columns by one rule, trained at this price."""
    model = surgery.apply_constraints(copy.deepcopy(base), {"*.weight": HardConcrete})
    return judged(f"gates, price {price:g}", train(model, seed, epochs, price))


def masked(base: nn.Module, left: Sequence[int], seed: int = 0, epochs: int = 2 * EPOCHS) -> Gated:
    """The longest columns stay, as many as ``left`` says for each layer; trained on for as long."""
    layers = {name: layer for name, layer in base.named_children() if isinstance(layer, nn.Linear)}
    rules = {
        f"{name}.weight": f"mask({1 - count / layer.in_features}, dim=1)"
        for (name, layer), count in zip(layers.items(), left, strict=True)
        if count < layer.in_features
    }
    model = surgery.apply_constraints(copy.deepcopy(base), rules) if rules else copy.deepcopy(base)
    return judged("  as many, longest", train(model, seed, epochs))


def choices(seed: int) -> list[Gated]:
    """The plain net that reads digits, and for each price gates and the longest columns, as many of them."""
    base = reader(seed)
    found = [judged("plain", base)]
    for price in PRICES:
        found.append(gated(base, price, seed))
        found.append(masked(base, found[-1].left, seed))
    return found


def print_tables(fits: Sequence[tuple[Line, Line]], chosen: Sequence[Sequence[Gated]]) -> None:
    """Medians over the seeds."""
    print(f"mean log likelihood of new points, medians of {len(fits)} seeds{'at points':>15}{'in the gap':>12}")
    for name, several in zip(("plain net", "normal weights, 200 samples"), zip(*fits, strict=True), strict=True):
        at_points, in_gap = median(each.at_points for each in several), median(each.in_gap for each in several)
        print(f"{name:<54}{at_points:>12.2f}{in_gap:>12.2f}")
    print(f"\ndigits, medians of {len(chosen)} seeds{'columns left':>24}{'right':>9}")
    for several in zip(*chosen, strict=True):
        left = [int(median(counts)) for counts in zip(*(each.left for each in several), strict=True)]
        right = median(each.right for each in several)
        print(f"{several[0].name:<28}{' '.join(f'{count:>4}' for count in left):>24}{right:>9.3f}")


def draw(fits: Sequence[tuple[Line, Line]], chosen: Sequence[Sequence[Gated]], picture: Path) -> None:
    """Samples of the line, and the gates of the pixels."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no picture: matplotlib is not installed")
        return

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", dpi=100, width_ratios=(6, 4))
    x = torch.linspace(-1.2, 1.2, 241)[:, None]
    plain, uncertain = fits[0]
    drawn = answers(uncertain.model, x)[..., 0]
    left.plot(x, drawn[:40].T, color="#7da7d0", linewidth=0.5, alpha=0.6)
    mean, deviation = drawn.mean(0), drawn.std(0)
    left.fill_between(
        x[:, 0], mean - 2 * deviation, mean + 2 * deviation, color="#1f5fa8", alpha=0.15, linewidth=0, label="2 sigma"
    )
    left.plot(x, mean, color="#1f5fa8", label="mean of samples")
    with torch.no_grad():
        left.plot(x, plain.model(x), color="#b8860b", label="plain net")
    left.plot(x, curve(x), color="#222222", linewidth=1, linestyle="--", label="the curve")
    left.plot(*points(), ".", color="#222222", markersize=4)
    left.set(xlabel="x", ylabel="y", ylim=(-1.6, 1.6))
    left.set_title("Normal weights, by one rule: samples part where there are no points", fontsize=10)
    left.legend(loc="lower right", frameon=False, fontsize=8)
    last = chosen[0][-2]  # the gates of the highest price
    shown = gates(next(of_kind(last.model, HardConcrete))).reshape(8, 8)
    image = right.imshow(shown.numpy(), cmap="Blues", vmin=0, vmax=1)
    right.set_title(f"Gates of the pixels: {last.left[0]} of 64 open", fontsize=10)
    right.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=right, shrink=0.8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def main() -> None:
    """Fit all, print both tables, draw the picture."""
    torch.set_num_threads(1)
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    fits = [lines(seed) for seed in SEEDS]
    chosen = [choices(seed) for seed in SEEDS]
    print_tables(fits, chosen)
    draw(fits, chosen, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
