"""What a read of a held value adds to a Linear, torch's parametrize side by side.

Each line times ``layer(x)`` of plain and changed layers by turns on one thread; what is added to the plain one is the
median over the rounds of the difference. No raw moves, so the values stay held, as they are within a step of training
and for the whole of an inference.

* ``symmetric``: a computed parameter with one raw;
* ``spectral``: one with a raw and two buffers, all of which are watched;
* ``identity``: torch's parametrize with a module that returns its argument: its access, without any arithmetic;
* ``cached``: the same inside ``parametrize.cached()``, which does not see when a raw moves.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import surgery
from benchmarks.timing import Candidates, interleaved, machine, table

SIZES = (8, 64)
ROUNDS = 201  # short ones: a disturbance spoils a few of them, and the median stands
CALLS = 200
TARGET = 4.0
SPECS = {"symmetric": "symmetric", "spectral": "spectral(bound=4.0)"}


class Identity(nn.Module):
    """Returns its argument."""

    def forward(self, weight: Tensor) -> Tensor:
        """The argument."""
        return weight


def computed(layer: nn.Linear, spec: str, *, bias: bool) -> nn.Module:
    """A copy whose weight is computed, and its bias where that is asked for."""
    constrained = surgery.constrain(copy.deepcopy(layer), weight=spec)
    return surgery.constrain(constrained, bias="interval(-1.0, 1.0)") if bias else constrained


def parametrized(layer: nn.Linear, *, bias: bool) -> nn.Module:
    """The same by torch."""
    changed = copy.deepcopy(layer)
    for name in ("weight", "bias") if bias else ("weight",):
        parametrize.register_parametrization(changed, name, Identity())
    return changed


def layers(size: int, *, bias: bool) -> dict[str, nn.Module]:
    """All that are compared, of one size."""
    plain = nn.Linear(size, size)
    ours = {name: computed(plain, spec, bias=bias) for name, spec in SPECS.items()}
    return {"plain": plain, **ours, "identity": parametrized(plain, bias=bias)}


def candidates(size: int, *, bias: bool, training: bool) -> Candidates:
    """Calls of all layers on one input."""
    inputs = torch.randn(1, size)
    found = {name: layer.train(training) for name, layer in layers(size, bias=bias).items()}
    return {name: (lambda layer=layer: layer(inputs)) for name, layer in found.items()}


def measure(size: int, *, bias: bool, training: bool, rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, float]:
    """Seconds for the plain layer, and what each other one adds, for the gradient mode that is set."""
    compared = candidates(size, bias=bias, training=training)
    samples = interleaved(compared, rounds=rounds, calls=calls)
    measured = {"plain": samples.median("plain")}
    measured |= {name: samples.excess(name, "plain") for name in compared if name != "plain"}
    with parametrize.cached():
        pair = {name: compared[name] for name in ("plain", "identity")}
        measured["cached"] = interleaved(pair, rounds=rounds, calls=calls).excess("identity", "plain")
    return measured


def main(rounds: int = ROUNDS, calls: int = CALLS) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, ours = [], []
    settings = itertools.product(SIZES, (False, True), (True, False), (True, False))
    print(f"{machine()}, 1 thread; {rounds} rounds of {calls} calls.\n")
    for size, bias, grad, training in settings:
        with torch.set_grad_enabled(grad):
            measured = measure(size, bias=bias, training=training, rounds=rounds, calls=calls)
        what = "weight, bias" if bias else "weight"
        name = f"{size}x{size} {what}, {'grad' if grad else 'no_grad'}, {'train' if training else 'eval'}"
        added = [f"+{1e6 * measured[column]:.2f}" for column in ("symmetric", "spectral", "identity", "cached")]
        rows.append((name, f"{1e6 * measured['plain']:.2f}", *added))
        if not bias:
            ours += [1e6 * measured[name] for name in SPECS]
    print(table(("Linear, us", "plain", "symmetric", "spectral", "parametrize", "cached"), rows))
    verdict = "within" if max(ours) < TARGET else "NOT within"
    print(f"\nOne read of a held weight adds {min(ours):.2f} to {max(ours):.2f} us, {verdict} {TARGET:.0f} us.")


if __name__ == "__main__":
    main()
