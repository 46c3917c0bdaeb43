"""A matrix with its singular values cut off at two ends, with a derivative that ties leave whole.

For ``W = U diag(s) Vᵀ`` (m, n) the value is ``U diag(f(s)) Vᵀ`` with ``f(s) = clip(s, low, high)``. For a direction
``D`` and ``H = Uᵀ D V``, in the smaller side, its derivative is::

    U [ P ∘ (H + Hᵀ)/2 + M ∘ (H - Hᵀ)/2 ] Vᵀ + (I - U Uᵀ) D V diag(f/s) Vᵀ + U diag(f/s) Uᵀ D (I - V Vᵀ)

with ``P_ij = (f_i - f_j) / (s_i - s_j)``, the slope of ``f`` where they are equal, and ``M_ij = (f_i + f_j) / (s_i +
s_j)``. It is its own adjoint, and finite where singular values are equal, unlike the derivative through ``U`` and
``V``.

Reference: Noferini, "A formula for the Fréchet derivative of a generalized matrix function", 2017, corollary 3.1.
"""

from typing import Any

import torch
from torch import Tensor

TINY = 1e-30
# relative to the largest: what second derivatives are off by, at most, and enough for float64 to tell vectors apart
APART = 1e-7
AT_BOUND = 2e-5


def cut_off(s: Tensor, low: float, high: float) -> Tensor:
    """``clip(s, low, high)``."""
    return s.clamp(low, high)


def singular_map(matrix: Tensor, low: float, high: float) -> Tensor:
    """The value for compiled and scripted code, with its first derivative; torch's own is NaN where values tie."""
    u, s, vh = torch.linalg.svd(matrix.detach(), full_matrices=False)
    value: Tensor = (u * s.clamp(low, high)) @ vh
    # what is added is zero, and has the derivative
    return value + differential(matrix - matrix.detach(), u, s, vh, low, high)


def differential(
    direction: Tensor,
    u: Tensor,
    s: Tensor,
    vh: Tensor,
    low: float,
    high: float,
    tiny: float = TINY,  # TorchScript reads no constants of modules
    at_bound: float = AT_BOUND,
) -> Tensor:
    """The derivative of the value in ``direction``, which is its own adjoint."""
    # an insertion leaves singular values at the bounds, give or take rounding: they count as inside, and go on training
    is_inside = (s >= low * (1 - at_bound)) & (s <= high * (1 + at_bound))
    if low >= high:
        is_inside = torch.zeros_like(is_inside)
    f = torch.where(is_inside, s, cut_off(s, low, high))
    column, row = s.unsqueeze(-1), s.unsqueeze(-2)
    gap = column - row
    is_tie = gap.abs() <= 1e-9 * (column + row)
    slope = is_inside.to(s.dtype)
    slopes = 0.5 * (slope.unsqueeze(-1) + slope.unsqueeze(-2))
    difference = f.unsqueeze(-1) - f.unsqueeze(-2)
    even = torch.where(is_tie, slopes, difference / torch.where(is_tie, torch.ones_like(gap), gap))
    total = (column + row).clamp_min(tiny)
    odd = torch.where(column + row > tiny, (f.unsqueeze(-1) + f.unsqueeze(-2)) / total, torch.zeros_like(total))
    ratio = torch.where(s > tiny, f / s.clamp_min(tiny), torch.zeros_like(s))
    left, right = u.transpose(-2, -1) @ direction, direction @ vh.transpose(-2, -1)
    inside = left @ vh.transpose(-2, -1)
    turned = even * (inside + inside.transpose(-2, -1)) / 2 + odd * (inside - inside.transpose(-2, -1)) / 2
    result: Tensor = u @ turned @ vh
    if u.shape[-2] > u.shape[-1]:
        result = result + ((right - u @ inside) * ratio.unsqueeze(-2)) @ vh
    if vh.shape[-1] > vh.shape[-2]:
        result = result + (u * ratio.unsqueeze(-2)) @ (left - inside @ vh)
    return result


def apart(matrix: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """``matrix`` with its singular values moved apart by a little: the derivatives of vectors need that."""
    count = s.shape[-1]
    ramp = torch.arange(count, 0, -1, device=s.device).to(matrix.dtype) / count
    moved = s.detach().to(matrix.dtype) * ramp * APART
    return matrix + (u.detach().to(matrix.dtype) * moved.unsqueeze(-2)) @ vh.detach().to(matrix.dtype)


class SingularMap(torch.autograd.Function):
    """`singular_map` with the derivative above."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The value, and the singular values and vectors."""
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return (u * cut_off(s, low, high).unsqueeze(-2)) @ vh, u, s, vh

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the derivative needs."""
        matrix, ctx.low, ctx.high = inputs
        ctx.save_for_backward(matrix, *output[1:])
        ctx.save_for_forward(matrix, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient; to be differentiated again, singular vectors are functions of the matrix."""
        matrix, u, s, vh = ctx.saved_tensors
        if cotangents[0] is None:
            return None, None, None
        if not torch.is_grad_enabled():
            return differential(cotangents[0], u, s, vh, ctx.low, ctx.high), None, None
        again = torch.linalg.svd(apart(matrix.double(), u, s, vh), full_matrices=False)
        gradient = differential(cotangents[0].double(), again[0], again[1], again[2], ctx.low, ctx.high)
        exact = differential(cotangents[0], u, s, vh, ctx.low, ctx.high)
        # what it is, with derivatives of what is off by as much as singular values were moved
        return exact.detach() + (gradient - gradient.detach()).to(matrix.dtype), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The tangent of the value."""
        _, u, s, vh = ctx.saved_tensors
        if tangents[0] is None:
            return None, None, None, None
        return differential(tangents[0], u, s, vh, ctx.low, ctx.high), None, None, None
