"""A step of training all-MiniLM-L6-v2: plain, under a spectral bound, and under torch's own spectral norm.

One step of SGD on 8 x 16 random tokens, by turns in one process, on one thread. Here values do move: each step
evaluates 36 matrices anew, with one power step each, and differentiates through that. Torch's parametrization sets the
norm instead of capping it, which is the same work.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import surgery
from benchmarks.timing import interleaved, machine, table
from examples.pretrained_minilm import load, weights_folder

SPECS = {"bound": "spectral(bound=4.0)", "norm": "spectral(norm=4.0)"}
PATTERN = "encoder.*@Linear.weight"
ROUNDS = 31


def models() -> dict[str, nn.Module]:
    """The same weights: plain, constrained in two ways, and parametrized."""
    plain, _ = load(weights_folder())
    found = {"plain": plain}
    for name, spec in SPECS.items():
        found[f"spectral, {name}"] = surgery.apply_constraints(copy.deepcopy(plain), {PATTERN: spec}, keep_undo=False)
    parametrized = copy.deepcopy(plain)
    for host in parametrized.encoder.modules():
        if isinstance(host, nn.Linear):
            spectral_norm(host)
    return {**found, "torch's spectral_norm": parametrized}


def step_of(model: nn.Module, kind: type[torch.optim.Optimizer] = torch.optim.SGD) -> Callable[[], object]:
    """One step of training all that is trained, on the same tokens each time."""
    tokens = torch.randint(1000, 30000, (8, 16), generator=torch.Generator().manual_seed(0))
    optimizer = kind([raw for raw in model.parameters() if raw.requires_grad], lr=1e-4)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        model(tokens).last_hidden_state.square().mean().backward()
        optimizer.step()

    return step


def main(rounds: int = ROUNDS) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{machine()}, 1 thread; {rounds} rounds.\n")
    samples = interleaved({name: step_of(model) for name, model in models().items()}, rounds=rounds, calls=1)
    rows = []
    for name in samples.seconds:
        times = [f"{1e3 * seconds:.1f}" for seconds in samples.quartiles(name)]
        rows.append((name, *times, "" if name == "plain" else f"{samples.ratios(name, 'plain')[1]:.2f}"))
    print(table(("ms a step", "25 %", "median", "75 %", "times plain"), rows))


if __name__ == "__main__":
    main()
