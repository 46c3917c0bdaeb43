"""The largest singular value: one warm power step for training, convergence for eval, exactness for checks."""

import torch
from torch import Tensor

from computed.linalg import in_double


def unit(vector: Tensor, otherwise: Tensor) -> Tensor:
    """``vector`` at length one, without overflow; ``otherwise`` where it is zero."""
    largest = vector.abs().amax()
    scaled = vector / torch.where(largest > 0, largest, 1.0)
    length = torch.linalg.vector_norm(scaled)
    return torch.where(length > 0, scaled / length.clamp_min(0.5), otherwise)


def power_steps(matrix: Tensor, u: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """``steps`` steps of the power iteration from ``v``: ``u = W v / |W v|``, ``v = Wᵀ u / |Wᵀ u|``.

    A zero matrix leaves the vectors as they are. Reference: Miyato et al., "Spectral normalization for generative
    adversarial networks", 2018 (arXiv:1802.05957), algorithm 1.
    """
    for _ in range(steps):
        u = unit(torch.mv(matrix, v), u)
        v = unit(torch.mv(matrix.t(), u), v)
    return u, v


def leading_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The left and right singular vector of the largest singular value, by the Gram matrix in float64."""
    exact = in_double(matrix)
    largest = exact.abs().amax()
    exact = exact / torch.where(largest > 0, largest, 1.0)
    wide = exact.shape[0] <= exact.shape[1]
    small = exact if wide else exact.T
    first = torch.linalg.eigh(small @ small.T).eigenvectors[:, -1]
    even = small.new_full((small.shape[1],), small.shape[1] ** -0.5)
    second = unit(torch.mv(small.T, first), even)
    pair = (first, second) if wide else (second, first)
    return pair[0].to(matrix), pair[1].to(matrix)


def largest_singular_value(matrix: Tensor) -> float:
    """The largest singular value, exact to rounding in float64: the root of the Gram matrix's largest eigenvalue."""
    exact = in_double(matrix)
    largest = float(exact.abs().amax())
    if largest == 0.0:
        return 0.0
    exact = exact / largest
    small = exact if exact.shape[0] <= exact.shape[1] else exact.T
    return largest * float(torch.linalg.eigvalsh(small @ small.T)[-1].clamp_min(0)) ** 0.5
