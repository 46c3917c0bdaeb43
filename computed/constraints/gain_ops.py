"""Layers whose weight is a fixed one times a gain for each channel: the channels are scaled, not the weight.

``op(x, diag(g) W) = diag(g) op(x, W)`` for channels that come out, ``op(x, W diag(g)) = op(diag(g) x, W)`` for those
that go in. No scaled weight is made, and no gradient of it: that of a gain is a sum over its channel.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from computed.scaled import by_channel, side_of_channels

# How many products an entry that is scaled must take part in: below this the passes over a layer's entries take as long
# as the gradient of its weight (measured with 1,024 rows and 256 channels: 16 and 32 lose a tenth, 64 gain as much).
WORTH = 64


def pays(weight: Sequence[int], dim: int) -> bool:
    """Whether channels along ``dim`` are better scaled than a weight of these sizes."""
    return math.prod([size for axis, size in enumerate(weight) if axis != dim]) >= WORTH


def gained(
    op: Callable[..., Any],
    dim: int,
    input: Any,
    weight: tuple[Tensor, Tensor],
    bias: Tensor | None = None,
    *args: Any,
    **settings: Any,
) -> Any:
    """``op`` with a weight whose gains run along ``dim``; NotImplemented where that does not pay."""
    base, gains = weight
    if dim > 1 or not pays(base.shape, dim):
        return NotImplemented
    groups = args[3] if len(args) > 3 else settings.get("groups", 1)
    if dim == 1 and groups != 1:  # a weight has the channels of one group along this dimension
        gains = gains.repeat(groups)
    if side_of_channels(op, dim) == "input":
        return op(input * by_channel(gains, op).type_as(input), base, bias, *args, **settings)
    made = op(input, base, None, *args, **settings)
    scale = by_channel(gains, op).type_as(made)
    return made * scale if bias is None else torch.addcmul(by_channel(bias, op).type_as(made), made, scale)
