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
from computed.tensorlike import resolved

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


def times(tensor: Tensor, number: Number) -> Number:
    """A tensor of one entry times a number, as a number where that is one: it lies in main memory then."""
    return float(tensor) * number if isinstance(number, float) else tensor * number


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


def is_ruled(links: Sequence[Link], shape: Sequence[int], *, training: bool) -> bool:
    """Whether layers may be done without the value of a chain.

    With the raw and its scale those of large weights alone, in training: in eval the value is held.
    """
    scaled = training and len(links) == 1 and isinstance(links[0].module, Scaled) and math.prod(shape) >= WORTH
    return scaled or overrides_op_rule(links[-1])


def make_values(parameter: nn.Module) -> None:
    """Let layers of a computed parameter be done with its value from now on, where only its scale stood for it."""
    vars(parameter)["ruled"] = overrides_op_rule(vars(parameter)["links"][-1])


def scaled_side(weight: Sequence[int], given: int, made: int) -> str:
    """What is scaled in a layer: its "weight", or its "input" or "output" of ``given`` and ``made`` entries."""
    if math.prod(weight) - min(given, made) < WORTH:
        return "weight"
    return "input" if given < made else "output"


class Layer:
    """A layer that is to be done: an operation, its arguments, and the shape of its weight."""

    def __init__(
        self,
        op: Callable[..., Any],
        input: Any,
        weight: Any,
        bias: Any = None,
        *args: Any,
        **settings: Any,
    ) -> None:
        self.op = op
        self.input = input
        self.bias = resolved(bias)
        self.args = args
        self.settings = settings
        self.weight: Sequence[int] = weight.shape
        self.dtype = weight.dtype
        self.dims = DIMENSIONS[op]
        stride = args[0] if args else settings.get("stride", 1)
        steps = (stride,) if isinstance(stride, int) else tuple(stride)
        self.steps: tuple[int, ...] = steps * self.dims if len(steps) == 1 else steps

    def fits(self) -> bool:
        """Whether plain tensors of fitting shape and dtype stand beside the weight: of others the operation tells."""
        given, bias = self.input, self.bias
        if not isinstance(given, Tensor) or given.dim() <= self.dims or not given.numel():
            return False
        if len(self.steps) != self.dims:
            return False
        return bias is None or (
            isinstance(bias, Tensor) and bias.dtype == self.dtype and bias.shape == (self.channels(),)
        )

    def channels(self) -> int:
        """How many channels come out."""
        if self.op not in TRANSPOSED:
            return self.weight[0]
        groups = self.args[3] if len(self.args) > 3 else self.settings.get("groups", 1)
        return int(self.weight[1] * groups)

    def entries_made(self) -> int:
        """How many entries come out, to the padding."""
        given = self.input
        if not self.dims:
            return int(given.numel() // self.weight[1] * self.weight[0])
        sizes = list(zip(given.shape[-self.dims :], self.steps, strict=True))
        batch = given.shape[0] if given.dim() > self.dims + 1 else 1
        if self.op in TRANSPOSED:
            taps = self.weight[2:]
            across = math.prod([(size - 1) * step + tap for (size, step), tap in zip(sizes, taps, strict=True)])
        else:
            across = math.prod([-(-size // step) for size, step in sizes])
        return int(batch * self.channels() * across)

    def side(self) -> str:
        """What is scaled: see `scaled_side`."""
        return scaled_side(self.weight, self.input.numel(), self.entries_made()) if self.fits() else "weight"

    def scaled(self, side: str, weight: Tensor, scale: Tensor) -> Tensor:
        """``op(input, scale * weight, bias)`` with the input or the output scaled."""
        if side == "input":
            done: Tensor = self.op(self.input * scale, weight, self.bias, *self.args, **self.settings)
            return done
        made: Tensor = self.op(self.input, weight, None, *self.args, **self.settings) * scale
        if self.bias is None:
            return made
        bias: Tensor = self.bias.to(made.dtype)  # autocast makes the layer's
        return made + (bias.reshape(-1, *(1,) * self.dims) if self.dims else bias)
