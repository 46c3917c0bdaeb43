"""Values that are a raw times one number: layers are done with the raw, and what is smaller than it is scaled.

A layer that is linear in its weight gives ``op(x, s W) = op(s x, W) = s op(x, W)``. Where the input or the output has
fewer entries than the weight, no scaled weight is made, forward or backward: two passes over the weight are left of
six.
"""

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from computed.chain import Link, overrides_op_rule
from computed.constraint import State

TRANSPOSED = frozenset((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d))
# layers that are linear in their weight, and over how many dimensions they slide it
DIMENSIONS: dict[Callable[..., Any], int] = {
    F.linear: 0,
    F.conv1d: 1,
    F.conv2d: 2,
    F.conv3d: 3,
    F.conv_transpose1d: 1,
    F.conv_transpose2d: 2,
    F.conv_transpose3d: 3,
}
# How many entries the weight must have beyond what is scaled instead: below this the calls cost more than the passes
# that they spare (measured: 64 x 64 x 3 x 3 breaks even).
WORTH = 1 << 16

Number = float | Tensor


class Scaled(abc.ABC):
    """A constraint of one raw with ``value = raw * scale``, where ``scale`` is one number that depends on the raw."""

    @abc.abstractmethod
    def scale_in_graph(self, raw: Tensor) -> Tensor:
        """The scale as part of a graph that is compiled, with whatever state goes with it."""

    @abc.abstractmethod
    def scale_stepped(self, raw: Tensor) -> tuple[State, Number, Number]:
        """The state after one step, the scale, and its derivative by the number that it is taken from."""

    @abc.abstractmethod
    def scale_again(self, state: Sequence[Tensor], raw: Tensor) -> Tensor:
        """The scale for a given state, differentiable in ``raw`` to any order."""

    @abc.abstractmethod
    def add_gradient_(self, gradient: Tensor, state: Sequence[Tensor], factor: Number) -> None:
        """Add ``factor`` times the derivative of the number that the scale is taken from, in place."""


def has_scale(links: Sequence[Link], shape: Sequence[int]) -> bool:
    """Whether layers may be done with the raw and its scale; those of small weights never are, and need not ask."""
    return len(links) == 1 and isinstance(links[0].module, Scaled) and math.prod(shape) >= WORTH


def make_values(parameter: nn.Module) -> None:
    """Let layers of a computed parameter be done with its value from now on, where only its scale stood for it."""
    vars(parameter)["ruled"] = overrides_op_rule(vars(parameter)["links"][-1])


def scaled_side(weight: Sequence[int], given: int, made: int) -> str:
    """What is scaled in a layer: its "weight", or its "input" or "output" of ``given`` and ``made`` entries."""
    if math.prod(weight) - min(given, made) < WORTH:
        return "weight"
    return "input" if given < made else "output"


class Layer:
    """A layer that is to be done: ``given`` and ``made`` entries go in and come out, to the padding."""

    def __init__(
        self,
        op: Callable[..., Any],
        input: Tensor,
        weight: Any,
        bias: Tensor | None = None,
        *args: Any,
        **settings: Any,
    ) -> None:
        self.op = op
        self.input = input
        self.bias = bias
        self.args = args
        self.settings = settings
        self.dtype = weight.dtype
        self.given = input.numel()
        self.made = _entries_made(op, input, weight.shape, args[0] if args else settings.get("stride", 1))

    def fits(self) -> bool:
        """Whether plain tensors stand beside the weight, and a bias of its dtype: another is an error, to be told."""
        bias = self.bias
        return isinstance(self.input, Tensor) and (
            bias is None or (isinstance(bias, Tensor) and bias.dtype == self.dtype)
        )

    def scaled(self, side: str, weight: Tensor, scale: Tensor) -> Tensor:
        """``op(input, scale * weight, bias)`` with the input or the output scaled."""
        if side == "input":
            done: Tensor = self.op(self.input * scale, weight, self.bias, *self.args, **self.settings)
            return done
        made: Tensor = self.op(self.input, weight, None, *self.args, **self.settings) * scale
        if self.bias is None:
            return made
        dims = DIMENSIONS[self.op]
        bias = self.bias.to(made.dtype)  # autocast makes the layer's
        return made + (bias.reshape(-1, *(1,) * dims) if dims else bias)


def _entries_made(op: Callable[..., Any], input: Tensor, weight: Sequence[int], stride: Any) -> int:
    dims = DIMENSIONS[op]
    if not dims:
        return input.numel() // weight[1] * weight[0]
    steps = (stride,) * dims if isinstance(stride, int) else tuple(stride) * (dims // len(stride))
    sizes = list(zip(input.shape[-dims:], steps, strict=True))
    batch = input.numel() // math.prod(input.shape[-dims - 1 :])
    if op in TRANSPOSED:
        taps = weight[2:]
        across = math.prod([(size - 1) * step + tap for (size, step), tap in zip(sizes, taps, strict=True)])
        channels = weight[1]
    else:
        across = math.prod([-(-size // step) for size, step in sizes])
        channels = weight[0]
    return int(batch * channels * across)
