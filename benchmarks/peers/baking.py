"""2: what a model computes after its constraints were made plain."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

from torch import nn

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.models import PERCEPTRON, in_eval, train
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, refusal, small

ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Baked(Measure):
    """The largest change of the output in eval, apart for adapters, which are sums; and what became of the model."""

    constraints: float | None
    adapters: float | None
    plain: bool
    repeatable: bool

    def right(self) -> bool:
        """No bit by constraints, rounding by adapters, plain classes, and a second bake that changes nothing."""
        exact = (self.constraints or 0.0) == 0.0 and (self.adapters or 0.0) <= ROUNDING
        return exact and self.plain and self.repeatable

    def fact(self) -> str:
        """The differences."""
        told = {"differs by": self.constraints, "adapter": self.adapters}
        figures = "; ".join(f"{what} {small(figure)}" for what, figure in told.items() if figure is not None)
        return figures + ("" if self.plain else ", not plain")


def classes(model: nn.Module) -> list[tuple[str, type]]:
    """Of all modules and parameters."""
    return [(name, type(each)) for name, each in (*model.named_modules(), *sorted(model.named_parameters()))]


def bake(library: Library, kind: str, training: bool) -> tuple[float, bool, bool, str | None]:
    """The change of the output, whether all is plain, whether a second bake changes nothing, and what it raised.

    The model is a fresh one: torch removes parametrizations from a class that copies share.
    """
    inputs = PERCEPTRON.draw()
    with asked():
        model = train(library.insert(PERCEPTRON.build(), PERCEPTRON, kind), inputs, steps=5)
        expected = in_eval(copy.deepcopy(model), inputs)
        plain = library.bake(model.train(training), PERCEPTRON)
    output = in_eval(plain, inputs)
    is_plain = classes(plain) == classes(PERCEPTRON.build())
    raised = refusal(lambda: library.bake(plain, PERCEPTRON))
    return float((output - expected).abs().max()), is_plain, in_eval(plain, inputs).equal(output), raised


def measure(library: Library) -> Baked:
    """Each kind of constraint, trained, baked in train mode and in eval mode."""
    changes: dict[str, float] = {}
    plain, repeatable = True, True
    notes: list[tuple[str, str]] = []
    for kind, training in itertools.product(library.kinds, (True, False)):
        change, is_plain, repeats, raised = bake(library, kind, training)
        changes[kind] = max(changes.get(kind, 0.0), change)
        plain, repeatable = plain and is_plain, repeatable and repeats
        mode = f"{kind} baked in {'train' if training else 'eval'} mode"
        notes += [(mode, f"differs by {change:.1g}")] if change else []
        notes += [(mode, f"a second bake raises {raised}")] if raised else []
    constraints = [change for kind, change in changes.items() if kind != "adapter"]
    return Baked(
        constraints=max(constraints, default=None),
        adapters=changes.get("adapter"),
        plain=plain,
        repeatable=repeatable,
        notes=grouped(notes),
    )


PROBE = Probe(
    2,
    "Bake is faithful",
    "Two layers are trained for five steps; the output in eval is compared with that after a bake, which is called "
    "in train mode and in eval mode.",
    "not one bit differs, an adapter by 1e-6 at most; classes are plain, and a second bake changes nothing",
    "tests/life/test_ranked.py::test_02_bake_is_faithful",
    by(measure, *LIBRARIES),
)
