"""Values that are a raw times one number, or one for each channel: layers are done with the raw, and scaled beside it.

A layer that is linear in its weight gives ``op(x, s W) = op(s x, W) = s op(x, W)``, and ``op(x, diag(s) W) = diag(s)
op(x, W)`` for channels that come out, ``op(x, W diag(s)) = op(diag(s) x, W)`` for those that go in. Where the input or
the output has fewer entries than the weight, no scaled weight is made, forward or backward: two passes over the weight
are left of six.
"""

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

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
    """A constraint with ``value = raw * scale``, by one number or one for each channel along ``scaled_dim()``.

    The scale depends on that raw, the first, and on the others. ``gradient_reads_raws`` says whether its derivative
    needs their bits.
    """

    gradient_reads_raws: ClassVar[bool] = False

    @abc.abstractmethod
    def scaled_dim(self) -> int | None:
        """The dimension of the weight along which each channel has a scale of its own; None for one number."""

    @abc.abstractmethod
    def scale_traced(self, raws: Sequence[Tensor]) -> Tensor:
        """The scale as part of a graph that is compiled, with whatever state goes with it."""

    @abc.abstractmethod
    def scale_stepped(self, raws: Sequence[Tensor]) -> tuple[State, Number, Any]:
        """The state after one step, the scale, and what its derivative needs beside."""

    @abc.abstractmethod
    def scale_again(self, state: Sequence[Tensor], raws: Sequence[Tensor]) -> Tensor:
        """The scale for a given state, differentiable in ``raws`` to any order."""

    @abc.abstractmethod
    def scale_gradients(
        self, of_weight: Tensor, of_scale: Tensor, state: Sequence[Tensor], kept: Any, raws: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """The gradients of all raws, for one of the raw as it stands in the layer, which is added to in place."""


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
    if not is_worth(weight, min(given, made)):
        return "weight"
    return "input" if given < made else "output"


def is_worth(weight: Sequence[int], entries: int) -> bool:
    """Whether so many entries are better scaled than a weight of these sizes."""
    return math.prod(weight) - entries >= WORTH


def side_of_channels(op: Callable[..., Any], dim: int) -> str:
    """Where the channels along a dimension of the weight are found: in the "input", the "output" or its "weight"."""
    if dim > 1:
        return "weight"
    return "output" if dim == (1 if op in TRANSPOSED else 0) else "input"


def by_channel(numbers: Tensor, op: Callable[..., Any]) -> Tensor:
    """Numbers of channels beside the channels of a layer: behind them are as many dimensions as it slides along."""
    for _ in range(DIMENSIONS[op]):
        numbers = numbers.unsqueeze(-1)
    return numbers


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
        self.groups: int = args[3] if len(args) > 3 else settings.get("groups", 1)
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
        return int(self.weight[1] * self.groups) if self.op in TRANSPOSED else self.weight[0]

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

    def side(self, dim: int | None) -> str:
        """What is scaled, by one number or by channels along ``dim``: see `scaled_side` and `side_of_channels`."""
        if not self.fits():
            return "weight"
        given, made = self.input.numel(), self.entries_made()
        if dim is None:
            return scaled_side(self.weight, given, made)
        side = side_of_channels(self.op, dim)
        entries = given if side == "input" else made
        return side if is_worth(self.weight, entries) else "weight"

    def scaled(self, side: str, weight: Tensor, scale: Tensor) -> Tensor:
        """``op(input, scale * weight, bias)`` with the input or the output scaled."""
        if scale.dim():
            # a weight has the channels of one group along its second dimension
            repeated = (side == "output") == (self.op in TRANSPOSED) and self.groups != 1
            scale = by_channel(scale.repeat(self.groups) if repeated else scale, self.op)
        if side == "input":
            given = (self.input * scale).to(self.input.dtype)
            done: Tensor = self.op(given, weight, self.bias, *self.args, **self.settings)
            return done
        plain: Tensor = self.op(self.input, weight, None, *self.args, **self.settings)
        made = (plain * scale).to(plain.dtype)
        # autocast makes the dtype of what comes out
        return made if self.bias is None else made + by_channel(self.bias.to(made.dtype), self.op)
