"""How far a projection moves a weight: relative Frobenius distance, and the largest singular value before and after."""

import math

import torch
from torch import Tensor

from computed.constraint import Constraint
from computed.linalg import as_matrix
from computed.preparing import Prepared
from computed.singular_values import largest_singular_value
from computed.site import Site
from surgery.proposal import Measures


def measure(value: Tensor, prepared: Prepared) -> Measures:
    """Compare ``value`` with what the prepared chain makes of it."""
    after = prepared.value
    if value.is_meta or after is None:
        return Measures()
    with torch.no_grad():
        return Measures(
            moved=None if prepared.reshapes else relative_distance(value, after),
            sigma_before=sigma_max(value, prepared.site),
            sigma_after=sigma_max(after, prepared.site),
            scaled_up=scaled_up(value, prepared),
        )


def relative_distance(before: Tensor, after: Tensor) -> float:
    """``|after - before| / |before|`` in the Frobenius norm; infinite where ``before`` is 0 and ``after`` is not."""
    moved = float(torch.linalg.vector_norm((after - before).double()))
    length = float(torch.linalg.vector_norm(before.double()))
    if moved == 0.0:
        return 0.0
    return moved / length if length else float("inf")


def sigma_max(value: Tensor, site: Site) -> float | None:
    """The largest singular value of a matrix, or of a convolution's weight as (out, in * k); None for all else."""
    if value.numel() == 0 or (value.dim() != 2 and site.convolution is None):
        return None
    rows = 1 if value.dim() > 2 and site.convolution is not None and site.convolution.transposed else 0
    found = largest_singular_value(as_matrix(value, rows))
    return found if math.isfinite(found) else None


def scaled_up(value: Tensor, prepared: Prepared) -> bool:
    """Whether the last constraint makes the value larger than it was."""
    last = prepared.modules[-1]
    assert prepared.preimages is not None
    return isinstance(last, Constraint) and last.scales_up(value, prepared.preimages[-1].state)
