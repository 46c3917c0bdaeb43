"""Layers done with the factors of their weight, without making it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

Rule = Callable[..., Any]
CONVOLUTIONS: dict[Callable[..., Any], int] = {functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}


def tucker_linear(input: Tensor, weight: tuple[Tensor, Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
    """``x V coreᵀ Uᵀ``."""
    core, u, v = weight
    return functional.linear(functional.linear(functional.linear(input, v.t()), core), u, bias)


def cp_linear(input: Tensor, weight: tuple[Tensor, Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
    """``(x B * c) Aᵀ``."""
    a, b, c = weight
    return functional.linear(functional.linear(input, b.t()) * c, a, bias)


def tucker_convolution(op: Callable[..., Any]) -> Rule:
    """A 1 x 1 convolution, the core, a 1 x 1 convolution."""

    def rule(
        input: Tensor,
        weight: tuple[Tensor, Tensor, Tensor],
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if groups != 1:
            return NotImplemented
        core, u, v = weight
        narrow = op(input, pointwise(v.t(), op))
        return op(op(narrow, core, None, stride, padding, dilation), pointwise(u, op), bias)

    return rule


def cp_convolution(op: Callable[..., Any]) -> Rule:
    """A 1 x 1 convolution, one for each channel by itself, a 1 x 1 convolution."""

    def rule(
        input: Tensor,
        weight: tuple[Tensor, Tensor, Tensor],
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if groups != 1:
            return NotImplemented
        a, b, c = weight
        narrow = op(input, pointwise(b.t(), op))
        apart = op(narrow, c.unsqueeze(1), None, stride, padding, dilation, c.shape[0])
        return op(apart, pointwise(a, op), bias)

    return rule


def train_convolution(
    input: Tensor,
    weight: tuple[Tensor, Tensor, Tensor, Tensor],
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """A 1 x 1 convolution, one along each direction, a 1 x 1 convolution."""
    if groups != 1 or isinstance(padding, str):
        return NotImplemented
    first, down, across, last = weight
    (high, wide), (above, left), (tall, long) = pair(stride), pair(padding), pair(dilation)
    narrow = functional.conv2d(input, pointwise(first.t(), functional.conv2d))
    downward = down.movedim(-1, 0).unsqueeze(-1)
    narrow = functional.conv2d(narrow, downward, None, (high, 1), (above, 0), (tall, 1))
    sideways = across.movedim(-1, 0).unsqueeze(-2)
    narrow = functional.conv2d(narrow, sideways, None, (1, wide), (0, left), (1, long))
    return functional.conv2d(narrow, pointwise(last.t(), functional.conv2d), bias)


def pointwise(matrix: Tensor, op: Callable[..., Any]) -> Tensor:
    """A matrix (out, in) as the weight of a convolution over single points."""
    return matrix.reshape([*matrix.shape, *[1] * CONVOLUTIONS[op]])


def pair(setting: Any) -> tuple[int, int]:
    """A setting for both directions."""
    if isinstance(setting, int):
        return setting, setting
    found = tuple(setting)
    return found if len(found) == 2 else found * 2


TUCKER: dict[Callable[..., Any], Rule] = {
    functional.linear: tucker_linear,
    **{op: tucker_convolution(op) for op in CONVOLUTIONS},
}
CP: dict[Callable[..., Any], Rule] = {functional.linear: cp_linear, **{op: cp_convolution(op) for op in CONVOLUTIONS}}
TRAIN: dict[Callable[..., Any], Rule] = {functional.conv2d: train_convolution}
