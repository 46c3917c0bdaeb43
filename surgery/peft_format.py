"""How PEFT keeps adapters: which of its tensors is which raw, under which key and in which shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from computed.site import FORWARD_CONVOLUTIONS

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
TRANSPOSED = ("transformers.pytorch_utils", "Conv1D")
# what PEFT puts between a module and its tensors
BETWEEN = (".base_layer.", ".modules_to_save.")
ORIGINAL = ".original_module."
NEVER_CALLED = "NonDynamicallyQuantizableLinear"
KEYS: Final[Mapping[str, str]] = {
    "A": "lora_A.weight",
    "B": "lora_B.weight",
    "m": "lora_magnitude_vector",
    "gains": "ia3_l",
}
EMBEDDING_KEYS: Final[Mapping[str, str]] = {**KEYS, "A": "lora_embedding_A", "B": "lora_embedding_B"}
ROLES: Final[Mapping[str, tuple[str, ...]]] = {"lora": ("A", "B"), "dora": ("A", "B", "m"), "ia3": ("gains",)}


@dataclass(frozen=True)
class Layer:
    """A layer that PEFT has an adapter for: rows of its weight along ``dim`` are its outputs."""

    kind: str
    dim: int
    shape: torch.Size

    @property
    def outputs(self) -> int:
        """How many outputs it has."""
        return self.shape[self.dim]

    @property
    def inputs(self) -> int:
        """How many inputs."""
        return self.shape[1 - self.dim]

    def keys(self) -> Mapping[str, str]:
        """PEFT's key of each role, behind the name of the layer."""
        return EMBEDDING_KEYS if self.kind == "embedding" else KEYS

    def shapes(self, method: str, rank: int, *, feedforward: bool = False) -> dict[str, tuple[int, ...]]:
        """The shape that PEFT has for each role of an adapter."""
        kernel = tuple(self.shape[2:])
        ones = (1,) * len(kernel)
        if method == "ia3":
            count = self.inputs if feedforward else self.outputs
            along = (1, count) if feedforward or kernel else (count, 1)
            return {"gains": (*along, *ones)}
        found = {"A": (rank, self.inputs, *kernel), "B": (self.outputs, rank, *ones)}
        return found if method == "lora" else found | {"m": (1, self.outputs, *ones) if kernel else (self.outputs,)}

    def written_dim(self) -> int | None:
        """The ``dim`` that a spec needs to read the weight as PEFT does."""
        return self.dim or None


def layer_of(host: nn.Module, weight_shape: torch.Size) -> Layer | str:
    """The layer that ``host`` is, or why PEFT has none for it that computes the same."""
    cls = type(host)
    if isinstance(host, FORWARD_CONVOLUTIONS):
        reason = _unlike(host)
        return Layer("convolution", 0, weight_shape) if reason is None else reason
    if isinstance(host, nn.Embedding):
        return Layer("embedding", 1, weight_shape)
    if (cls.__module__, cls.__name__) == TRANSPOSED:
        return Layer("transposed", 1, weight_shape)
    if isinstance(host, nn.Linear) and cls.__name__ != NEVER_CALLED:
        return Layer("linear", 0, weight_shape)
    known = "Linear, Embedding, Conv1d, Conv2d, Conv3d and Conv1D of transformers"
    return f"is a {cls.__name__}; PEFT's adapters that are known here are for {known}"


def _unlike(host: nn.Module) -> str | None:
    """Why PEFT's layer for a convolution computes something else than a convolution with a changed weight."""
    geometry = {name: vars(host)[name] for name in ("groups", "dilation", "padding_mode")}
    plain = {"groups": 1, "dilation": (1,) * len(geometry["dilation"]), "padding_mode": "zeros"}
    other = [f"{name}={geometry[name]!r}" for name in plain if geometry[name] != plain[name]]
    if not other:
        return None
    return (
        f"is a {type(host).__name__} with {', '.join(other)}, where PEFT's layer leaves that out of its first factor, "
        f"and so computes what no weight computes"
    )
