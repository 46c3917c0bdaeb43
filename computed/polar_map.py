"""The polar factor of a matrix that is nearly orthonormal, by products alone, with a derivative by products.

For ``X = Q H`` (m, n; m >= n) with ``H`` near I, ``Q`` is the limit of the Newton-Schulz iteration ``X (3 I - XᵀX) /
2``, and for a cotangent ``G`` of ``Q`` and ``K = QᵀG`` that of ``X`` is::

    Q Z + (G - Q K) H⁻¹    where    H Z + Z H = K - Kᵀ,

which is solved by ``Z <- (K - Kᵀ - (E Z + Z E)) / 2`` with ``E = H - I``. Where ``X`` is further away, singular values
are taken (`computed.singular_map`).

Reference: Björck and Bowie, "An iterative algorithm for computing the best estimate of an orthogonal matrix", 1971;
Higham, "Functions of matrices", 2008, theorem 8.9, for the derivative's equation.
"""

import math
from typing import Any

import torch
from torch import Tensor

from computed.linalg import newton_schulz_correction
from computed.numbers import eps_of
from computed.singular_map import SingularMap, singular_map
from computed.torch_private import inside_transform, is_jit_tracing

# |XᵀX - I|_F up to which iterations pay; H - I then is at most 0.23, and each round of both solvers gains that
NEAR = 0.5


def polar_value(matrix: Tensor) -> Tensor:
    """The factor ``Q`` of ``matrix`` (m, n; m >= n) that is nearest to it, differentiable where the rank is full."""
    # torch does not say that it exports is_scripting, and TorchScript takes no second comment behind that
    if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # type: ignore[attr-defined]
        recorded = is_jit_tracing()
        if not recorded:
            return by_distance(matrix)
    return singular_map(matrix, 1.0, 1.0)


@torch.jit.unused
def by_distance(matrix: Tensor) -> Tensor:
    """By iterations where few are needed, else by singular values."""
    if not inside_transform() and not matrix.is_meta:
        rounds = rounds_of(matrix.detach())
        if rounds is not None:
            near: Tensor = NearPolar.apply(matrix, rounds)  # type: ignore[no-untyped-call] # torch annotates nothing of it
            return near
    far: Tensor = SingularMap.apply(matrix, 1.0, 1.0)[0]  # type: ignore[no-untyped-call] # see above
    return far


@torch.jit.unused
def rounds_of(matrix: Tensor) -> int | None:
    """How many iterations ``matrix`` needs, or None where it is too far away."""
    gram = matrix.t() @ matrix
    error = float(torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)))
    if not error <= NEAR:
        return None
    rounds = 0
    while error > 4 * eps_of(matrix) * math.sqrt(len(gram)):  # to which rounding leaves it anyway
        error = 0.75 * error**2 + 0.25 * error**3
        rounds += 1
    return rounds


def solved(skew: Tensor, excess: Tensor) -> Tensor:
    """``Z`` with ``H Z + Z H = skew`` for ``H = I + excess``."""
    factor = float(torch.linalg.matrix_norm(excess))
    found = 0.5 * skew
    bound = eps_of(skew)
    left = factor
    while left > bound:
        found = 0.5 * (skew - (excess @ found + found @ excess))
        left *= factor
    return found


class NearPolar(torch.autograd.Function):
    """The polar factor by a number of iterations, with the derivative above."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, rounds: int) -> Tensor:
        """Iterate."""
        value = matrix.clone()
        for _ in range(rounds):
            value = value + newton_schulz_correction(value)
        ctx.save_for_backward(matrix, value)
        return value

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """The cotangent of the matrix; to be differentiated again, that of the singular value decomposition."""
        matrix, value = ctx.saved_tensors
        given = cotangents[0]
        if torch.is_grad_enabled():
            again = SingularMap.apply(matrix, 1.0, 1.0)[0]  # type: ignore[no-untyped-call] # torch annotates nothing of it
            return (*torch.autograd.grad(again, matrix, given, create_graph=True), None)
        stretch = value.t() @ matrix
        stretch = 0.5 * (stretch + stretch.t())
        excess = stretch - torch.eye(len(stretch), dtype=stretch.dtype, device=stretch.device)
        inside = value.t() @ given
        turned = value @ solved(inside - inside.t(), excess)
        if matrix.shape[0] == matrix.shape[1]:
            return turned, None
        normal = given - value @ inside
        return turned + torch.linalg.solve(stretch, normal, left=False), None
