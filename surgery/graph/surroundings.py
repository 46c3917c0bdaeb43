"""What a graph does not record: gradient modes, autocast, random numbers. A trace that meets a change is refused."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Surroundings:
    """The state of a process that the result of an operation depends on, beside its arguments."""

    modes: dict[str, Any]
    generators: dict[str, Any]

    @classmethod
    def now(cls) -> "Surroundings":
        """As they are."""
        kinds = ("cpu", "cuda")
        autocast = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds}
        modes = {
            "gradients (torch.no_grad, enable_grad)": torch.is_grad_enabled(),
            "inference mode": torch.is_inference_mode_enabled(),
            "autocast": {kind: state for kind, state in autocast.items() if state[0]},
        }
        numbers = np.random.get_state(legacy=False)
        generators = {
            "torch": torch.get_rng_state().numpy().tobytes(),
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
                return f"draws random numbers from {name}, which a graph would freeze"
        return None
