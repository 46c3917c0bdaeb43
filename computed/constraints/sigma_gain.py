"""Gain: a weight times one trained number, which starts as its largest singular value."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.describing import Described
from computed.constraints.refusing import resolved_dim, whole_number, why_not_matrix
from computed.constraints.stored import Stored
from computed.linalg import as_matrix, in_double
from computed.singular_values import largest_singular_value
from computed.site import Site


class Gain(Described, Stored):
    """``value = g raw`` with one trained number ``g`` (1,); behind ``spectral`` it is the largest singular value.

    ``"spectral | gain"`` is sigma-reparametrisation, ``value = g W / s(W)``: the largest singular value of the weight
    is trained apart from all else. At insertion ``g`` is the largest singular value of the weight as a matrix, with
    rows along ``dim``, and ``raw`` the weight over ``g``. Every tensor is admissible and kept to rounding, in half
    precision to that of ``g``. A weight of zeros has ``g = 0`` and a raw of equal entries, so that it trains. Only
    what is beyond the numbers of its dtype is shortened: an entry within half a percent of the largest number, and
    behind ``spectral`` a weight whose largest singular value is larger than that. Weight decay shrinks ``g`` and the
    raw, which behind ``spectral`` changes no value.

    Args:
        dim: where rows run, for a weight of three or more dimensions whose host is no convolution.

    Reference: Zhai et al., "Stabilizing transformer training by preventing attention entropy collapse", 2023
    (arXiv:2303.06296), the definition of sigma-Reparam; there ``g`` starts at one.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), "spectral | gain")
        >>> [gain] = w.constraints[1].parameters()
        >>> gain.tolist(), w.tolist()
        ([4.0], [[4.0, 0.0], [0.0, 1.0]])
    """

    spec_name: ClassVar[str] = "gain"
    roles: ClassVar[tuple[Role, ...]] = (Role("raw"), Role("g"))

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__()
        self.stored = torch.float32
        self.dim = None if dim is None else whole_number("gain: dim", dim)
        self.rows = self.dim or 0

    def settings(self) -> dict[str, object]:
        """The dimension, where one was given or found."""
        return {} if self.dim is None else {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix("gain", site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        super().bind(site)
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number."""
        return shape, torch.Size((1,))

    def forward(self, raw: Tensor, g: Tensor) -> Tensor:
        """The product."""
        return raw * g

    def right_inverse(self, value: Tensor) -> Preimage:
        """The weight over its largest singular value, as the dtype stores that."""
        exact = in_double(value)
        sigma = min(largest_singular_value(as_matrix(exact, self.rows)), float(torch.finfo(self.stored).max))
        g = torch.tensor([sigma], dtype=torch.float64, device=exact.device).to(self.stored).double()
        if not bool(g > 0):
            even = math.prod(value.shape) ** -0.5
            return Preimage((torch.full_like(value, even), g.to(value)))
        raw = self.fitting(exact / g, exact.abs().amax())
        return Preimage((raw.to(value), g.to(value)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is admissible."""
        return 0.0
