"""UnitScale and WeightScale: the length of every slice is one, or trained apart from its direction."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage, Role
from computed.constraints.settings import Described, exempt, require
from computed.site import Site


def lengths(tensor: Tensor, dim: int | None) -> Tensor:
    """The length of every slice along ``dim`` (of the whole tensor for None), with dimensions of size one kept."""
    dims = [d for d in range(tensor.dim()) if d != dim]
    if len(dims) == 0:
        return tensor.abs()
    return torch.linalg.vector_norm(tensor, 2.0, dims, keepdim=True)


class Sliced(Described, Constraint):
    """A constraint on slices along ``dim``; None means the whole tensor."""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        require(dim is None or isinstance(dim, int), f"{self.spec_name} needs a whole number or None as dim, got {dim!r}")
        self.dim = dim

    def bind(self, site: Site) -> None:
        if self.dim is not None and site.shape is not None:
            self.dim %= len(site.shape)

    def why_not(self, site: Site) -> str | None:
        shape = site.shape
        if shape is None:
            return None
        if len(shape) == 0:
            return f"{self.spec_name} needs 1 or more dimensions, got shape (); {exempt(site)}"
        if self.dim is not None and not -len(shape) <= self.dim < len(shape):
            return (
                f"{self.spec_name} was given dim={self.dim} for shape {tuple(shape)}; give a dim from 0 to "
                f"{len(shape) - 1}, or {exempt(site)}"
            )
        return None


class UnitScale(Sliced):
    """Every slice along ``dim`` has length one."""

    spec_name: ClassVar[str] = "unit_norm"

    def __init__(self, dim: int | None = 0, *, eps: float = 1e-12) -> None:
        super().__init__(dim)
        self.eps = float(eps)

    def settings(self) -> dict[str, object]:
        return {"dim": self.dim} | ({} if self.eps == 1e-12 else {"eps": self.eps})

    def forward(self, raw: Tensor) -> Tensor:
        length = lengths(raw, self.dim)
        raw = torch.where(length > self.eps, raw, raw + 1.0)
        return raw / lengths(raw, self.dim)

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return float((lengths(value.double(), self.dim) - 1).abs().amax()) if value.numel() else 0.0


class WeightScale(Sliced):
    """Length ``g`` and direction ``v`` of every slice along ``dim``, trained apart."""

    spec_name: ClassVar[str] = "weight_norm"
    roles: ClassVar[tuple[Role, ...]] = (Role("v"), Role("g"))

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__(dim)

    def settings(self) -> dict[str, object]:
        return {"dim": self.dim}

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        return shape, torch.Size(size if d == self.dim else 1 for d, size in enumerate(shape))

    def forward(self, v: Tensor, g: Tensor) -> Tensor:
        length = lengths(v, self.dim)
        return v * (g / torch.where(length > 0, length, torch.ones_like(length)))

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value, lengths(value, self.dim)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0
