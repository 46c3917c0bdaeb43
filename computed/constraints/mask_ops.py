"""Layers whose weight has whole output channels of zeros: these are left out of what comes out, not of the weight.

``op(x, M W) = M op(x, W)`` where ``M`` leaves channels out. No masked weight is made, and no gradient of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from computed.scaled import Layer, by_channel, is_worth, side_of_channels


def masked(
    op: Callable[..., Any],
    dim: int,
    mask: Tensor,
    input: Any,
    weight: tuple[Tensor],
    bias: Tensor | None = None,
    *args: Any,
    **settings: Any,
) -> Any:
    """``op`` with a weight of which ``mask`` keeps slices along ``dim``; NotImplemented where that does not pay.

    It does where the output has fewer entries than the weight. A channel that is left out is its bias.
    """
    (raw,) = weight
    layer = Layer(op, input, raw, bias, *args, **settings)
    if side_of_channels(op, dim) != "output" or not layer.fits():
        return NotImplemented
    if not is_worth(layer.weight, layer.entries_made()):
        return NotImplemented
    hidden = mask.movedim(dim, 0).flatten(1)[:, 0] == 0
    # a transposed convolution's weight has the output channels of one group
    hidden = by_channel(hidden.repeat(layer.groups) if dim == 1 and layer.groups != 1 else hidden, op)
    made: Tensor = op(input, raw, layer.bias, *args, **settings)
    if layer.bias is None:
        return made.masked_fill(hidden, 0.0)
    return torch.where(hidden, by_channel(layer.bias, op).to(made.dtype), made)
