"""Slices of a tensor scaled to given lengths, with the derivative written out."""

from typing import Any

import torch
from torch import Tensor

from computed.torch_private import inside_transform, weight_norm_backward


def slice_dims(ndim: int, axis: int | None) -> list[int]:
    """The dimensions of a slice: all but ``axis``, all where that is None."""
    dims = list(range(ndim))
    if axis is not None:
        dims.pop(axis % ndim)
    return dims


def one_each(shape: torch.Size, axis: int | None) -> torch.Size:
    """The shape of one number for every slice, with all dimensions of the tensor."""
    ones = slice_dims(len(shape), axis)
    return torch.Size(1 if dim in ones else size for dim, size in enumerate(shape))


def lengths(tensor: Tensor, axis: int | None) -> Tensor:
    """The Euclidean length of every slice along ``axis`` (for None the whole tensor), with its dimensions."""
    dims = slice_dims(tensor.dim(), axis)
    if len(dims) == 0:
        return tensor.abs()
    found: Tensor = torch.linalg.vector_norm(tensor, 2.0, dims, True)
    return found


def largest_entries(tensor: Tensor, axis: int | None) -> Tensor:
    """The largest absolute value in every slice; both ends are found faster than one of absolute values."""
    dims = slice_dims(tensor.dim(), axis)
    if len(dims) == 0:
        return tensor.abs()
    return torch.maximum(tensor.amax(dims, True), -tensor.amin(dims, True))


def scaled_to(v: Tensor, g: Tensor, axis: int | None) -> Tensor:
    """``v (g / |v|)`` slice by slice, and zero where ``v`` is; for graphs."""
    return v * (g / divisors_of(v, axis))


def divisors_of(v: Tensor, axis: int | None) -> Tensor:
    """The length of every slice, and one where that is zero."""
    length = lengths(v, axis)
    return torch.where(length > 0, length, 1.0)


def scaled(v: Tensor, g: Tensor, axis: int | None) -> Tensor:
    """`scaled_to`, the same bits, with the derivative of `SliceScaling`."""
    value: Tensor = SliceScaling.apply(v, g, axis)[0]  # type: ignore[no-untyped-call]
    return value


def _is_fusible(v: Tensor, given: Tensor, axis: int | None) -> bool:
    """Whether torch's kernel takes these: it reads rows, or columns, of contiguous tensors."""
    rows_or_columns = axis is not None and v.dim() > 1 and axis % v.dim() in (0, v.dim() - 1)
    contiguous = v.is_contiguous() and given.is_contiguous()
    return rows_or_columns and contiguous and v.numel() > 0 and not inside_transform() and not v.is_meta


class SliceScaling(torch.autograd.Function):
    """`scaled_to` with its derivative in a third of the passes over the weight.

    For the cotangent ``G`` and ``a = <G, v>`` of every slice: ``a / |v|`` for ``g``, and
    ``(g / |v|) (G - a v / |v|²)`` for ``v``.

    Reference: Salimans and Kingma, "Weight normalization", 2016 (arXiv:1602.07868), equation 3.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, g: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
        """The value, and what ``v`` was divided by."""
        divisors = divisors_of(v, axis)
        return v * (g / divisors), divisors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the derivative needs."""
        v, g, ctx.axis = inputs
        ctx.save_for_backward(v, g, output[1])
        ctx.save_for_forward(v, g, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients; to be differentiated again, lengths are functions of ``v``."""
        v, g, divisors = ctx.saved_tensors
        given = cotangents[0]
        if given is None:
            return None, None, None
        again = torch.is_grad_enabled()
        if not again and weight_norm_backward is not None and _is_fusible(v, given, ctx.axis):
            return *weight_norm_backward(given, v, g, divisors, ctx.axis % v.dim()), None
        if again:
            divisors = divisors_of(v, ctx.axis)
        dims = slice_dims(v.dim(), ctx.axis)
        along = (given * v).sum(dims, True) if dims else given * v
        ratio = g / divisors
        turned = -along * ratio / divisors.square()
        kept = given * ratio
        # in place saves a pass, but transforms have no rule for it
        apart = again or inside_transform()
        gradient = torch.addcmul(kept, v, turned) if apart else kept.addcmul_(v, turned)
        return gradient, along / divisors, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The tangent of the value."""
        v, g, divisors = ctx.saved_tensors
        moved, longer, _ = tangents
        dims = slice_dims(v.dim(), ctx.axis)
        tangent = torch.zeros_like(v)
        if moved is not None:
            along = (moved * v).sum(dims, True) if dims else moved * v
            tangent = (g / divisors) * (moved - v * (along / divisors.square()))
        if longer is not None:
            tangent = tangent + v * (longer / divisors)
        return tangent, None
