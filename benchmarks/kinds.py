"""Steps of training under other constraints, beside torch's own.

One step of SGD, by turns in one process, in random order within each round, on one thread. A figure is how many times
as long as the plain network: of the first quartiles, of the medians, and of the shortest samples.

torch's are `parametrizations.weight_norm` and `parametrizations.orthogonal`, `prune.l1_unstructured` for a mask of
entries, and `prune.ln_structured` for one of output channels: these multiply the weight by their mask at each forward.
Ours sets what is masked to zero, also a number that is none, and projects the weight at the start.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import surgery
from benchmarks import networks
from benchmarks.speed import figures
from benchmarks.timing import interleaved, machine, table
from benchmarks.variants import OURS, PLAIN, Variant
from benchmarks.workloads import images, rows, training

THEIRS = "torch"
Constrain = Callable[[nn.Module], object]


class Network(NamedTuple):
    """A network, the kind of its layers, its inputs, and how often it is timed."""

    title: str
    make: Callable[[], nn.Module]
    kind: type[nn.Module]
    draw: Callable[[], Tensor]
    calls: int
    rounds: int


def _wide() -> nn.Module:
    return nn.Sequential(nn.Linear(4096, 4096))


KINDS: dict[str, Constrain] = {
    "weight_norm": parametrizations.weight_norm,
    "mask(0.5)": partial(prune.l1_unstructured, name="weight", amount=0.5),
    "mask(0.5, dim=0)": partial(prune.ln_structured, name="weight", amount=0.5, n=2, dim=0),
    "orthogonal": parametrizations.orthogonal,
}
NETWORKS = (
    Network("12 x Linear(64), 64 rows", networks.perceptron, nn.Linear, rows(64, 64), 4, 61),
    Network(
        "Linear(4096, 4096), 16 rows", lambda: nn.Sequential(nn.Linear(4096, 4096)), nn.Linear, rows(16, 4096), 1, 21
    ),
    Network("ResNet-18, 64 px, batch 8", networks.resnet18, nn.Conv2d, images(8), 1, 31),
)
# a minute for one step of theirs, and of ours
SKIPPED = frozenset((("Linear(4096, 4096), 16 rows", "orthogonal"), ("ResNet-18, 64 px, batch 8", "orthogonal")))


def candidates(network: Network, spec: str, theirs: Constrain) -> dict[str, Callable[[], object]]:
    """Steps of the plain network, of ours and of torch's."""
    torch.manual_seed(0)
    plain = network.make()
    ours = surgery.apply_constraints(copy.deepcopy(plain), {f"*@{network.kind.__name__}.weight": spec}, keep_undo=False)
    other = copy.deepcopy(plain)
    for layer in [module for module in other.modules() if isinstance(module, network.kind)]:
        theirs(layer)
    step = training(network.draw)
    return {PLAIN: step(Variant(plain)), OURS: step(Variant(ours)), THEIRS: step(Variant(other))}


def main(rounds: int | None = None) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{machine()}.\n")
    lines = []
    for network in NETWORKS:
        for spec, theirs in KINDS.items():
            if (network.title, spec) in SKIPPED:
                continue
            made = candidates(network, spec, theirs)
            samples = interleaved(
                made, rounds=rounds or network.rounds, calls=network.calls, clock=time.thread_time, shuffled=True
            )
            found = figures(samples)
            ratios = [
                " / ".join(f"{found[name][f'{kind} ratio']:.2f}" for kind in ("quarter", "median", "least"))
                for name in (OURS, THEIRS)
            ]
            lines.append([f"{network.title}: {spec}", f"{found[PLAIN]['quarter ms']:.2f}", *ratios])
            print(f"({lines[-1][0]}: done)", file=sys.stderr, flush=True)
    print(table(("times plain: 25 % / median / least", "plain, ms", OURS, THEIRS), lines))


if __name__ == "__main__":
    main()
