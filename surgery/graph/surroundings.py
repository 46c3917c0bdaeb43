"""What a graph does not record: gradient modes, autocast, random numbers. A trace that meets a change is refused."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from computed.torch_private import without_torch_function

KINDS = ("cpu", "cuda")


@dataclass(frozen=True)
class Surroundings:
    """The state of a process that the result of an operation depends on, beside its arguments."""

    modes: dict[str, Any]
    generators: dict[str, Any]

    @classmethod
    def now(cls) -> "Surroundings":
        """As they are."""
        autocast = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in KINDS}
        modes = {
            "gradients (torch.no_grad, enable_grad)": torch.is_grad_enabled(),
            "inference mode": torch.is_inference_mode_enabled(),
            "autocast": {kind: state for kind, state in autocast.items() if state[0]},
        }
        numbers = np.random.get_state(legacy=False)
        generators = {
            "torch": torch_state(),
            "random": random.getstate(),
            "numpy.random": (numbers["state"]["key"].tobytes(), numbers["state"]["pos"]),
        }
        return cls(modes, generators)

    def difference(self, before: "Surroundings") -> str | None:
        """What has changed since ``before``, and what a graph would make of it; None where nothing has."""
        for name, value in self.modes.items():
            if value != before.modes[name]:
                return f"changes the mode of {name}, which a graph does not record"
        for name, state in self.generators.items():
            if state != before.generators[name]:
                return drawn_from(name)
        return None


def torch_state() -> bytes:
    """The state of torch's generator."""
    with without_torch_function():
        return torch.get_rng_state().numpy().tobytes()


def drawn_from(name: str) -> str:
    """What to say of random numbers."""
    return f"draws random numbers from {name}, which a graph would freeze"


@contextlib.contextmanager
def known_modes(*, training: bool) -> Iterator[None]:
    """The modes that a trace runs in, whatever the caller's are.

    In training gradients are taken, and there is no autocast; in eval it is the other way round. So a change of a mode
    is one in one of the two, and a branch on a mode makes two graphs.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.set_grad_enabled(training))
        for kind in KINDS:
            on = not training and kind == "cpu"
            stack.enter_context(
                torch.autocast(kind, enabled=on) if on or torch.is_autocast_enabled(kind) else contextlib.nullcontext()
            )
        yield


@contextlib.contextmanager
def called_modes() -> Iterator[None]:
    """The modes of a call for its sizes, in the midst of a trace: no gradients and no autocast."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the random numbers of torch, Python and NumPy as they were."""
    torch_before, python_before, numpy_before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(torch_before)
        random.setstate(python_before)
        np.random.set_state(numpy_before)
