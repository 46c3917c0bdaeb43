"""Layers done with the factors of their weight, without making it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

Rule = Callable[..., Any]
CONVOLUTIONS: dict[Callable[..., Any], int] = {functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}


def low_rank_linear(input: Tensor, weight: tuple[Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
    """``(x Aᵀ) Bᵀ``."""
    thin, tall = weight
    return functional.linear(functional.linear(input, thin), tall, bias)


def tucker_linear(input: Tensor, weight: tuple[Tensor, Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
    """``x V coreᵀ Uᵀ``."""
    core, u, v = weight
    return functional.linear(functional.linear(functional.linear(input, v.t()), core), u, bias)


def cp_linear(input: Tensor, weight: tuple[Tensor, Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
    """``(x B * c) Aᵀ``."""
    a, b, c = weight
    return functional.linear(functional.linear(input, b.t()) * c, a, bias)


def convolution(inside: Callable[..., Tensor]) -> Callable[[Callable[..., Any]], Rule]:
    """The rules of convolutions with one group, done by ``inside(op, input, weight, bias, settings)``."""

    def of(op: Callable[..., Any]) -> Rule:
        def rule(
            input: Tensor,
            weight: tuple[Tensor, ...],
            bias: Tensor | None = None,
            stride: Any = 1,
            padding: Any = 0,
            dilation: Any = 1,
            groups: int = 1,
        ) -> Any:
            # a group's filters see a part of the input only, and factors would see another one for each group
            return inside(op, input, weight, bias, (stride, padding, dilation)) if groups == 1 else NotImplemented

        return rule

    return of


def low_rank_convolution(
    op: Callable[..., Any], input: Tensor, weight: tuple[Tensor, Tensor], bias: Tensor | None, settings: tuple[Any, ...]
) -> Any:
    """The thin convolution, and one over single points."""
    thin, tall = weight
    return op(op(input, thin, None, *settings), pointwise(tall, op), bias)


def tucker_convolution(
    op: Callable[..., Any], input: Tensor, weight: tuple[Tensor, ...], bias: Tensor | None, settings: tuple[Any, ...]
) -> Any:
    """A 1 x 1 convolution, the core, a 1 x 1 convolution."""
    core, u, v = weight
    narrow = op(input, pointwise(v.t(), op))
    return op(op(narrow, core, None, *settings), pointwise(u, op), bias)


def cp_convolution(
    op: Callable[..., Any], input: Tensor, weight: tuple[Tensor, ...], bias: Tensor | None, settings: tuple[Any, ...]
) -> Any:
    """A 1 x 1 convolution, one for each channel by itself, a 1 x 1 convolution."""
    a, b, c = weight
    narrow = op(input, pointwise(b.t(), op))
    return op(op(narrow, c.unsqueeze(1), None, *settings, c.shape[0]), pointwise(a, op), bias)


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
    if groups != 1:
        return NotImplemented
    first, down, across, last = weight
    (high, wide), (tall, long) = pair(stride), pair(dilation)
    # "same" and "valid" mean the same along each direction by itself
    padded = (padding, padding) if isinstance(padding, str) else ((pair(padding)[0], 0), (0, pair(padding)[1]))
    narrow = functional.conv2d(input, pointwise(first.t(), functional.conv2d))
    downward = down.movedim(-1, 0).unsqueeze(-1)
    narrow = functional.conv2d(narrow, downward, None, (high, 1), padded[0], (tall, 1))
    sideways = across.movedim(-1, 0).unsqueeze(-2)
    narrow = functional.conv2d(narrow, sideways, None, (1, wide), padded[1], (1, long))
    return functional.conv2d(narrow, pointwise(last.t(), functional.conv2d), bias)


def pointwise(matrix: Tensor, op: Callable[..., Any]) -> Tensor:
    """A matrix (out, in) as the weight of a convolution over single points."""
    for _ in range(CONVOLUTIONS[op]):  # in a trace a transposed factor has no sizes to reshape by
        matrix = matrix.unsqueeze(-1)
    return matrix


def pair(setting: Any) -> tuple[int, int]:
    """A setting for both directions."""
    if isinstance(setting, int):
        return setting, setting
    found = tuple(setting)
    return found if len(found) == 2 else found * 2


LOW_RANK: dict[Callable[..., Any], Rule] = {
    functional.linear: low_rank_linear,
    **{op: convolution(low_rank_convolution)(op) for op in CONVOLUTIONS},
}
TUCKER: dict[Callable[..., Any], Rule] = {
    functional.linear: tucker_linear,
    **{op: convolution(tucker_convolution)(op) for op in CONVOLUTIONS},
}
CP: dict[Callable[..., Any], Rule] = {
    functional.linear: cp_linear,
    **{op: convolution(cp_convolution)(op) for op in CONVOLUTIONS},
}
TRAIN: dict[Callable[..., Any], Rule] = {functional.conv2d: train_convolution}
