"""What a read of a held value adds to a Linear, torch's parametrize side by side.

Each line times ``layer(x)`` of plain and changed layers by turns on one thread; what is added to the plain one is the
median over the rounds of the difference. No raw moves, so the values stay held, as they are within a step of training
and for the whole of an inference.

* ``symmetric``: a computed parameter with one raw;
* ``spectral``: one with a raw and two buffers, all of which are watched;
* ``identity``: torch's parametrize with a module that returns its argument: its access, without any arithmetic;
* ``cached``: the same inside ``parametrize.cached()``, which does not see when a raw moves.

The second table reads the weights of other layers. `F.linear` and convolutions hand over to a computed parameter in C;
`F.embedding`, `F.layer_norm` and `F.batch_norm` are functions in Python, which are called twice, and cost more.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

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
OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "Conv2d(4, 4, 3)": (lambda: nn.Conv2d(4, 4, 3, padding=1), lambda: torch.randn(1, 4, 6, 6), "unit_norm"),
    "Embedding(10, 8)": (lambda: nn.Embedding(10, 8), lambda: torch.tensor([1, 2]), "unit_norm"),
    "LayerNorm(8)": (lambda: nn.LayerNorm(8), lambda: torch.randn(1, 8), "positive"),
    "BatchNorm2d(4)": (lambda: nn.BatchNorm2d(4), lambda: torch.randn(1, 4, 6, 6), "positive"),
}


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


def measure_others(rounds: int = ROUNDS, calls: int = CALLS) -> list[tuple[str, ...]]:
    """Microseconds of each other layer, and what the reads of its weight add: ours, and torch's parametrize."""
    rows = []
    for name, (make, draw, spec) in OTHERS.items():
        plain, inputs = make().eval(), draw()
        ours = surgery.constrain(copy.deepcopy(plain), weight=spec).eval()
        compared = {"plain": plain, "ours": ours, "identity": parametrized(plain, bias=False)}
        calls_of = {which: (lambda layer=layer, inputs=inputs: layer(inputs)) for which, layer in compared.items()}
        with torch.no_grad():
            samples = interleaved(calls_of, rounds=rounds, calls=calls)
        added = [f"{1e6 * samples.excess(which, 'plain'):+.2f}" for which in ("ours", "identity")]
        rows.append((name, f"{1e6 * samples.median('plain'):.2f}", *added))
    return rows


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
        added = [f"{1e6 * measured[column]:+.2f}" for column in ("symmetric", "spectral", "identity", "cached")]
        rows.append((name, f"{1e6 * measured['plain']:.2f}", *added))
        if not bias:
            ours += [1e6 * measured[name] for name in SPECS]
    print(table(("Linear, us", "plain", "symmetric", "spectral", "parametrize", "cached"), rows))
    verdict = "within" if max(ours) < TARGET else "NOT within"
    print(
        f"\nOne read of a Linear's held weight adds {min(ours):.2f} to {max(ours):.2f} us, {verdict} {TARGET:.0f} us.\n"
    )
    print(table(("eval, no_grad, us", "plain", "ours", "parametrize"), measure_others(rounds, calls)))


if __name__ == "__main__":
    main()
