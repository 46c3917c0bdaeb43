"""5: an optimizer that is older than the constraints, and its state after they are gone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.models import PERCEPTRON
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, plural, refusal


@dataclass(frozen=True, kw_only=True)
class Followed(Measure):
    """How many Parameters an older optimizer left out in silence, and how many states no longer fit by shape."""

    orphans: int
    told: bool
    misfits: int

    def right(self) -> bool:
        """None, or an error that says so; and every state fits."""
        return (self.told or self.orphans == 0) and self.misfits == 0

    def fact(self) -> str:
        """The counts."""
        trained = "error" if self.told else f"{self.orphans} untrained"
        return f"{trained}, {plural(self.misfits, 'state')} misfit{'s' * (self.misfits == 1)}"


def stepped(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """One step."""
    optimizer.zero_grad()
    model(torch.ones(2, 6)).square().mean().backward()
    optimizer.step()


def left_out(library: Library, kind: str) -> tuple[int, str | None]:
    """Trained Parameters that are in no group of an older Adam, and what its next step raised."""
    model = PERCEPTRON.build()
    optimizer = torch.optim.Adam(model.parameters())
    stepped(optimizer, model)
    with asked():
        model = library.insert(model, PERCEPTRON, kind).train()
    held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    orphans = [tensor for tensor in model.parameters() if tensor.requires_grad and id(tensor) not in held]
    return len(orphans), refusal(lambda: stepped(optimizer, model))


def misfits(library: Library, kind: str) -> list[str]:
    """States of an older Adam whose shapes are not those of the Parameters at their places, after a bake."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 6))
    optimizer = torch.optim.Adam(model.parameters())
    stepped(optimizer, model)
    with asked():
        model = library.bake(library.insert(model, PERCEPTRON, kind), PERCEPTRON)
    again = torch.optim.Adam(model.parameters())
    again.load_state_dict(optimizer.state_dict())
    pairs = [(again.state[tensor]["exp_avg"].shape, tensor.shape) for tensor in again.param_groups[0]["params"]]
    return [f"{tuple(state)} on {tuple(shape)}" for state, shape in pairs if state != shape]


def measure(library: Library) -> Followed:
    """The worst kind of constraint for each count."""
    found, wrong = [], []
    notes: list[tuple[str, str]] = []
    for kind in library.kinds:
        orphans, raised = left_out(library, kind)
        found.append((orphans, raised is not None))
        notes += [(kind, raised)] if raised else []
        wrong.append(misfits(library, kind))
        notes += [(kind, f"states of {', '.join(wrong[-1])}")] if wrong[-1] else []
    silent = max(orphans for orphans, told in found if not told) if not all(told for _, told in found) else 0
    return Followed(
        orphans=silent,
        told=silent == 0 and any(told for _, told in found),
        misfits=max(map(len, wrong)),
        notes=grouped(notes),
    )


PROBE = Probe(
    5,
    "An older optimizer",
    "Adam is made, and the model constrained afterwards: Parameters that are trained and in no group are counted. "
    "Then Adam's state from before is loaded after a bake, and its shapes are compared.",
    "none is left out in silence, and every state has the shape of its Parameter",
    "tests/life/test_ranked.py::test_05_an_optimizer_from_before",
    by(measure, *LIBRARIES),
)
