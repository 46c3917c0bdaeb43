"""Constraints from what is no constraint: a plain function, a Transform of `torch.distributions`."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Transform

from computed.constraint import Constraint, Preimage
from computed.constraints.settings import exempt
from computed.errors import ConstraintRefusedError
from computed.site import Site


class FunctionConstraint(Constraint):
    """``value = f(raw)``."""

    scriptable: ClassVar[bool] = False

    def __init__(self, f: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.f = f
        self.inverse = inverse

    def extra_repr(self) -> str:
        return getattr(self.f, "__qualname__", repr(self.f))

    def forward(self, raw: Tensor) -> Tensor:
        return self.f(raw)

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value if self.inverse is None else self.inverse(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        if self.inverse is None or not value.numel():
            return 0.0
        return float((self.f(self.inverse(value)) - value).abs().amax())


def function(
    f: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor] | None = None
) -> FunctionConstraint:
    """A constraint from a plain function of the weight, and its right inverse where there is one."""
    return FunctionConstraint(f, inverse)


class TransformConstraint(Constraint):
    """``value = transform(raw)`` for a Transform of `torch.distributions`."""

    scriptable: ClassVar[bool] = False

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform.with_cache(0)

    def extra_repr(self) -> str:
        return repr(self.transform)

    def why_not(self, site: Site) -> str | None:
        if site.shape is None or tuple(self.transform.forward_shape(site.shape)) == tuple(site.shape):
            return None
        return f"{self.transform} changes the shape {tuple(site.shape)}; {exempt(site)}"

    def forward(self, raw: Tensor) -> Tensor:
        return self.transform(raw)

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((self.transform.inv(value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0 if bool(self.transform.codomain.check(value).all()) else 1.0
