"""The most memory that a step of training takes, plain and constrained.

The highest resident size of a process of its own for each candidate, after five steps of SGD on ResNet-18, images of
64 x 64, a batch of 8: what is added to the plain network's.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch
from torch import nn

from benchmarks import networks
from benchmarks.timing import machine, table
from benchmarks.variants import HOOKS, OURS, PLAIN, TORCH, spectral_variants
from benchmarks.workloads import images, training

CANDIDATES = (PLAIN, OURS, TORCH, HOOKS)
STEPS = 5


def peak(name: str, steps: int = STEPS) -> float:
    """The highest resident size of this process in MB, after some steps of one candidate."""
    torch.set_num_threads(1)
    variant = spectral_variants(networks.resnet18(), nn.Conv2d, ("weight",), only=name)[name]
    step = training(images(8))(variant)
    for _ in range(steps):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table; with the name of a candidate, its peak alone."""
    if len(sys.argv) > 1:
        print(peak(sys.argv[1]))
        return
    print(f"{machine()}, 1 thread.\n")
    command = [sys.executable, "-m", "benchmarks.memory"]
    found = {
        name: float(subprocess.run([*command, name], capture_output=True, text=True, check=True).stdout)
        for name in CANDIDATES
    }
    rows = [(name, f"{size:.0f}", f"{size - found[PLAIN]:+.0f}") for name, size in found.items()]
    print(table(("MB", "peak", "beyond plain"), rows))


if __name__ == "__main__":
    main()
