"""UnitScale and WeightScale: the length of every slice is one, or trained apart from its direction."""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage, Role, State
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require, whole_number, why_not_dim
from computed.constraints.slice_scaling import (
    divisors_of,
    largest_entries,
    lengths,
    one_each,
    scaled,
    scaled_to,
)
from computed.constraints.slices_together import scaled_rows
from computed.constraints.stored import Stored
from computed.evaluation import promoted
from computed.linalg import in_double
from computed.power_iteration import is_small
from computed.scaled import Number, Scaled
from computed.site import Site
from computed.together import Evaluated, Together
from computed.torch_private import is_jit_tracing

# Lengths from which squares neither overflow nor vanish in float32; other directions are scaled to length one.
SAFE = (1e-15, 1e15)


class Sliced(Described, Constraint):
    """A constraint on slices along ``dim``; None means the whole tensor."""

    dim: int | None

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = None if dim is None else whole_number(f"{self.spec_name}: dim", dim)

    def settings(self) -> dict[str, object]:
        """The dimension."""
        return {"dim": self.dim}

    def bind(self, site: Site) -> None:
        """Count the dimension from the front."""
        super().bind(site)
        if self.dim is not None and site.shape is not None:
            self.dim = self.dim % len(site.shape)

    def why_not(self, site: Site) -> str | None:
        """It takes what has slices."""
        if site.shape is not None and len(site.shape) == 0:
            return f"{self.spec_name} needs 1 or more dimensions, got shape (); {exempt(site)}"
        return why_not_dim(self.spec_name, site, self.dim)


class UnitScale(Sliced):
    """Every slice along ``dim`` has length one: ``value_i = x_i / |x_i|``; for None the whole tensor.

    For a weight (out, in) and ``dim=0`` slices are rows, for (out, in, k, k) filters. The projection is the
    nearest point. A raw slice without an entry above ``eps`` counts as zero and gives the slice of equal entries.
    Computed in at least float32, without overflow. Weight decay shrinks the raw and leaves the value.

    Errors:
        ValueError: ``dim`` is no whole number, ``eps`` not between 0 and 1. A dimension that the weight does
            not have is refused, and a vector with ``dim=0``, whose slices are single numbers.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), UnitScale()).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    """

    spec_name: ClassVar[str] = "unit_norm"

    def __init__(self, dim: int | None = 0, *, eps: float = 1e-12) -> None:
        super().__init__(dim)
        require(0 < eps < 1, f"unit_norm needs an eps between 0 and 1, got {eps!r}")
        self.eps = float(eps)

    def settings(self) -> dict[str, object]:
        """The dimension, and ``eps`` where it is not at its default."""
        return {"dim": self.dim} | ({} if self.eps == 1e-12 else {"eps": self.eps})

    def why_not(self, site: Site) -> str | None:
        """It takes what has slices of more than one number."""
        if site.shape is not None and site.shape.numel() == 0:
            return f"unit_norm needs a weight with entries, got shape {tuple(site.shape)}; {exempt(site)}"
        if site.shape is not None and len(site.shape) == 1 and self.dim is not None:
            return (
                f"unit_norm would make every entry of shape {tuple(site.shape)} one or minus one: its slices "
                f"along dim={self.dim} are single numbers; give dim=None for the whole, or {exempt(site)}"
            )
        return super().why_not(site)

    def forward(self, raw: Tensor) -> Tensor:
        """Divide by the largest entry, a constant as the result does not depend on it, then by the length."""
        largest = largest_entries(raw.detach(), self.dim)
        is_zero = largest <= self.eps
        moderate = torch.addcmul(is_zero.to(raw.dtype), raw, 1 / torch.where(is_zero, 1.0, largest))
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # type: ignore[attr-defined]
            recorded = is_jit_tracing()
            if not recorded:
                return scaled(moderate, torch.ones_like(largest), self.dim)
        return scaled_to(moderate, torch.ones_like(largest), self.dim)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself; where a slice is short but not zero, its direction."""
        exact = in_double(value)
        length = lengths(exact, self.dim)
        is_short = (length > 0) & (length <= 1e3 * self.eps)
        return Preimage((torch.where(is_short, exact / length, exact).to(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference of a length from one."""
        return worst((lengths(in_double(value), self.dim) - 1).abs())


