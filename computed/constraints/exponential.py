"""Exponential: every entry above zero, by its logarithm."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.elementwise import TINIEST, StrictlyBounded, next_above
from computed.constraints.measuring import worst
from computed.linalg import in_double


class Exponential(StrictlyBounded):
    """Every entry above zero: ``value = tiny + exp(raw)``, so that the raw is a logarithm.

    Strictly, in the dtype that the weight is stored in: ``tiny`` is its smallest normal number (float16: its smallest
    number), and ``exp`` stays below its largest. Steps of an optimizer are relative steps of the value: for scales and
    variances. An entry that is positive already is kept to rounding of the raw, ``|log value|`` ulp; any other starts
    at ``tiny``, the nearest one. Weight decay moves entries towards 1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([2.0, -1.0]), Exponential())
        >>> (w > 0).all().item()
        True
    """

    spec_name: ClassVar[str] = "exp"

    def __init__(self) -> None:
        super().__init__()
        self.stored = torch.float32

    def find_limits(self) -> None:
        """Find the smallest number above zero, and the logarithms between which ``exp`` stays in the dtype."""
        self.floor = next_above(0.0, self.stored)
        self.lowest = math.log(self.floor) - 40.0
        self.highest = math.log(torch.finfo(self.stored).max) * (1 - 1e-5)

    def forward(self, raw: Tensor) -> Tensor:
        """The exponential, cut off where the dtype ends."""
        return self.floor + torch.exp(raw.clamp_max(self.highest))

    def right_inverse(self, value: Tensor) -> Preimage:
        """``log(value - floor)``."""
        above = (value - self.floor).clamp(0.0, torch.finfo(value.dtype).max)
        return Preimage((torch.log(above).clamp(self.lowest, self.highest),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far the lowest entry is below zero; the tiniest number where it is zero."""
        exact = in_double(value)
        if bool((exact > 0).all()):
            return 0.0
        return max(worst(-exact), TINIEST)
