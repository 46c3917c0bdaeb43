"""Measures of violation: how far the worst entry is outside."""

import math

from torch import Tensor


def worst(errors: Tensor) -> float:
    """The largest of ``errors``: 0.0 where there is none, infinite where one is no number."""
    if errors.numel() == 0:
        return 0.0
    largest = float(errors.detach().amax())
    return math.inf if math.isnan(largest) else largest
