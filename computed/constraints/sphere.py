"""Sphere and Frobenius: slices, or the whole weight, of one given length."""

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.norms import UnitScale
from computed.constraints.refusing import require
from computed.constraints.slice_scaling import lengths
from computed.linalg import in_double
from computed.site import Site


class OfLength(Described, Constraint):
    """Slices of length ``length``: those of `UnitScale`, scaled."""

    def __init__(self, length: float, dim: int | None) -> None:
        super().__init__()
        require(0 < length < math.inf, f"{self.spec_name} needs a positive finite length, got {length!r}")
        self.length = float(length)
        self.unit = UnitScale(dim)

    def why_not(self, site: Site) -> str | None:
        """It takes what has slices of more than one number."""
        reason = self.unit.why_not(site)
        return None if reason is None else reason.replace("unit_norm", self.spec_name)

    def bind(self, site: Site) -> None:
        """Count the dimension from the front."""
        self.unit.bind(site)

    def forward(self, raw: Tensor) -> Tensor:
        """The direction, scaled."""
        unit: Tensor = self.unit(raw)
        return unit * self.length

    def right_inverse(self, value: Tensor) -> Preimage:
        """That of the direction."""
        return self.unit.right_inverse(value)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference of a length, relatively."""
        return worst((lengths(in_double(value), self.unit.dim) / self.length - 1).abs())


class Sphere(OfLength):
    """Every slice along ``dim`` has length ``radius``: ``value_i = radius x_i / |x_i|``.

    As `UnitScale`, which is the sphere of radius 1: the nearest point, defined for zero slices too. Weight decay
    changes raws and no value, so it raises the rate at which directions turn.

    Errors:
        ValueError: ``radius`` is not positive and finite. As for `UnitScale`.

    Example:
        >>> import torch
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), Sphere(5.0)).tolist()
        [[3.0, 4.0], [0.0, 5.0]]
    """

    spec_name: ClassVar[str] = "sphere"

    def __init__(self, radius: float = 1.0, *, dim: int | None = 0) -> None:
        super().__init__(radius, dim)

    def settings(self) -> dict[str, object]:
        """The radius, and the dimension where it is not the first."""
        given: dict[str, object] = {"radius": self.length}
        return given | ({} if self.unit.dim == 0 else {"dim": self.unit.dim})


class Frobenius(OfLength):
    """The whole weight has length ``norm``: ``value = norm W / |W|``, with the Frobenius norm.

    An upper bound of every singular value, and the nearest point. Weight decay changes the raw and not the value.

    Errors:
        ValueError: ``norm`` is not positive and finite.

    Example:
        >>> import torch
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), Frobenius(10.0)).tolist()
        [[6.0, 0.0], [0.0, 8.0]]
    """

    spec_name: ClassVar[str] = "frobenius"

    def __init__(self, norm: float = 1.0) -> None:
        super().__init__(norm, None)

    def settings(self) -> dict[str, object]:
        """The norm."""
        return {"norm": self.length}
