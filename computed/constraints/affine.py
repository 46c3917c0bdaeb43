"""Affine and EqualizedRate: the weight is a raw times a constant."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.describing import Described
from computed.constraints.refusing import exempt, require, whole_number, why_not_dim
from computed.constraints.stored import Stored
from computed.site import Site


class Affine(Described, Stored):
    """``value = scale raw + shift``: any tensor, in other units.

    It makes an optimizer's steps ``scale`` times as large for the value, and weight decay moves entries towards
    ``shift``: with ``shift=1`` a gain decays to one. A tensor is kept to rounding of the larger of itself and the
    shift.

    Errors:
        ValueError: ``scale`` is zero, or a number is not finite.

    Example:
        >>> import torch
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([1.0, 3.0]), Affine(2.0, shift=1.0))
        >>> w.raws["raw"].tolist(), w.tolist()
        ([0.0, 1.0], [1.0, 3.0])
    """

    spec_name: ClassVar[str] = "affine"

    def __init__(self, scale: float, *, shift: float = 0.0) -> None:
        super().__init__()
        right = math.isfinite(scale) and math.isfinite(shift) and scale != 0
        require(right, f"affine needs a finite scale that is not zero, and a finite shift, got {scale!r} and {shift!r}")
        self.scale = float(scale)
        self.shift = float(shift)
        self.stored = torch.float32

    def settings(self) -> dict[str, object]:
        """The scale, and the shift where there is one."""
        given: dict[str, object] = {"scale": self.scale}
        return given | ({"shift": self.shift} if self.shift else {})

    def forward(self, raw: Tensor) -> Tensor:
        """The map; without a shift it adds none, which would clear the sign of a negative zero."""
        return raw * self.scale if self.shift == 0.0 else raw * self.scale + self.shift

    def right_inverse(self, value: Tensor) -> Preimage:
        """The inverse of the map."""
        largest = float(torch.finfo(self.stored).max)
        return Preimage((((value - self.shift) / self.scale).clamp(-largest, largest),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is admissible."""
        return 0.0


class EqualizedRate(Described, Stored):
    """Equalized learning rate: ``value = c raw`` with ``c = gain / sqrt(fan_in)``, so that raws have size one.

    ``fan_in`` is the number of entries of a slice along ``dim``: in * k for a convolution (out, in, k). Every tensor
    is admissible and kept to one rounding, bit for bit where ``c`` is a power of two. With Adam all layers then learn
    at one relative rate. Weight decay acts on the raws, so it is ``c²`` times as strong for SGD.

    Errors:
        ValueError: ``gain`` is not positive and finite. A weight without that dimension is refused.

    Reference: Karras et al., "Progressive growing of GANs", 2018 (arXiv:1710.10196), section 4.1.

    Example:
        >>> import torch
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.ones(2, 4), EqualizedRate())
        >>> w.raws["raw"].tolist()
        [[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]]
    """

    spec_name: ClassVar[str] = "equalized_lr"

    def __init__(self, gain: float = 1.0, *, dim: int = 0) -> None:
        super().__init__()
        require(0 < gain < math.inf, f"equalized_lr needs a positive finite gain, got {gain!r}")
        self.gain = float(gain)
        self.dim = whole_number("equalized_lr: dim", dim)
        self.fan_in = 1
        self.stored = torch.float32

    def settings(self) -> dict[str, object]:
        """The gain, and the dimension where it is not the first."""
        given: dict[str, object] = {"gain": self.gain}
        return given | ({"dim": self.dim} if self.dim else {})

    def why_not(self, site: Site) -> str | None:
        """It takes what has slices."""
        shape = site.shape
        if shape is not None and (len(shape) == 0 or shape.numel() == 0):
            return f"equalized_lr needs a weight with slices, got shape {tuple(shape)}; {exempt(site)}"
        return why_not_dim("equalized_lr", site, self.dim)

    def bind(self, site: Site) -> None:
        """Count the entries of a slice."""
        super().bind(site)
        if site.shape is not None:
            self.dim = self.dim % len(site.shape)
            self.fan_in = site.shape.numel() // site.shape[self.dim]

    def factor(self) -> float:
        """``gain / sqrt(fan_in)``."""
        return float(self.gain / float(self.fan_in) ** 0.5)

    def forward(self, raw: Tensor) -> Tensor:
        """The raw times a constant."""
        return raw * self.factor()

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value over the constant."""
        return Preimage((self.fitting(value / self.factor()),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is admissible."""
        return 0.0