class WeightScale(Sliced, Stored, Scaled, Together):
    """Weight normalisation: length ``g`` and direction ``v`` of every slice along ``dim``, trained apart.

    ``value_i = g_i v_i / |v_i|`` with ``g`` of the weight's shape but size one in all dimensions other than
    ``dim``; the whole tensor is one slice where ``dim`` is None. Every tensor is admissible: a weight in
    float32 or float64 is kept bit for bit, in half precision to the rounding of ``g``. A slice that is zero
    has ``g = 0``, and ``v`` of equal entries: `torch.nn.utils.parametrizations.weight_norm` gives NaN there,
    else the same value. Only a slice that is longer than the largest number of its dtype is shortened to
    that. Weight decay shortens ``g``, and ``v`` without effect.

    In training, `F.linear` and convolutions with a large weight are done with ``v``, and their channels are scaled by
    ``g_i / |v_i|`` where these have fewer entries: no value is made. They agree to rounding; eval takes the value.

    Errors:
        ValueError: ``dim`` is no whole number. A dimension that the weight does not have is refused.

    Reference: Salimans and Kingma, "Weight normalization", 2016 (arXiv:1602.07868), equation 2.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), WeightScale())
        >>> w.raws["g"].tolist()
        [[5.0], [2.0]]
    """

    spec_name: ClassVar[str] = "weight_norm"
    roles: ClassVar[tuple[Role, ...]] = (Role("v"), Role("g"))
    gradient_reads_raws: ClassVar[bool] = True

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__(dim)
        self.stored = torch.float32

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number a slice."""
        return shape, one_each(shape, self.dim)

    def forward(self, v: Tensor, g: Tensor) -> Tensor:
        """``v (g / |v|)``, and zero where ``v`` is."""
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # type: ignore[attr-defined]
            recorded = is_jit_tracing()
            if not recorded:
                return scaled(v, g, self.dim)
        return scaled_to(v, g, self.dim)

    def kind(self) -> Hashable:
        """Nothing more: rows are scaled."""
        return ()

    def takes_many(self, raw: Tensor) -> bool:
        """Small weights whose rows lie in memory as they are."""
        if self.dim != 0 or raw.dim() < 2 or not raw.numel() or not raw.is_contiguous():
            return False
        return is_small(raw.shape[0], raw.numel() // raw.shape[0])

    def takes_one(self, raw: Tensor) -> bool:
        """The same: of large ones no copy is kept."""
        return self.takes_many(raw)

    def evaluate_together(self, those: Sequence["WeightScale"], given: Sequence[Sequence[Tensor]]) -> Evaluated:
        """The scaled weights."""
        values, kept = scaled_rows(given)
        return Evaluated(values, [()] * len(values), kept)

    def gradients_together(self, kept: Any, cotangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Those of ``v`` and ``g`` of each."""
        found: Sequence[Tensor | None] = kept.gradients(cotangents)
        return found

    def scaled_dim(self) -> int | None:
        """Each slice has a scale of its own."""
        return self.dim

    def scale_traced(self, raws: Sequence[Tensor]) -> Tensor:
        """``g / |v|`` in a graph."""
        return self.scale_again((), raws)

    def scale_stepped(self, raws: Sequence[Tensor]) -> tuple[State, Number, Tensor]:
        """``g / |v|``, and the lengths ``|v|``."""
        v, g = map(promoted, raws)
        divisors = divisors_of(v, self.dim)
        return (), self._by_slice(g / divisors), divisors

    def scale_again(self, state: Sequence[Tensor], raws: Sequence[Tensor]) -> Tensor:
        """``g / |v|``."""
        v, g = map(promoted, raws)
        return self._by_slice(g / divisors_of(v, self.dim))

    def scale_gradients(
        self, of_weight: Tensor, of_scale: Tensor, state: Sequence[Tensor], kept: Any, raws: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """``G - v a g / |v|³`` for ``v``, and ``a / |v|`` for ``g``, with the gradient ``a`` of the scale."""
        v, g = map(promoted, raws)
        along = of_scale.view(kept.shape) / kept
        turned = -along * g / kept.square()
        if of_weight.dtype is turned.dtype:
            of_weight.addcmul_(v, turned)
        else:  # half precision is computed with in float32
            of_weight.add_(v * turned)
        return of_weight, along.to(raws[1].dtype)

    def _by_slice(self, scales: Tensor) -> Tensor:
        return scales.reshape(()) if self.dim is None else scales.reshape(-1)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself and its lengths."""
        exact = in_double(value)
        length = lengths(exact, self.dim)
        is_safe = (length >= SAFE[0]) & (length <= SAFE[1])
        unit = torch.where(length > 0, exact / length, 1.0)
        v = torch.where(is_safe, exact, unit).to(value)
        # the length of a safe slice as `forward` finds it, so that their ratio is one
        g = torch.where(is_safe.to(v.device), lengths(v, self.dim), length.to(v))
        return Preimage((v, g.clamp_max(torch.finfo(self.stored).max)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is admissible."""
        return 0.0
