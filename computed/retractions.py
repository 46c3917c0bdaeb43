"""Ways from a matrix with orthonormal columns along a step, staying orthonormal, to first order all the same.

Each takes ``base`` (m, n; m >= n) and ``delta`` (m, n). ``delta`` is first projected to the tangent space at ``base``:
``T = base S + P`` with ``S`` skew and ``P`` orthogonal to ``base``.
"""

import torch
from torch import Tensor

from computed.linalg import newton_schulz_correction
from computed.polar_map import polar_value


def tangent(base: Tensor, delta: Tensor) -> Tensor:
    """``delta`` projected to the tangent space: ``delta - base sym(baseᵀ delta)``."""
    inside = base.t() @ delta
    return delta - base @ (0.5 * (inside + inside.t()))


def horizontal(base: Tensor, delta: Tensor) -> Tensor:
    """The part of ``delta`` that leaves the span of ``base``."""
    return delta - base @ (base.t() @ delta)


def cayley_retraction(base: Tensor, delta: Tensor) -> Tensor:
    """By the Cayley transform of a skew matrix.

    With ``C = baseᵀ delta``, ``S = (C - Cᵀ) / 2``, ``P = delta - base C``::

        Q = (2 base + P) (I - S/2 + PᵀP/4)⁻¹ - base

    This is ``(I - A/2)⁻¹ (I + A/2) base`` for ``A = P baseᵀ - base Pᵀ + base S baseᵀ``, with the inverse
    brought from size m to size n. The symmetric part of what is inverted is at least I, so ``Q`` is defined
    and smooth for every ``delta``, and for zero it is ``base``, bit for bit.

    Reference: Wen and Yin, "A feasible method for optimization with orthogonality constraints", 2013, lemma
    4.
    """
    inside = base.t() @ delta
    middle = torch.eye(base.shape[1], dtype=base.dtype, device=base.device) - 0.25 * (inside - inside.t())
    if base.shape[0] == base.shape[1]:
        # there is no normal part; a solve is two thirds of an inverse and a product here, and more where m >
        # n
        turned: Tensor = torch.linalg.solve(middle, 2 * base, left=False)
        return turned - base
    normal = delta - base @ inside
    inverse: Tensor = torch.linalg.inv(middle + 0.25 * (normal.t() @ normal))
    return (2 * base + normal) @ inverse - base


def polar_retraction(base: Tensor, delta: Tensor) -> Tensor:
    """By the polar factor of ``base + T``, whose singular values are 1 or more.

    Reference: Absil, Mahony and Sepulchre, "Optimization algorithms on matrix manifolds", 2008, example 4.1.3.
    """
    return polar_value(base + tangent(base, delta))


def qr_retraction(base: Tensor, delta: Tensor) -> Tensor:
    """By the ``Q`` of ``base + T = Q R`` with a positive diagonal of ``R``.

    Reference: Absil, Mahony and Sepulchre, "Optimization algorithms on matrix manifolds", 2008, example 4.1.3.
    """
    q, r = torch.linalg.qr(base + tangent(base, delta))
    sign = torch.where(r.detach().diagonal() < 0, -1.0, 1.0).to(q.dtype)
    value: Tensor = q * sign
    return value


def drifts(base: Tensor, kind: str) -> bool:
    """Whether long steps leave more than rounding in ``QᵀQ - I``: where a small inverse or a power makes up a tall one.

    In float32 a solve of the whole square and both decompositions stay at about 2e-6 whatever the step.
    """
    return kind == "exp" or (kind == "cayley" and base.shape[0] != base.shape[1])


def taken_back(value: Tensor, length: Tensor) -> Tensor:
    """``value`` without errors of `drifts`, which grow with the length of a step; as it is without one."""
    return value + (newton_schulz_correction(value) * (1 - 0.01 / (0.01 + length))).detach()


def taken_back_whole(value: Tensor, length: Tensor) -> Tensor:
    """``value`` without errors, whatever the length: those of many short steps, one from the other, would add up."""
    correction = newton_schulz_correction(value)
    return value + torch.where(length == 0, torch.zeros_like(correction), correction).detach()


def at_base(value: Tensor, base: Tensor, length: Tensor) -> Tensor:
    """``base`` itself, bit for bit, with the derivative of ``value``, where there is no step; else ``value``."""
    return value + torch.where(length == 0, base - value, torch.zeros_like(base)).detach()
