"""6: whole models in files, in other processes, and copied."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
import torch.multiprocessing
from torch import Tensor, nn

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.models import LSTM, PERCEPTRON, in_eval, train
from benchmarks.peers.observing import Measure, Probe, by, grouped, refusal

ROOT = Path(__file__).parents[2]
READER = """
import pickle, sys, torch
with open(sys.argv[1], "rb") as file:
    read = pickle.load if sys.argv[2] == "pickle" else lambda file: torch.load(file, weights_only=False)
    model, inputs, expected = read(file)
with torch.no_grad():
    assert torch.allclose(model(inputs), expected, atol=1e-6)
"""


@dataclass(frozen=True, kw_only=True)
class Copied(Measure):
    """How many of the ways to copy a whole model give one that computes the same."""

    good: int
    tried: int

    def right(self) -> bool:
        """All."""
        return self.good == self.tried

    def fact(self) -> str:
        """The counts."""
        return f"{self.good} of {self.tried} copies"


def trained(library: Library, kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A constrained model in eval, an input, and its output."""
    inputs = PERCEPTRON.draw()
    model = train(library.insert(PERCEPTRON.build(), PERCEPTRON, kind), inputs, steps=2)
    return model, inputs, in_eval(model, inputs)


def by_file(library: Library, kind: str, how: str) -> None:
    """Through a file, into a fresh interpreter that has imported nothing but torch."""
    whole = trained(library, kind)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model")
        with file.open("wb") as opened:
            pickle.dump(whole, opened) if how == "pickle" else torch.save(whole, opened)
        ran = subprocess.run(
            [sys.executable, "-c", READER, str(file), how],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip().splitlines()[-1])


def answer(model: nn.Module, inputs: Tensor, answers: SimpleQueue[list[list[float]]]) -> None:
    """What a spawned process does."""
    answers.put(in_eval(model, inputs).tolist())


def by_spawn(library: Library, kind: str) -> None:
    """Into a spawned process."""
    model, inputs, expected = trained(library, kind)
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=answer, args=(model, inputs, answers))
    process.start()
    found = torch.tensor(answers.get())
    process.join()
    assert torch.allclose(found, expected, atol=1e-6), "other outputs"


def by_copy(library: Library, kind: str) -> None:
    """A deep copy of an LSTM after forward and backward."""
    inputs = LSTM.draw()
    model = library.insert(LSTM.build(), LSTM, kind)
    model(inputs).sum().backward()
    assert torch.allclose(in_eval(copy.deepcopy(model), inputs), in_eval(model, inputs)), "other outputs"


WAYS: dict[str, Callable[[Library, str], None]] = {
    "pickle": lambda library, kind: by_file(library, kind, "pickle"),
    "torch.save": lambda library, kind: by_file(library, kind, "torch.save"),
    "spawn": by_spawn,
    "deepcopy of an LSTM": by_copy,
}


def measure(library: Library) -> Copied:
    """Each way, for the library's last kind of constraint but adapters."""
    kind = [each for each in library.kinds if each != "adapter" or len(library.kinds) == 1][-1]
    raised = {way: refusal(lambda go=go: go(library, kind)) for way, go in WAYS.items()}
    return Copied(
        good=list(raised.values()).count(None),
        tried=len(raised),
        notes=grouped((way, what) for way, what in raised.items() if what),
    )


PROBE = Probe(
    6,
    "Whole models are copied",
    "A trained model goes by pickle and by torch.save into a fresh interpreter, and into a spawned process; an LSTM is "
    "deep-copied after forward and backward. computed-surgery and torch by weight norm, GeoTorch by orthogonal "
    "matrices, PEFT by LoRA.",
    "all copies compute the same",
    "tests/life/test_ranked.py::test_06_pickle_spawn_and_deepcopy",
    by(measure, *LIBRARIES),
)
