"""Small weights of one shape as one tensor, and what is computed of each back at its place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from computed.memory_order import matrix_by


def places_by_shape(raws: Sequence[Tensor]) -> list[list[int]]:
    """Where in a sequence the tensors of each shape are."""
    found: dict[torch.Size, list[int]] = {}
    for i, raw in enumerate(raws):
        found.setdefault(raw.shape, []).append(i)
    return list(found.values())


def in_places(places: Sequence[Sequence[int]], parts: Sequence[Sequence[Any]]) -> list[Any]:
    """The items of groups, each at its place among all."""
    whole = [None] * sum(map(len, places))
    for where, part in zip(places, parts, strict=True):
        for i, one in zip(where, part, strict=True):
            whole[i] = one
    return whole


def with_zeros(cotangents: Sequence[Tensor | None]) -> list[Tensor]:
    """Gradients of values, zeros for those that were not used; none where no value was."""
    like = next((one for one in cotangents if one is not None), None)
    if like is None:
        return []
    return [torch.zeros_like(like) if one is None else one for one in cotangents]


def stacked(weights: Sequence[Tensor], rows: int) -> Tensor:
    """Weights as matrices (k, m, n)."""
    return torch.stack([matrix_by(weight, rows, None) for weight in weights])


def apart(matrices: Tensor, like: Tensor, rows: int) -> Sequence[Tensor]:
    """The inverse of `stacked`, for weights in the shape of ``like``."""
    if like.dim() == 2 and rows == 0:
        return matrices.unbind()
    shape = like.movedim(rows, 0).shape
    return [matrix.view(shape).movedim(0, rows) for matrix in matrices.unbind()]
