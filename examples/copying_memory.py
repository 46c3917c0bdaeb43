"""The copying-memory task: a recurrent net has to keep ten symbols in mind while nothing happens, then say them.

A sequence is ten random symbols out of eight, ``DELAY`` blanks, of which the last is a cue, and ten blanks, in which
the symbols have to be said in their order. Whoever remembers nothing says blanks, then guesses: a loss of
``10 log 8 / (DELAY + 20)``. Gradients must pass through the delay, where powers of ``weight_hh`` shrink or blow up
unless it is orthogonal, which is what the rule ``{"*weight_hh*": "orthogonal"}`` keeps it at every step of Adam.

Nets of the same size learn from the same sequences by Adam, with gradients clipped to a norm of 1 (Arjovsky, Shah and
Bengio, "Unitary evolution recurrent neural networks", 2016, arXiv:1511.06464, section 5.1; modReLU is theirs):

* orthogonal: starts orthogonal, by the rule it stays so;
* free: starts at the very same numbers, without the rule;
* both once more where ``weight_hh`` takes steps of a fifth;
* free, torch's start: starts as ``nn.RNN`` does, which forgets.

What loses: torch's start learns nothing but the guess. At the larger steps the rule lowers the loss on each seed, and
halves its median; at the smaller ones the free net stays near its orthogonal start by itself: the medians are close,
only its seeds lie further apart. So the start is the larger half of the matter, and the rule makes it last. The rule
costs about a fifth more time a step at this size.

Run ``python examples/copying_memory.py [picture.png]``; the picture needs matplotlib, of the extra ``examples``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery

RULES = {"*weight_hh*": "orthogonal"}
SYMBOLS, COPIED = 8, 10
BLANK, CUE = SYMBOLS, SYMBOLS + 1
DELAY = 100
HIDDEN = 64
BATCH = 20
STEPS = 250
SEEDS = (0, 1, 2)
SMOOTHED = 20  # steps that one point of a drawn or printed loss is the mean of
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "copying_memory.png"


@dataclass(frozen=True)
class Variant:
    """How one net starts and trains, and how it is drawn."""

    colour: str
    constrained: bool = False
    orthogonal_start: bool = True
    rate: float = 1e-3  # of weight_hh; the rest learns at 5e-3
    line: str = "-"


VARIANTS = {
    "orthogonal": Variant("#1f5fa8", constrained=True),
    "free": Variant("#c0392b"),
    "orthogonal, small steps": Variant("#1f5fa8", constrained=True, rate=2e-4, line=":"),
    "free, small steps": Variant("#c0392b", rate=2e-4, line=":"),
    "free, torch's start": Variant("#777777", orthogonal_start=False),
}


@dataclass(frozen=True)
class Run:
    """What one training came to: losses, the worst distance from orthogonality on the way, and the net at the end."""

    losses: list[float] = field(default_factory=list)
    error: float = 0.0
    recalled: float = 0.0
    gradients: list[float] = field(default_factory=list)
    singular_values: list[float] = field(default_factory=list)

    @property
    def final(self) -> float:
        """The mean loss of the last steps."""
        return mean(self.losses[-SMOOTHED:])


class Recurrent(nn.Module):
    """``h = modReLU(W_ih x + W_hh h)``, read out at every step; it knows nothing of constraints."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(CUE + 1, hidden)
        self.weight_hh = nn.Parameter(torch.empty(hidden, hidden))
        self.threshold = nn.Parameter(torch.empty(hidden).uniform_(-0.01, 0.01))
        self.readout = nn.Linear(hidden, BLANK + 1)
        nn.init.uniform_(self.weight_hh, -(hidden**-0.5), hidden**-0.5)

    def states(self, inputs: Tensor) -> list[Tensor]:
        """The hidden state (batch, hidden) after each step of the inputs (length, batch, 10)."""
        driven = self.input(inputs)
        state = torch.zeros_like(driven[0])
        states = []
        for drive in driven:
            moved = drive + F.linear(state, self.weight_hh)
            state = moved.sign() * F.relu(moved.abs() + self.threshold)
            states.append(state)
        return states

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (length, batch, 9)."""
        return self.readout(torch.stack(self.states(inputs)))


def sequences(count: int, delay: int) -> tuple[Tensor, Tensor]:
    """Inputs, one-hot (delay + 20, count, 10), and what to say (delay + 20, count)."""
    shown = torch.full((delay + 2 * COPIED, count), BLANK)
    said = shown.clone()
    symbols = torch.randint(SYMBOLS, (COPIED, count))
    shown[:COPIED] = said[-COPIED:] = symbols
    shown[COPIED + delay - 1] = CUE
    return F.one_hot(shown, CUE + 1).float(), said


def baseline(delay: int) -> float:
    """The loss of whoever remembers nothing."""
    return COPIED * math.log(SYMBOLS) / (delay + 2 * COPIED)


def distance_from_orthogonal(matrix: Tensor) -> float:
    """The largest entry of ``|WᵀW - I|``, in float64."""
    exact = matrix.detach().double()
    return (exact.T @ exact - torch.eye(len(exact), dtype=torch.double)).abs().max().item()


def gradient_norms(net: Recurrent, delay: int) -> list[float]:
    """The norm of the gradient by each hidden state of the loss of the recall, over that by the last one before it."""
    inputs, said = sequences(BATCH, delay)
    states = net.states(inputs)
    loss = F.cross_entropy(net.readout(torch.stack(states[-COPIED:])).flatten(0, 1), said[-COPIED:].flatten())
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(loss, states[:-COPIED])]
    return [norm / norms[-1] for norm in norms]


def recall(net: Recurrent, delay: int) -> float:
    """The share of symbols that are said right, on 200 new sequences."""
    inputs, said = sequences(200, delay)
    with torch.no_grad():
        return (net(inputs)[-COPIED:].argmax(-1) == said[-COPIED:]).double().mean().item()


def train(variant: Variant, seed: int, *, steps: int = STEPS, delay: int = DELAY, hidden: int = HIDDEN) -> Run:
    """Train one net on new sequences at each step; all variants of a seed see the same ones."""
    torch.manual_seed(seed)
    net = Recurrent(hidden)
    start = nn.init.orthogonal_(torch.empty(hidden, hidden))
    if variant.orthogonal_start:
        with torch.no_grad():
            net.weight_hh.copy_(start)
    if variant.constrained:
        surgery.apply_constraints(net, RULES)
    recurrent = {id(parameter) for name, parameter in net.named_parameters() if "weight_hh" in name}
    groups = [
        {"params": [each for each in net.parameters() if id(each) not in recurrent]},
        {"params": [each for each in net.parameters() if id(each) in recurrent], "lr": variant.rate},
    ]
    optimizer = torch.optim.Adam(groups, lr=5e-3)
    losses, errors = [], []
    for _ in range(steps):
        inputs, said = sequences(BATCH, delay)
        loss = F.cross_entropy(net(inputs).flatten(0, 1), said.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        errors.append(distance_from_orthogonal(net.weight_hh))
    net.eval()
    singular_values = torch.linalg.svdvals(net.weight_hh.detach().double()).tolist()
    return Run(losses, max(errors), recall(net, delay), gradient_norms(net, delay), singular_values)


def print_table(runs: Mapping[str, Sequence[Run]], delay: int = DELAY) -> None:
    """A line for each variant: losses, what is recalled, how singular values and gradients ended."""
    count = len(next(iter(runs.values())))
    print(f"loss at the end, of {count} seeds; without a memory it is {baseline(delay):.3f}")
    print(f"{'':<25}{'median':>8}{'least':>8}{'largest':>9}{'recalled':>10}{'singular values':>17}")
    for name, several in runs.items():
        ends = [run.final for run in several]
        spread = f"{min(run.singular_values[-1] for run in several):.3f} to "
        spread += f"{max(run.singular_values[0] for run in several):.3f}"
        line = f"{name:<25}{median(ends):8.3f}{min(ends):8.3f}{max(ends):9.3f}"
        print(f"{line}{median(run.recalled for run in several):10.0%}{spread:>17}")
    print("\ngradient by the first state over that by the last before the recall, median:")
    for name, several in runs.items():
        print(f"  {name:<25}{median(run.gradients[0] for run in several):10.1e}")
    for name, several in runs.items():
        if VARIANTS[name].constrained:
            print(f"{name}: |W'W - I| over all steps at most {max(run.error for run in several):.0e}")


def draw(runs: Mapping[str, Sequence[Run]], picture: Path, delay: int = DELAY) -> None:
    """Draw losses, gradients through time and singular values."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(9, 7), layout="constrained", dpi=100)
    panels = figure.subplot_mosaic([["loss", "loss"], ["gradient", "values"]], height_ratios=(5, 4))
    for name, several in runs.items():
        colour, line = VARIANTS[name].colour, VARIANTS[name].line
        points = range(0, len(several[0].losses), SMOOTHED)
        smooth = [[mean(run.losses[step : step + SMOOTHED]) for step in points] for run in several]
        middle = [median(losses) for losses in zip(*smooth, strict=True)]
        for losses in smooth:
            panels["loss"].semilogy(points, losses, color=colour, linestyle=line, linewidth=0.7, alpha=0.45)
        panels["loss"].semilogy(points, middle, color=colour, linestyle=line, linewidth=2.2, label=name)
        norms = [median(column) for column in zip(*(run.gradients for run in several), strict=True)]
        panels["gradient"].semilogy(range(1, len(norms) + 1), norms, color=colour, linestyle=line, linewidth=1.8)
        values = [median(column) for column in zip(*(run.singular_values for run in several), strict=True)]
        panels["values"].plot(range(1, len(values) + 1), values, color=colour, linestyle=line, linewidth=1.8)
    panels["loss"].axhline(baseline(delay), color="#222222", linestyle="--", linewidth=1, label="without a memory")
    panels["loss"].set(xlabel="step of Adam", ylabel="cross-entropy (log)")
    panels["loss"].set_title(f"Copying ten symbols over {delay} blanks: orthogonal learns it on every seed")
    panels["loss"].legend(loc="lower left", frameon=False, ncols=2)
    panels["gradient"].set(xlabel="time of the hidden state", ylabel="gradient of the recall, relative")
    panels["gradient"].set_title("At the end: gradients through time", fontsize=10)
    panels["values"].set(xlabel="index", ylabel="singular value", ylim=(0, None))
    panels["values"].set_title("At the end: singular values of weight_hh", fontsize=10)
    for axes in panels.values():
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def main() -> None:
    """Train all variants on all seeds, print the table, draw the picture."""
    torch.set_num_threads(1)
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    runs = {name: [train(variant, seed) for seed in SEEDS] for name, variant in VARIANTS.items()}
    print_table(runs)
    draw(runs, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
