"""8: what reading leaves behind."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.peers.libraries import LIBRARIES, PEFT, Library
from benchmarks.peers.models import PERCEPTRON, train
from benchmarks.peers.observing import Measure, Probe, asked, by, small

READS = 10
ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True)
class Moved(Measure):
    """How far buffers moved by reading, and gradients by checkpointing, relative to the largest one."""

    state: float
    gradients: float

    def right(self) -> bool:
        """Not at all, and by rounding."""
        return self.state == 0.0 and self.gradients <= ROUNDING

    def fact(self) -> str:
        """The differences."""
        return f"state {small(self.state)}, gradients {small(self.gradients)}"


def moved_by_reading(library: Library, model: nn.Module) -> float:
    """The largest change of a buffer or Parameter by reads, a print and a state dict."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    layers = model.get_base_model() if library is PEFT else model
    for _ in range(READS):
        layers[0].weight, layers[2].weight
    repr(model)
    after = model.state_dict()
    return max(float((after[key] - tensor).abs().max()) for key, tensor in before.items())


def gradients(model: nn.Module, inputs: Tensor, *, checkpointed: bool) -> list[Tensor]:
    """Those of all that is trained."""
    output = checkpoint(model, inputs, use_reentrant=False) if checkpointed else model(inputs)
    output.square().sum().backward()
    return [tensor.grad for tensor in model.parameters() if tensor.grad is not None]


def measure(library: Library) -> Moved:
    """The worst of the library's kinds."""
    state, differences, inputs = 0.0, 0.0, PERCEPTRON.draw()
    for kind in library.kinds:
        with asked():
            model = train(library.insert(PERCEPTRON.build(), PERCEPTRON, kind), inputs, steps=1, rate=1.0)
            model.zero_grad()
            twin = copy.deepcopy(model)
            pairs = list(
                zip(
                    gradients(model, inputs, checkpointed=True),
                    gradients(twin, inputs, checkpointed=False),
                    strict=True,
                )
            )
            state = max(state, moved_by_reading(library, model))
        largest = max(float(plain.abs().max()) for _, plain in pairs)
        differences = max([differences, *(float((one - plain).abs().max()) / largest for one, plain in pairs)])
    return Moved(state=state, gradients=differences)


PROBE = Probe(
    8,
    "Reads are pure",
    "In train mode: ten reads of each weight, a repr and a state_dict, after which buffers are compared; and the "
    "gradients of a pass under torch.utils.checkpoint with those of a plain one. The worst kind counts.",
    "no bit of a buffer moves, and gradients differ by rounding",
    "tests/life/test_ranked.py::test_08_reads_are_pure",
    by(measure, *LIBRARIES),
)
