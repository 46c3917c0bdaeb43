"""SingularClip, AlmostOrthogonal, Polar: singular values between two bounds, which may be one."""

import abc
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.refusing import require, resolved_dim, whole_number, why_not_matrix
from computed.linalg import as_matrix, in_double, like_weight, scaled_to_one
from computed.singular_map import SingularMap, singular_map
from computed.site import Site
from computed.torch_private import is_jit_tracing


class SingularRange(Described, Constraint, abc.ABC):
    """All singular values between ``low`` and ``high``, by cutting them off."""

    def __init__(self, low: float, high: float, dim: int | None) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.dim = None if dim is None else whole_number(f"{self.spec_name}: dim", dim)
        self.rows = self.dim or 0

    @abc.abstractmethod
    def described_bounds(self) -> dict[str, object]:
        """The arguments that give the bounds."""

    def settings(self) -> dict[str, object]:
        """The bounds, and where rows run if that was given or found."""
        return self.described_bounds() | ({} if self.dim is None else {"dim": self.dim})

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix(self.spec_name, site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def forward(self, raw: Tensor) -> Tensor:
        """Cut off."""
        matrix = as_matrix(raw, self.rows)
        # torch does not say that it exports is_scripting, and TorchScript takes no second comment behind that
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # type: ignore[attr-defined]
            recorded = is_jit_tracing()
            if not recorded:
                return like_weight(self.differentiable(matrix), raw, self.rows)
        return like_weight(singular_map(matrix, self.low, self.high), raw, self.rows)

    @torch.jit.unused
    def differentiable(self, matrix: Tensor) -> Tensor:
        """With the derivative written out."""
        value: Tensor = SingularMap.apply(matrix, self.low, self.high)[0]  # type: ignore[no-untyped-call] # torch annotates nothing of it
        return value

    def right_inverse(self, value: Tensor) -> Preimage:
        """The nearest point; the value itself where it is inside."""
        matrix = as_matrix(value, self.rows)
        scaled, largest = scaled_to_one(in_double(matrix))
        u, s, vh = torch.linalg.svd(scaled, full_matrices=False)
        s = s * largest
        inside = s.clamp(self.low, self.high)
        if bool(((inside - s).abs() <= 4 * torch.finfo(value.dtype).eps * s).all()):
            return Preimage((value,))
        return Preimage((like_weight(((u * inside) @ vh).to(value), value, self.rows),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """By how much the worst singular value is outside, relative to ``high``."""
        if not bool(value.isfinite().all()):
            return math.inf
        scaled, largest = scaled_to_one(in_double(as_matrix(value, self.rows)))
        s = torch.linalg.svdvals(scaled) * largest
        return max(0.0, float(torch.maximum(s - self.high, self.low - s).amax()) / self.high)

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of entries moves singular values by up to as many times as much as there are rows."""
        return 64 * float(torch.finfo(dtype).eps)


class SingularClip(SingularRange):
    """No singular value is above ``bound``: ``value = U diag(min(s, bound)) Vᵀ`` for ``W = U diag(s) Vᵀ``.

    The nearest point, in the Frobenius and in the spectral norm; smaller singular values stay, unlike those of
    ``spectral(bound=...)``, which scales all. A weight under the bound is kept to rounding. It takes a singular value
    decomposition at each evaluation: for weights that are small or seldom trained. Weight decay lowers singular values.

    The matrix is (out, in * k) for a convolution; ``dim`` says where rows run where the host does not.

    Errors:
        ValueError: ``bound`` is not positive and finite.

    Reference: Sedghi, Gupta and Long, "The singular values of convolutional layers", 2019 (arXiv:1805.10408), section
    3, for what it is used for.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), SingularClip(2.0))
        >>> [[round(entry, 5) for entry in row] for row in w.tolist()]
        [[2.0, 0.0], [0.0, 1.0]]
    """

    spec_name: ClassVar[str] = "singular_clip"

    def __init__(self, bound: float = 1.0, *, dim: int | None = None) -> None:
        require(0 < bound < math.inf, f"singular_clip needs a positive finite bound, got {bound!r}")
        super().__init__(0.0, float(bound), dim)

    def described_bounds(self) -> dict[str, object]:
        """The bound."""
        return {"bound": self.high}


class AlmostOrthogonal(SingularRange):
    """All singular values between ``1 - deviation`` and ``1 + deviation``, by cutting them off.

    The nearest point; a weight that is inside is kept to rounding. Cost as for `SingularClip`. Weight decay lowers
    singular values to ``1 - deviation``, and then only those of the raw.

    Errors:
        ValueError: not ``0 < deviation < 1``.

    Reference: Lezcano-Casado's ``geotorch.AlmostOrthogonal``, which keeps them there by a sigmoid.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), AlmostOrthogonal(0.25))
        >>> [[round(entry, 5) for entry in row] for row in w.tolist()]
        [[1.25, 0.0], [0.0, 1.0]]
    """

    spec_name: ClassVar[str] = "almost_orthogonal"

    def __init__(self, deviation: float, *, dim: int | None = None) -> None:
        require(0 < deviation < 1, f"almost_orthogonal needs a deviation between 0 and 1, got {deviation!r}")
        super().__init__(1.0 - float(deviation), 1.0 + float(deviation), dim)
        self.deviation = float(deviation)

    def described_bounds(self) -> dict[str, object]:
        """The deviation."""
        return {"deviation": self.deviation}


class Polar(SingularRange):
    """Orthonormal columns, or rows where there are fewer: ``value = U Vᵀ``, the factor nearest to the raw.

    What Björck's iteration converges to, for every raw, here by a singular value decomposition: it is defined, if not
    unique, for raws without full rank too. `Orthogonal` has a cheaper and smoother map to the same set. The gradient
    of a raw with small singular values is large, as those turn fast. Weight decay shrinks the raw and leaves the
    value.

    Reference: Björck and Bowie, "An iterative algorithm for computing the best estimate of an orthogonal matrix", 1971;
    Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation", 2019 (arXiv:1811.05381), for its use.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[4.0, 0.0], [0.0, -1.0]]), Polar())
        >>> [[round(entry, 5) + 0.0 for entry in row] for row in w.tolist()]
        [[1.0, 0.0], [0.0, -1.0]]
    """

    spec_name: ClassVar[str] = "bjorck"

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__(1.0, 1.0, dim)

    def described_bounds(self) -> dict[str, object]:
        """Nothing: both are one."""
        return {}
