"""3: which checkpoints a constrained model reads, and whether it writes one for the plain model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.models import PERCEPTRON, in_eval
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, refusal

Norm = Callable[[nn.Module], nn.Module]
# for each kind of constraint, what may have written the checkpoint: nothing, torch's hooks, its parametrizations
WRITERS: dict[str, dict[str, Norm | None]] = {
    "weight norm": {
        "plain": None,
        "torch's hooks": hooked_weight_norm,
        "torch's parametrizations": parametrizations.weight_norm,
    },
    "spectral": {
        "plain": None,
        "torch's hooks": hooked_spectral_norm,
        "torch's parametrizations": parametrizations.spectral_norm,
    },
    "orthogonal": {"plain": None},
    "adapter": {"plain": None},
}
CONVERGED = 100  # forwards in train mode, each a step of torch's power iteration
CLOSE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Exchanged(Measure):
    """How many checkpoints are read with ``strict=True`` to the right weights, and written for the plain model."""

    read: int
    to_read: int
    written: int
    to_write: int

    def right(self) -> bool:
        """All."""
        return (self.read, self.written) == (self.to_read, self.to_write)

    def fact(self) -> str:
        """The counts."""
        return f"reads {self.read} of {self.to_read}, writes {self.written} of {self.to_write}"


def written_by(norm: Norm | None) -> nn.Module:
    """A model in eval mode whose two layers have a norm, converged."""
    model = PERCEPTRON.build()
    if norm is not None:
        norm(model[0]), norm(model[2])
        for _ in range(CONVERGED):
            model(torch.ones(1, 6))
    return model.eval()


def weights(model: nn.Module) -> list[Tensor]:
    """What both layers multiply with, whatever they are made of."""
    zero, identity = torch.zeros(1, 6), torch.eye(6)
    return [in_eval(layer, identity) - in_eval(layer, zero) for layer in (model[0], model[2])]


def expected(source: nn.Module, kind: str, how: str) -> list[Tensor]:
    """The weights that a constrained model has to have after it read a checkpoint of ``source``."""
    found = weights(source)
    if how != "plain" or kind in ("weight norm", "adapter"):
        return found
    if kind == "spectral":
        return [weight / torch.linalg.matrix_norm(weight, 2) for weight in found]
    factors = [torch.linalg.svd(weight) for weight in found]
    return [u @ vh for u, _, vh in factors]


def layers(library: Library, model: nn.Module) -> nn.Module:
    """The two layers of what the library returned."""
    return model.get_base_model() if library.package == "peft" else model


def read(library: Library, kind: str, how: str, norm: Norm | None) -> tuple[str, str] | None:
    """Why a checkpoint is not read as it should be."""
    source = written_by(norm)
    with asked():
        model = library.insert(PERCEPTRON.build(), PERCEPTRON, kind)
    raised = refusal(lambda: model.load_state_dict(source.state_dict(), strict=True))
    if raised is None:
        pairs = zip(weights(layers(library, model)), expected(source, kind, how), strict=True)
        worst = max(float((one - other).abs().max()) for one, other in pairs)
        raised = None if worst < CLOSE else f"weights differ by {worst:.2g}"
    return None if raised is None else (f"{kind} from {how}", raised)


def write(library: Library, kind: str) -> tuple[str, str] | None:
    """Why the plain model does not take what is written."""
    with asked():
        model = library.insert(PERCEPTRON.build(), PERCEPTRON, kind).eval()
    if library.package == "surgery":
        import surgery

        state = surgery.state_dict(model, format="plain")
    else:
        state = layers(library, model).state_dict()
    plain = PERCEPTRON.build()
    raised = refusal(lambda: plain.load_state_dict(copy.deepcopy(state), strict=True))
    return None if raised is None else (f"plain from {kind}", raised)


def readings(library: Library) -> Iterator[tuple[str, str] | None]:
    """One for each checkpoint."""
    for kind in library.kinds:
        for how, norm in WRITERS[kind].items():
            yield read(library, kind, how, norm)


def measure(library: Library) -> Exchanged:
    """All checkpoints that there are for the library's kinds of constraint."""
    reads, writes = list(readings(library)), [write(library, kind) for kind in library.kinds]
    return Exchanged(
        read=reads.count(None),
        to_read=len(reads),
        written=writes.count(None),
        to_write=len(writes),
        notes=grouped(note for note in (*reads, *writes) if note is not None),
    )


PROBE = Probe(
    3,
    "Plain checkpoints",
    "A constrained model loads, with strict=True, the checkpoint of a plain model, and those of torch's hooks and "
    "parametrizations for the same norm; and it writes one for the plain model.",
    "all load, to weights within 1e-3 of the constraint of what was saved",
    "tests/life/test_ranked.py::test_03_plain_checkpoints",
    by(measure, *LIBRARIES),
)
