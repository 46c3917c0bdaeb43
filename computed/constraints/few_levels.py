"""Binary and Ternary: entries of one size, or of that and zero."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.integers import Integers, OnGrid
from computed.constraints.measuring import worst
from computed.constraints.norms import Sliced
from computed.constraints.refusing import exempt
from computed.constraints.slice_scaling import largest_entries, slice_dims
from computed.constraints.straight_through import straight_through
from computed.linalg import in_double
from computed.site import Site


class OneSize(Sliced, OnGrid, abc.ABC):
    """Entries of each slice along ``dim`` have one size, by which their own are replaced."""

    def settings(self) -> dict[str, object]:
        """The dimension, where it is not the first."""
        return {} if self.dim == 0 else {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what has slices with entries."""
        if site.shape is not None and site.shape.numel() == 0:
            return f"{self.spec_name} needs a weight with entries, got shape {tuple(site.shape)}; {exempt(site)}"
        return super().why_not(site)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself."""
        return Preimage((value,))

    def why_no_integers(self) -> str | None:
        """They are -1, 0 and 1."""
        return None

    def integers(self, value: Tensor, raws: Sequence[Tensor]) -> Integers:
        """Signs, and the size."""
        return Integers(value.sign().to(torch.int8), largest_entries(value, self.dim), self.dim, None)


def slice_means(tensor: Tensor, axis: int | None) -> Tensor:
    """The mean of each slice."""
    dims = slice_dims(tensor.dim(), axis)
    return tensor.mean(dims, True) if len(dims) > 0 else tensor


class Binary(OneSize):
    """Entries are one size, with a sign: ``value_i = mean|x_i| sign(x_i)`` for each slice along ``dim``.

    The nearest such slice. The sign of zero is 1. The gradient is that of the raw (straight through), while the size
    is a constant. For a weight (out, in) and ``dim=0`` slices are rows, for (out, in, k, k) filters. Weight decay
    lowers the size.

    Errors:
        ValueError: ``dim`` is no whole number. A dimension that the weight does not have is refused.

    Reference: Rastegari et al., "XNOR-Net", 2016 (arXiv:1603.05279), equation 6.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, -1.0], [0.0, -2.0]]), Binary()).tolist()
        [[2.0, -2.0], [1.0, -1.0]]
    """

    spec_name: ClassVar[str] = "binary"

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__(dim)

    def forward(self, raw: Tensor) -> Tensor:
        """The mean size, with the sign."""
        size = slice_means(raw.detach().abs(), self.dim)
        return straight_through(torch.where(raw < 0, -size, size), raw)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference of a size from the mean of its slice, relative to that."""
        sizes = in_double(value).abs()
        means = slice_means(sizes, self.dim)
        return worst((sizes - means).abs() / torch.where(means > 0, means, torch.ones_like(means)))


class Ternary(OneSize):
    """Entries are zero or one size, with a sign: of each slice along ``dim`` the nearest such one.

    The ``k`` entries that are largest in size get their mean size, with ``k`` such that ``(sum of the k)² / k`` is
    largest; the rest is zero. A slice that is ternary already is kept to rounding. The gradient is that of the raw
    (straight through). ``dim`` is as for `Binary`. Weight decay lowers the size.

    Errors:
        ValueError: ``dim`` is no whole number. A dimension that the weight does not have is refused.

    Reference: Li, Zhang and Liu, "Ternary weight networks", 2016 (arXiv:1605.04711), equation 4, solved exactly.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, -5.0, 0.5, 0.0]]), Ternary()).tolist()
        [[4.0, -4.0, 0.0, 0.0]]
    """

    spec_name: ClassVar[str] = "ternary"

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__(dim)

    def forward(self, raw: Tensor) -> Tensor:
        """The largest entries get one size."""
        axis = self.dim
        if axis is None:
            rows = raw.detach().reshape(1, -1)
        else:
            rows = raw.detach().movedim(axis, 0).reshape(raw.shape[axis], -1)
        # in units of the largest, since squares of large numbers are none
        largest = rows.abs().amax(-1, True)
        unit = torch.where(largest > 0, largest, torch.ones_like(largest))
        sizes = rows.abs() / unit
        falling = sizes.sort(-1, True)[0]
        sums = falling.cumsum(-1)
        counts = torch.arange(1, sizes.shape[-1] + 1, device=raw.device).to(raw.dtype)
        best = (sums.square() / counts).argmax(-1, True)
        size = sums.gather(-1, best) / (best + 1).to(raw.dtype)
        chosen = sizes >= falling.gather(-1, best)
        found = torch.where(chosen & (sizes > 0), torch.where(rows < 0, -size, size), torch.zeros_like(sizes)) * unit
        if axis is None:
            shaped = found.reshape(raw.shape)
        else:
            shaped = found.reshape(raw.movedim(axis, 0).shape).movedim(0, axis)
        return straight_through(shaped, raw)

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference of two sizes in a slice that are not zero, relative to the largest."""
        sizes = in_double(value).abs()
        dims = slice_dims(value.dim(), self.dim)
        largest = sizes.amax(dims, True) if dims else sizes
        scale = torch.where(largest > 0, largest, torch.ones_like(largest))
        return worst(torch.where(sizes > 0, (largest - sizes) / scale, sizes))
