"""A forward of all-MiniLM-L6-v2 with every matrix of its encoder under a spectral bound, against the plain model.

Both in eval mode without gradients, on random tokens, by turns in one process. The 36 values are held: what is
measured is 36 reads, each in the midst of work that has displaced from the processor's caches all that a read looks at.
Beside them:

* ``plain copy`` shows what cannot be told apart from noise;
* ``handed on`` is the floor of a weight that is a Module: a ``__torch_function__`` that hands a tensor on without
  a look at anything;
* ``parametrize`` is torch's, with a module that returns its argument: its access without any arithmetic.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import surgery
from benchmarks.timing import Samples, interleaved, machine, table
from examples.pretrained_minilm import load, weights_folder

RULES = {"encoder.*@Linear.weight": "spectral(bound=4.0)"}
BATCHES = ((8, 16), (1, 16))
ROUNDS = 301  # the quartiles of one round are 4 % apart: fewer would not tell 1.5 % from 2.5 %
TARGET = 1.02
READS = 36
QUIET = 1.5  # this process is one; where others run too, threads wait for each other and times mean nothing


class HandedOn(nn.Module):
    """A weight that does nothing: what any Module costs that stands in the place of a Parameter."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.__dict__["weight"] = weight

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do ``func`` with the tensors."""
        return func(*[argument.weight if type(argument) is cls else argument for argument in args], **(kwargs or {}))


def models() -> dict[str, nn.Module]:
    """The constrained model, the plain one with the same values, and others with these."""
    constrained, _ = load(weights_folder())
    surgery.apply_constraints(constrained, RULES)
    plain = surgery.bake(copy.deepcopy(constrained))
    handed, parametrized = copy.deepcopy(plain), copy.deepcopy(plain)
    for name, host in constrained.get_submodule("encoder").named_modules(prefix="encoder"):
        if isinstance(host, nn.Linear):
            other = handed.get_submodule(name)
            weight = other._parameters.pop("weight")
            assert weight is not None
            other._modules["weight"] = HandedOn(weight)
            parametrize.register_parametrization(parametrized.get_submodule(name), "weight", nn.Identity())
    return {
        "plain": plain,
        "plain copy": copy.deepcopy(plain),
        "handed on": handed,
        "parametrize": parametrized,
        "constrained": constrained,
    }


def measure(compared: dict[str, nn.Module], batch: tuple[int, int], threads: int, rounds: int = ROUNDS) -> Samples:
    """Time the forward of each model on the same tokens."""
    torch.set_num_threads(threads)
    tokens = torch.randint(1000, 30000, batch, generator=torch.Generator().manual_seed(0))
    clock = time.thread_time if threads == 1 else time.perf_counter
    calls = {name: (lambda model=model: model(tokens)) for name, model in compared.items()}
    with torch.no_grad():
        return interleaved(calls, rounds=rounds, calls=1, clock=clock)


def cells(samples: Samples, name: str) -> list[str]:
    """Quartiles in milliseconds, and how many times as long as the plain model, by quartiles of the rounds."""
    times = [f"{1e3 * seconds:.2f}" for seconds in samples.quartiles(name)]
    ratios = [f"{ratio:.3f}" for ratio in samples.ratios(name, "plain")] if name != "plain" else ["", "", ""]
    return [*times, *ratios]


def main(rounds: int = ROUNDS) -> None:
    """Print the table."""
    compared = models()
    busy = os.getloadavg()[0] > QUIET
    settings = [
        (threads, batch) for threads in ([1] if busy else sorted({1, os.cpu_count() or 1})) for batch in BATCHES
    ]
    rows: list[tuple[str, ...]] = []
    verdicts = []
    print(f"{machine()}; {rounds} rounds.\n")
    for threads, batch in settings:
        samples = measure(compared, batch, threads, rounds)
        where = f"{batch[0]} x {batch[1]} tokens, {threads} thread{'s' * (threads > 1)}"
        rows += [(f"{where}, {name}", *cells(samples, name)) for name in compared]
        added = [f"{1e6 * samples.excess(name, 'plain') / READS:.0f}" for name in ("constrained", "handed on")]
        verdict = _verdict(samples.ratios("constrained", "plain"), rounds)
        verdicts.append(f"{where}: {verdict}, {added[0]} us a read, {added[1]} of them the floor.")
    print(table(("ms a forward", "25 %", "median", "75 %", "times 25 %", "median", "75 %"), rows))
    print("\n" + "\n".join(f"* {verdict}" for verdict in verdicts))
    if busy:
        print("\nOn one thread only: the machine was busy.")


def _verdict(ratios: tuple[float, float, float], rounds: int) -> str:
    """How much more it takes, give or take the notch of a box plot (McGill, Tukey, Larsen 1978): 95 % of medians."""
    first, ratio, third = ratios
    notch = 1.57 * (third - first) / math.sqrt(rounds)
    return f"{100 * (ratio - 1):+.1f} % +- {100 * notch:.1f} ({'within' if ratio <= TARGET else 'NOT within'} 2 %)"


if __name__ == "__main__":
    main()
