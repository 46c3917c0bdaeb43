"""A Linear whose weight has spectral norm 1 learns a target of spectral norm 1: the experiment of the essay.

Thomas Viehmann's "Computed Parameters" (lernapparat.de/computed-parameters, 2020) fits a Linear from 3 to 4 under a
spectral norm to a target of norm 1, by 1000 steps of SGD with a learning rate of 0.1, and prints the loss every 100
steps. Here it is done again with `surgery.constrain`, and set beside the published losses. The choices made:

* target ``T`` (4, 3): standard normal entries, divided by its spectral norm;
* start: standard normal entries, whose spectral norm is about 3. The raw begins there; the value is the raw divided by
  its norm ``s``, so a step of SGD moves the value by ``1 / s**2`` of what it would move a plain weight. The start
  therefore decides the speed, and the figures are medians over several starts;
* data: a new batch of 16 standard normal inputs ``x`` at each step, compared with ``x T'`` by the mean squared error.

Run ``python examples/spectral_target.py [picture.png]``; the picture needs matplotlib, of the extra ``examples``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery

PUBLISHED = (0.986, 0.253, 0.123, 0.054, 0.035, 0.014, 0.0096, 0.0021, 0.0014, 0.0004)
PUBLISHED_ERROR = 0.02
STEPS = 1000
EVERY = 100
STARTS = 11
BATCH = 16
SMOOTHED = 10  # steps that one point of a drawn loss is the mean of
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "spectral_target.png"
OURS, RAW, TEXT, MUTED = "#1f5fa8", "#b8860b", "#222222", "#9db7d5"


@dataclass(frozen=True)
class Fit:
    """What one start came to: loss and largest singular values before each step, and the largest error at the end."""

    losses: list[float] = field(default_factory=list)
    of_value: list[float] = field(default_factory=list)
    of_raw: list[float] = field(default_factory=list)
    error: float = 0.0


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value, by SVD."""
    return torch.linalg.matrix_norm(matrix.detach(), 2).item()


def fit(seed: int, steps: int = STEPS) -> Fit:
    """Train one start. The weight is read twice a step, by the Linear and to measure it, and computed once."""
    torch.manual_seed(seed)
    target = torch.randn(4, 3)
    target /= spectral_norm(target)
    linear = nn.Linear(3, 4)
    nn.init.normal_(linear.weight)
    surgery.constrain(linear, weight="spectral(norm=1.0)")
    raw = surgery.computed_parameters(linear)["weight"].raws["raw"]

    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    losses, of_value, of_raw = [], [], []
    for _ in range(steps):
        inputs = torch.randn(BATCH, 3)
        loss = F.mse_loss(linear(inputs), inputs @ target.T)
        losses.append(loss.item())
        of_value.append(spectral_norm(linear.weight))
        of_raw.append(spectral_norm(raw))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    linear.eval()
    return Fit(losses, of_value, of_raw, (linear.weight - target).abs().max().item())


def print_table(fits: Sequence[Fit]) -> None:
    """Published losses beside the median, the least and the largest of ours."""
    print(f"{'step':>6}{'published':>12}{'ours, median':>15}{'least':>11}{'largest':>11}")
    for index, published in enumerate(PUBLISHED):
        losses = [one.losses[index * EVERY] for one in fits]
        print(f"{index * EVERY:6}{published:12.4f}{median(losses):15.4f}{min(losses):11.1e}{max(losses):11.1e}")
    errors = [one.error for one in fits]
    inside = sum(error < PUBLISHED_ERROR for error in errors)
    print(f"\nlargest error of an entry at the end: median {median(errors):.1e} (published: within {PUBLISHED_ERROR});")
    print(f"{inside} of {len(fits)} starts are within {PUBLISHED_ERROR}, the larger the norm of the start, the slower:")
    for one in sorted(fits, key=lambda one: one.of_raw[0]):
        print(f"  start of norm {one.of_raw[0]:.2f}   error {one.error:.1e}")
    furthest = max(abs(value - 1) for one in fits for value in one.of_value)
    print(f"largest singular value of the value, over all steps: 1 to within {furthest:.0e}")


def draw(fits: Sequence[Fit], picture: Path) -> None:
    """Draw losses and largest singular values."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 6.4), sharex=True, height_ratios=(3, 2), layout="constrained", dpi=100
    )
    steps = range(len(fits[0].losses))
    thinned = steps[::SMOOTHED]
    smooth = [[mean(one.losses[step : step + SMOOTHED]) for step in thinned] for one in fits]
    for index, one in enumerate(fits):
        above.semilogy(thinned, smooth[index], color=MUTED, linewidth=0.9, label=None if index else "each start")
        below.plot(steps, one.of_raw, color=RAW, linewidth=0.9, label=None if index else "raw, each start")
        below.plot(steps, one.of_value, color=OURS, linewidth=2, label=None if index else "value, every start")
    medians = [median(losses) for losses in zip(*smooth, strict=True)]
    above.semilogy(thinned, medians, color=OURS, linewidth=2, label=f"median of {len(fits)} starts")
    above.plot(range(0, STEPS, EVERY), PUBLISHED, "o", color=TEXT, clip_on=False, zorder=3, label="published")
    above.set(ylabel="mean squared error (log)", ylim=(1e-6, 4))
    above.set_title("A Linear from 3 to 4 under a spectral norm of 1 learns a target of norm 1")
    top = 1.25 * max(max(one.of_raw) for one in fits)
    below.set(ylabel="largest singular value", xlabel="step of SGD", xlim=(0, len(steps)), ylim=(0, top))
    above.legend(loc="lower left", frameon=False)
    below.legend(loc="upper right", frameon=False, ncols=2)
    for axes in (above, below):
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def main() -> None:
    """Fit all starts, print the table, draw the picture."""
    torch.set_num_threads(1)
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    fits = [fit(seed) for seed in range(STARTS)]
    print_table(fits)
    draw(fits, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
