"""The exponential of a matrix, and steps along geodesics of orthonormal columns that it gives.

Where a number of products may depend on the numbers, the exponential is a Taylor polynomial of a matrix that is halved
until it is small, and squared back: seven times as fast with its derivative as `torch.linalg.matrix_exp`, whose
derivative is the exponential of a matrix twice as large. Elsewhere (graphs, transforms) it is torch's.
"""

import math

import torch
from torch import Tensor

from computed.numbers import eps_of
from computed.torch_private import inside_transform, is_jit_tracing

DEGREE = 8
# 9! is what divides the first term that is left out
FACTORIAL = float(math.factorial(DEGREE + 1))
MOST_HALVINGS = 60  # a step is limited in length, so this is never reached
ROOT = math.sqrt(177.0)
X3 = 2.0 / 3.0
COEFFICIENTS = (
    X3 * (1 + ROOT) / 88,
    X3 * (1 + ROOT) / 352,
    (-271 + 29 * ROOT) / (315 * X3),
    11 * (-1 + ROOT) / (1260 * X3),
    11 * (-9 + ROOT) / (5040 * X3),
    (89 - ROOT) / (5040 * X3 * X3),
)
Y2 = (857 - 58 * ROOT) / 630


def taylor_exponential(matrix: Tensor) -> Tensor:
    """``sum_{k <= 8} X^k / k!`` of a square ``X``, in three products.

    Reference: Bader, Blanes and Casas, "Computing the matrix exponential with an optimized Taylor polynomial
    approximation", 2019, section 3.1.
    """
    x1, x2, x4, x5, x6, x7 = COEFFICIENTS
    identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    square = matrix @ matrix
    fourth = square @ (x1 * matrix + x2 * square)
    eighth = (X3 * square + fourth) @ (x4 * identity + x5 * matrix + x6 * square + x7 * fourth)
    return identity + matrix + Y2 * square + eighth


@torch.jit.unused
def halvings(matrix: Tensor) -> int:
    """How often a matrix ``X`` is halved until the polynomial is exact to rounding.

    By ``max(|X³|^{1/3}, |X⁴|^{1/4})``, which for what is not normal is far below the norm.

    Reference: Al-Mohy and Higham, "A new scaling and squaring algorithm for the matrix exponential", 2009, theorem 4.2.
    """
    square = matrix @ matrix
    third = float(torch.linalg.matrix_norm(square @ matrix)) ** (1 / 3)
    norm = max(third, float(torch.linalg.matrix_norm(square @ square)) ** 0.25)
    reach = (eps_of(matrix) * FACTORIAL) ** (1.0 / (DEGREE + 1))
    if not reach < norm < math.inf:
        return 0
    return min(MOST_HALVINGS, math.ceil(math.log2(norm / reach)))


def matrix_exponential(matrix: Tensor) -> Tensor:
    """``exp(X)`` of a square ``X`` (n, n); differentiable any number of times."""
    # torch does not say that it exports is_scripting, and TorchScript takes no second comment behind that
    if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # type: ignore[attr-defined]
        may_depend = not is_jit_tracing() and not inside_transform() and not matrix.is_meta
        if may_depend:
            return squared_back(matrix, halvings(matrix.detach()))
    whole: Tensor = torch.linalg.matrix_exp(matrix)
    return whole


@torch.jit.unused
def squared_back(matrix: Tensor, count: int) -> Tensor:
    """The polynomial of ``X / 2^count``, squared ``count`` times."""
    found = taylor_exponential(matrix * 0.5**count)
    for _ in range(count):
        found = found @ found
    return found


def exponential_retraction(base: Tensor, delta: Tensor) -> Tensor:
    """From ``base`` (m, n; m >= n, orthonormal columns) along ``delta``, by the exponential of a skew matrix.

    ``exp(A) base`` for the ``A`` of `computed.retractions.cayley_retraction`. Where ``base`` is square that is ``base
    exp(S)``; else ``A = U Vᵀ`` has rank 2n, and with ``B = Vᵀ base``::

        exp(A) base = base + U phi(VᵀU) B,    exp([[VᵀU, B], [0, 0]]) = [[., phi(VᵀU) B], [0, 1]]

    for ``phi(z) = (e^z - 1) / z``, so that the largest exponential has 3n rows.

    Reference: Al-Mohy and Higham, "Computing the action of the matrix exponential", 2011, theorem 2.1, for the
    augmented matrix.
    """
    inside = base.t() @ delta
    skew = 0.5 * (inside - inside.t())
    if base.shape[0] == base.shape[1]:
        return base @ matrix_exponential(skew)
    half = delta - base @ inside + 0.5 * (base @ skew)  # P + base S / 2
    count = base.shape[1]
    identity = torch.eye(count, dtype=base.dtype, device=base.device)
    zeros = torch.zeros(count, 3 * count, dtype=base.dtype, device=base.device)
    above = torch.cat([0.5 * skew, identity, identity], 1)
    below = torch.cat([-(half.t() @ half), 0.5 * skew, 0.5 * skew], 1)
    # VᵀU = [[S/2, 1], [-halfᵀ half, S/2]] and B = [1; S/2]
    whole = matrix_exponential(torch.cat([above, below, zeros], 0))
    turned = whole[: 2 * count, 2 * count :]
    return base + half @ turned[:count] + base @ turned[count:]
