"""The largest singular value: a warm power step for training, convergence for eval, exactness for checks."""

import math

import torch
from torch import Tensor

from computed.linalg import in_double, scaled_to_one
from computed.torch_private import address_of

# Up to this smaller side the eigenvectors of the Gram matrix cost less than the Lanczos steps (measured: 0.6
# ms and 2.5 ms at 64, 8 ms and 2 ms at 256, 270 ms and 7 ms at 1024).
GRAM_SIDE = 128
# Relative error of the singular value after 32 steps on Gaussian matrices up to 4096 x 4096, whose top is
# crowded: below 1e-7 from a warm start, 8e-5 from a cold one.
LANCZOS_STEPS = 32
# How much of a fixed vector is mixed into a start, which might be orthogonal to the vector that is sought.
MIXED_IN = 0.3


def unit(vector: Tensor, otherwise: Tensor) -> Tensor:
    """``vector`` at length one, without overflow; ``otherwise`` where it is zero."""
    largest = vector.abs().amax()
    scaled = vector / torch.where(largest > 0, largest, 1.0)
    length = torch.linalg.vector_norm(scaled)
    return torch.where(length > 0, scaled / torch.where(length > 0, length, 1.0), otherwise)


def power_steps(matrix: Tensor, u: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """``steps`` steps of the power iteration from ``v``: ``u = W v / |W v|``, ``v = Wᵀ u / |Wᵀ u|``.

    A zero matrix leaves the vectors as they are.

    Reference: Miyato et al., "Spectral normalization for generative adversarial networks", 2018
    (arXiv:1802.05957), algorithm 1.
    """
    for _ in range(steps):
        u = unit(torch.mv(matrix, v), u)
        v = unit(torch.mv(matrix.t(), u), v)
    return u, v


def leading_vectors(matrix: Tensor, start: Tensor | None = None, rounds: int = 1) -> tuple[Tensor, Tensor]:
    """The converged singular vectors ``u`` (m), ``v`` (n) of the largest singular value of a matrix (m, n).

    By the Gram matrix in float64 where a side is small, else by ``rounds`` times `LANCZOS_STEPS` steps from
    ``start``, an estimate of ``v``. Nothing branches on numbers, so it runs under `torch.func` transforms. A
    zero matrix has the vectors of equal entries; numbers that are not finite count as zero.
    """
    if min(matrix.shape) <= GRAM_SIDE:
        return gram_vectors(matrix)
    scaled = scaled_to_one(matrix)[0]
    u, v = even(scaled[:, 0]), even(scaled[0]) if start is None else start
    for _ in range(rounds):
        u, v = lanczos_vectors(scaled, u, v)
    return u, v


def gram_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The leading singular vectors by eigenvectors of the smaller of ``W Wᵀ`` and ``Wᵀ W``, in float64."""
    exact = scaled_to_one(in_double(matrix))[0]
    wide = exact.shape[0] <= exact.shape[1]
    small = exact if wide else exact.T
    last = torch.linalg.eigh(small @ small.T).eigenvectors[:, -1]
    other = torch.mv(small.T, last)
    other = unit(other, even(other))
    u, v = (last, other) if wide else (other, last)
    return u.to(matrix), v.to(matrix)


def lanczos_vectors(matrix: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The leading singular vectors by `LANCZOS_STEPS` steps of Golub-Kahan bidiagonalisation from ``v``.

    Reference: Golub and Kahan, "Calculating the singular values and pseudo-inverse of a matrix", 1965; Simon
    and Zha, "Low-rank matrix approximation using the Lanczos bidiagonalization process", 2000, for
    reorthogonalisation.
    """
    steps = min(LANCZOS_STEPS, *matrix.shape)
    lefts, rights = matrix.new_zeros(steps, matrix.shape[0]), matrix.new_zeros(steps, matrix.shape[1])
    band = matrix.new_zeros(steps, steps + 1)
    right = unit(v + MIXED_IN * generic(v), even(v))
    for k in range(steps):
        rights[k] = right
        lefts[k], band[k, k] = _new_direction(lefts[:k], torch.mv(matrix, right))
        right, band[k, k + 1] = _new_direction(rights[: k + 1], torch.mv(matrix.t(), lefts[k]))
    left_mix, _, right_mix = torch.linalg.svd(band[:, :steps])
    return unit(torch.mv(lefts.t(), left_mix[:, 0]), u), unit(torch.mv(rights.t(), right_mix[0]), v)


def largest_singular_value(matrix: Tensor) -> float:
    """The largest singular value, exact to rounding, from the Gram matrix's largest eigenvalue in float64.

    Infinite where a number is not finite.
    """
    largest = float(torch.linalg.vector_norm(matrix, ord=math.inf))
    if largest == 0.0:
        return 0.0
    if not math.isfinite(largest):
        return math.inf
    exact = in_double(matrix)
    # one copy in float64 and no more: of a large weight each is twice the weight
    scaled = exact / largest if address_of(exact) == address_of(matrix) else exact.div_(largest)
    small = scaled if scaled.shape[0] <= scaled.shape[1] else scaled.T
    return largest * math.sqrt(max(0.0, float(torch.linalg.eigvalsh(small @ small.T)[-1])))


def even(like: Tensor) -> Tensor:
    """The vector of equal entries and length one, as long as ``like``."""
    return torch.full_like(like, len(like) ** -0.5)


def generic(like: Tensor) -> Tensor:
    """A fixed vector of length about one, without the structure of a weight: parts of golden multiples."""
    multiples = torch.arange(len(like), device=like.device, dtype=torch.float32) * 0.6180339887
    parts: Tensor = multiples % 1.0 - 0.4
    return (parts * math.sqrt(10 / len(like))).to(like.dtype)


def _new_direction(known: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """The part of ``vector`` that is orthogonal to the rows of ``known``: its direction and its length.

    Both are zero where only rounding errors are left: the directions that can be reached are exhausted then,
    and a direction of rounding errors would not be orthogonal to what is known.
    """
    remainder = vector
    for _ in range(2):
        remainder = remainder - torch.mv(known.t(), torch.mv(known, remainder))
    length: Tensor = torch.linalg.vector_norm(remainder)
    is_new = length > 32 * torch.finfo(vector.dtype).eps * torch.linalg.vector_norm(vector)
    zero = torch.zeros_like(vector)
    direction = torch.where(is_new, unit(remainder, zero), zero)
    return direction, torch.where(is_new, length, torch.zeros_like(length))
