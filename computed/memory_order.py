"""A weight as a matrix whose columns are taken in the order in which they lie in memory.

Singular values do not depend on the order of columns, and to bring those of a ``torch.channels_last`` weight into
another one copies it.
"""

import torch
from torch import Tensor

from computed.torch_private import address_of


def columns_in_memory(weight: Tensor, dim: int) -> list[int] | None:
    """The order in which the columns of `as_matrix` lie in memory, as dimensions of ``weight.movedim(dim, 0)``.

    None where that is the order they have anyway. ``torch.channels_last`` is another one, in which `as_matrix` copies.
    """
    if weight.dim() == 2 or weight.is_contiguous():
        return None
    strides = weight.movedim(dim, 0).stride()[1:]
    order = sorted(range(len(strides)), key=lambda axis: -strides[axis])
    return None if order == sorted(order) else order


def matrix_by(weight: Tensor, dim: int, order: list[int] | None) -> Tensor:
    """`as_matrix` with columns in an order of `columns_in_memory`."""
    if weight.dim() == 2:
        return weight if dim == 0 else weight.t()
    if dim == 0 and weight.is_contiguous():
        return weight.view(weight.shape[0], -1)
    rows_first = weight.movedim(dim, 0)
    if order is not None:
        rows_first = rows_first.permute(0, *(1 + axis for axis in order))
    return rows_first.reshape(rows_first.shape[0], -1)


def vector_by(vector: Tensor, weight: Tensor, dim: int, order: list[int] | None) -> Tensor:
    """A vector over the columns of `as_matrix` as one over those of `matrix_by`."""
    if order is None:
        return vector
    return vector.view(weight.movedim(dim, 0).shape[1:]).permute(order).reshape(-1)


def vector_back(vector: Tensor, weight: Tensor, dim: int, order: list[int] | None) -> Tensor:
    """The inverse of `vector_by`."""
    if order is None:
        return vector
    sizes = weight.movedim(dim, 0).shape[1:]
    there = vector.view([sizes[axis] for axis in order])
    return there.permute([order.index(axis) for axis in range(len(order))]).reshape(-1)


def in_memory(tensor: Tensor) -> Tensor:
    """The entries of a tensor without gaps, in the order in which they lie in memory."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    strides = tensor.stride()
    return tensor.permute(sorted(range(tensor.dim()), key=lambda axis: -strides[axis])).reshape(-1)


def add_outer_(weight: Tensor, dim: int, u: Tensor, v: Tensor, factor: float | Tensor) -> None:
    """Add ``factor u vᵀ`` to `as_matrix` of ``weight``, in place."""
    if isinstance(factor, float) and dim == 0 and weight.is_contiguous():  # nearly all are
        matrix_by(weight, 0, None).addr_(u, v, alpha=factor)
        return
    order = columns_in_memory(weight, dim)
    matrix = matrix_by(weight, dim, order)
    right = vector_by(v, weight, dim, order)
    number = factor if isinstance(factor, float) else 1.0
    left = u if isinstance(factor, float) else u * factor
    if address_of(matrix) == address_of(weight):
        matrix.addr_(left, right, alpha=number)
    else:  # rows do not lie apart: as_matrix is a copy
        rows_first = weight.movedim(dim, 0)
        rows_first.add_(torch.outer(left, v).view(rows_first.shape), alpha=number)
