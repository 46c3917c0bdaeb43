"""7: a tied embedding of which one end is constrained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.peers.libraries import LIBRARIES, PEFT, Library
from benchmarks.peers.models import TIED, in_eval
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, small

STEPS = 10
ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True)
class Tied(Measure):
    """How far the ends are apart after training, and outputs after a bake from those before."""

    apart: float
    by_bake: float
    one_tensor: bool

    def right(self) -> bool:
        """They are one tensor all the time."""
        return max(self.apart, self.by_bake) <= ROUNDING and self.one_tensor

    def fact(self) -> str:
        """The differences."""
        return f"ends differ by {small(self.apart)}, bake by {small(self.by_bake)}"


def apart(model: nn.Module) -> float:
    """The largest difference between what the embedding gives and what the head multiplies with."""
    rows = in_eval(model.embedding, torch.arange(7))
    columns = in_eval(model.head, torch.eye(4)).T
    return float((rows - columns).abs().max())


def train(model: nn.Module, tokens: torch.Tensor) -> None:
    """Ten steps of Adam."""
    optimizer = torch.optim.Adam([tensor for tensor in model.parameters() if tensor.requires_grad], lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model.train()(tokens).logsumexp(-1).mean().backward()
        optimizer.step()


def measure_kind(library: Library, kind: str) -> Tied:
    """Constrain the head alone, train, bake."""
    tokens = TIED.draw()
    with asked():
        model = library.insert(TIED.build(), TIED, kind)
        train(model, tokens)
        before = in_eval(model, tokens)
        distance = apart(model.get_base_model() if library is PEFT else model)
        plain = library.bake(model, TIED)
    return Tied(
        apart=distance,
        by_bake=float((in_eval(plain, tokens) - before).abs().max()),
        one_tensor=plain.head.weight is plain.embedding.weight,
    )


def measure(library: Library) -> Tied:
    """The worst of the library's kinds."""
    found = {kind: measure_kind(library, kind) for kind in library.kinds}
    worst = max(found.values(), key=lambda tied: max(tied.apart, tied.by_bake))
    lost = [kind for kind, tied in found.items() if not tied.one_tensor]
    told = [(kind, tied.fact() + ("" if tied.one_tensor else ", two tensors")) for kind, tied in found.items()]
    return Tied(apart=worst.apart, by_bake=worst.by_bake, one_tensor=not lost, notes=grouped(told))


PROBE = Probe(
    7,
    "A tie holds",
    "In a language model whose head is its embedding, the head's weight is constrained. After ten steps of Adam the "
    "rows of both are compared; after a bake the outputs, and whether they are one tensor. The worst kind counts.",
    "both ends are equal to rounding, and a bake changes no output",
    "tests/life/test_ranked.py::test_07_a_tie_holds",
    by(measure, *LIBRARIES),
)
