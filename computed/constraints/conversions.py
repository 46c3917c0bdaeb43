"""Constraints from what is no constraint: a plain function, a Transform of `torch.distributions`."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from computed.constraint import Constraint, Preimage
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt
from computed.errors import ConstraintRefusedError
from computed.site import Site

Function = Callable[[Tensor], Tensor]


class FunctionConstraint(Constraint):
    """``value = f(raw)`` for a plain function ``f`` of one tensor, which keeps its shape.

    The raw of a value is ``inverse(value)``; without an inverse it is the value itself, so the weight changes
    to ``f`` of itself, and writes do not come back as they were. It runs in at least float32. Pickles where
    ``f`` does.
    """

    scriptable: ClassVar[bool] = False  # any Python function may be in it

    def __init__(self, f: Function, inverse: Function | None = None) -> None:
        super().__init__()
        self.f = f
        self.inverse = inverse

    def extra_repr(self) -> str:
        """The names of the functions."""
        return _name(self.f) if self.inverse is None else f"{_name(self.f)}, inverse={_name(self.inverse)}"

    def forward(self, raw: Tensor) -> Tensor:
        """Call the function."""
        return _tensor_of(self.f, raw)

    def right_inverse(self, value: Tensor) -> Preimage:
        """Call the inverse, where there is one."""
        return Preimage((value if self.inverse is None else _tensor_of(self.inverse, value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far ``f(inverse(value))`` is from ``value``, relatively; 0.0 without an inverse."""
        return 0.0 if self.inverse is None else _distance(value, self.f(self.inverse(value)))


def function(f: Function, inverse: Function | None = None) -> FunctionConstraint:
    """A constraint from a plain function of the weight: ``value = f(raw)``.

    Args:
        f: maps a float tensor to one of the same shape, differentiably.
        inverse: maps a value to a raw with ``f(inverse(value)) == value`` where the value is admissible, and
            to one whose value is near where it is not; without it the value is taken as the raw.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> square = function(torch.square, inverse=torch.sqrt)
        >>> ComputedParameter.from_value(torch.tensor([1.0, 4.0]), square).tolist()
        [1.0, 4.0]
    """
    return FunctionConstraint(f, inverse)


class TransformConstraint(Constraint):
    """``value = transform(raw)`` for a Transform of `torch.distributions` that keeps the shape.

    The raw of a value is ``transform.inv(value)``, after clamping to the codomain where that is an interval
    or a half line; on other codomains (a simplex) values outside get the raw that the inverse gives, with
    numbers in place of NaN and infinity. It runs in at least float32. The transform's cache is left out.
    Pickles where the transform does.

    Example:
        >>> from torch.distributions import ExpTransform
        >>> TransformConstraint(ExpTransform()).right_inverse(torch.ones(2))
        Preimage(raws=(tensor([0., 0.]),), state=())
    """

    scriptable: ClassVar[bool] = False  # transforms are no modules

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform.with_cache(0)

    def extra_repr(self) -> str:
        """The transform."""
        return repr(self.transform)

    def why_not(self, site: Site) -> str | None:
        """It takes what the transform takes and gives back in the same shape."""
        if site.shape is None:
            return None
        needed = self.transform.domain.event_dim
        if len(site.shape) < needed:
            got = f"got shape {tuple(site.shape)}"
            return f"{self.transform} needs {needed} or more dimensions, {got}; {exempt(site)}"
        shape = tuple(self.transform.forward_shape(site.shape))
        if shape == tuple(site.shape):
            return None
        return f"{self.transform} changes the shape {tuple(site.shape)} to {shape}; {exempt(site)}"

    def forward(self, raw: Tensor) -> Tensor:
        """Call the transform."""
        value: Tensor = self.transform(raw)
        return value

    def right_inverse(self, value: Tensor) -> Preimage:
        """Call its inverse on what is nearest in the codomain."""
        raw: Tensor = self.transform.inv(_nearest_inside(self.transform, value))
        return Preimage((torch.nan_to_num(raw, nan=0.0),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """0.0 in the codomain, else how far the value of the raw is away, relative to the largest entry."""
        if bool(self.transform.codomain.check(value).all()):
            return 0.0
        tiniest = torch.finfo(torch.float64).tiny
        return max(_distance(value, self.transform(self.right_inverse(value).raws[0])), tiniest)


def _nearest_inside(transform: Transform, value: Tensor) -> Tensor:
    """``value``, clamped to the numbers strictly between the ends of the codomain."""
    low, high = _ends(transform, value)
    tiny = torch.finfo(value.dtype).tiny
    lowest = torch.where(low == 0, tiny, torch.nextafter(low, torch.full_like(low, math.inf)))
    highest = torch.where(high == 0, -tiny, torch.nextafter(high, torch.full_like(high, -math.inf)))
    return torch.minimum(torch.maximum(value, lowest), highest)


def _ends(transform: Transform, value: Tensor) -> tuple[Tensor, Tensor]:
    """Between which numbers the values of ``transform`` lie, entry by entry; infinite where not known."""
    found = transform.codomain
    while isinstance(found, constraints.independent):
        found = found.base_constraint
    low, high = torch.full_like(value, -math.inf), torch.full_like(value, math.inf)
    if transform.bijective and transform.domain is constraints.real and found.event_dim == 0:
        # a bijection of the real line rises or falls, so its ends are those of the codomain (which, of a
        # composed transform, is only that of its last part)
        first, last = transform(low), transform(high)
        return torch.fmin(first, last), torch.fmax(first, last)
    if isinstance(found, constraints.greater_than | constraints.greater_than_eq | constraints.interval):
        low = low.copy_(torch.as_tensor(found.lower_bound))
    if isinstance(found, constraints.less_than | constraints.interval):
        high = high.copy_(torch.as_tensor(found.upper_bound))
    return low, high


def _tensor_of(f: Function, tensor: Tensor) -> Tensor:
    result: object = f(tensor)
    if isinstance(result, Tensor):
        return result
    raise ConstraintRefusedError(f"function({_name(f)}): it returned {type(result).__name__}, expected a tensor")


def _distance(value: Tensor, other: Tensor) -> float:
    distance = worst((value - other).abs())
    return distance / max(worst(value.abs()), 1.0) if math.isfinite(distance) else math.inf


def _name(f: Function) -> str:
    found: str = getattr(f, "__qualname__", repr(f))
    return found
