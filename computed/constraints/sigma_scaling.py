"""A weight scaled by a function of its largest singular value, with the derivative written out."""

from typing import Any

import torch
from torch import Tensor

from computed.linalg import as_matrix
from computed.torch_private import inside_transform


def scale_of(sigma: Tensor, target: float, eps: float, caps: bool) -> Tensor:
    """``target / sigma``, at most 1 where it ``caps``. Below ``eps``, ``sigma`` counts as ``eps``.

    A cap leaves what exceeds the target by rounding errors only as it is, so that a capped weight is not
    capped again.
    """
    scale = sigma.clamp_min(eps).reciprocal() * target
    if caps:
        slack = 4e-15 if sigma.dtype == torch.float64 else 2e-6
        scale = torch.where(sigma > target * (1 + slack), scale, 1.0)
    return scale


def sigma_along(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """``uᵀ W v`` for vectors (m), (n); ``sum_j u_jᵀ W v_j`` for pairs (2, m), (2, n): ``Re u* W v`` of complex ones."""
    if u.dim() == 1:
        return torch.dot(u, torch.mv(matrix, v))
    return (u * (v @ matrix.t())).sum()


def plus_outer(matrix: Tensor, u: Tensor, v: Tensor, in_place: bool) -> Tensor:
    """``W + u vᵀ`` for vectors, ``W + sum_j u_j v_jᵀ`` for pairs: the derivative of `sigma_along` is added."""
    if u.dim() == 1:
        return matrix.addr_(u, v) if in_place else torch.addr(matrix, u, v)
    return matrix.addmm_(u.t(), v) if in_place else torch.addmm(matrix, u.t(), v)


class SigmaScaling(torch.autograd.Function):
    """``raw * scale_of(uᵀ W v)``, ``W`` the raw as a matrix, with its derivative in 6 passes over it instead of 16.

    With ``s`` the scale and ``s'`` its derivative by sigma, the gradient of ``W`` is ``s G + s' <G, W> u
    vᵀ``: ``u`` and ``v`` are constants, as in Miyato et al., 2018 (arXiv:1802.05957), equation 9.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        raw: Tensor, u: Tensor, v: Tensor, rows: int, target: float, eps: float, caps: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The value, the scale and its derivative."""
        scale, slope = scale_and_slope(sigma_along(as_matrix(raw, rows), u, v), target, eps, caps)
        return raw * scale, scale, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the derivative needs."""
        raw, u, v, *ctx.settings = inputs
        _, scale, slope = output
        ctx.save_for_backward(raw, u, v, scale, slope)
        ctx.save_for_forward(raw, u, v, scale, slope)
        ctx.mark_non_differentiable(scale, slope)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient of ``raw``; to be differentiated again, scale and slope are functions of ``raw``."""
        raw, u, v, scale, slope = ctx.saved_tensors
        rows, *settings = ctx.settings
        given = cotangents[0]
        if given is None:
            return (None,) * 7
        if torch.is_grad_enabled():
            scale, slope = scale_and_slope(sigma_along(as_matrix(raw, rows), u, v), *settings)
        along = slope * torch.dot(given.reshape(-1), raw.reshape(-1)) * u
        gradient = as_matrix(given, rows) * scale
        # in place saves a third of the time, but transforms have no rule for it
        again = torch.is_grad_enabled() or inside_transform()
        gradient = plus_outer(gradient, along, v, in_place=not again)
        return gradient.view(raw.movedim(rows, 0).shape).movedim(0, rows), *(None,) * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The tangent of the value."""
        raw, u, v, scale, slope = ctx.saved_tensors
        moved = tangents[0]
        if moved is None:
            return None, None, None
        along = sigma_along(as_matrix(moved, ctx.settings[0]), u, v)
        return moved * scale + raw * (slope * along), None, None


def scale_and_slope(sigma: Tensor, target: float, eps: float, caps: bool) -> tuple[Tensor, Tensor]:
    """`scale_of` and its derivative by ``sigma``, entry by entry: ``-scale / sigma``, 0 where nothing depends on it."""
    scale = scale_of(sigma, target, eps, caps)
    depends = (sigma > eps) & (scale != 1) if caps else sigma > eps
    return scale, scale * depends / -sigma.clamp_min(eps)


def scales_and_slopes(sigma: Tensor, target: float, eps: float, caps: bool) -> tuple[list[float], list[float]]:
    """`scale_and_slope` of numbers in main memory, as numbers: a call of torch takes ten times as long as all of it."""
    slack = 4e-15 if sigma.dtype == torch.float64 else 2e-6
    largest = target * (1 + slack) if caps else -1.0
    scales, slopes = [], []
    for number in sigma.reshape(-1).tolist():
        clamped = max(number, eps)
        capped = caps and not number > largest
        scale = 1.0 if capped else target / clamped
        scales.append(scale)
        slopes.append(0.0 if capped or not number > eps else -scale / clamped)
    return scales, slopes
