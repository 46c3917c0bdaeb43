"""Simplex and DoublyStochastic: probabilities, and matrices whose rows and columns are some."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.matrices import SquareMatrix
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, whole_number, why_not_dim
from computed.linalg import in_double
from computed.nearest import nearest_doubly_stochastic, nearest_probabilities
from computed.numbers import eps_of
from computed.site import Site


def logarithms(value: Tensor) -> Tensor:
    """Those of ``value``, and of the smallest number where that is zero."""
    return torch.log(value.clamp_min(float(torch.finfo(value.dtype).tiny)))


class Simplex(Described, Constraint):
    """Probabilities along ``dim``: entries from 0 to 1 whose sum is one, ``value = softmax(raw)``.

    The projection is the nearest point; an entry that it makes zero starts at the smallest number, where softmax has
    hardly a slope. Probabilities are kept to rounding of their logarithms. Weight decay moves them towards equal ones.

    Errors:
        ValueError: ``dim`` is no whole number. A weight without that dimension is refused.

    Reference: Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", 2008, figure 1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([0.25, 0.75]), Simplex())
        >>> [round(entry, 6) for entry in w.tolist()]
        [0.25, 0.75]
    """

    spec_name: ClassVar[str] = "simplex"

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = whole_number("simplex: dim", dim)

    def settings(self) -> dict[str, object]:
        """The dimension, where it is not the last."""
        return {} if self.dim == -1 else {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what has entries along the dimension."""
        shape = site.shape
        if shape is not None and (len(shape) == 0 or shape.numel() == 0):
            return f"simplex needs 1 or more dimensions with entries, got shape {tuple(shape)}; {exempt(site)}"
        return why_not_dim("simplex", site, self.dim)

    def forward(self, raw: Tensor) -> Tensor:
        """The softmax."""
        return torch.softmax(raw, self.dim)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The logarithms of the nearest point."""
        return Preimage((logarithms(nearest_probabilities(in_double(value), self.dim).to(value)),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference of a sum from one, and how far an entry is below zero."""
        exact = in_double(value)
        return max(worst((exact.sum(self.dim) - 1).abs()), worst(-exact), 0.0)


class DoublyStochastic(SquareMatrix):
    """A matrix (n, n) without negative entries whose rows and columns have sum one.

    ``exp(raw)`` is scaled by ``steps`` rounds of Sinkhorn's iteration, and what is then missing from the sums is
    added as a matrix of rank one: rows and columns are right for every raw. Further dimensions in front count
    matrices. The projection is the nearest point; a matrix that is inside is kept to rounding of logarithms. Weight
    decay moves it towards equal entries.

    Errors:
        ValueError: ``steps`` is no whole number of 1 or more.

    Reference: Sinkhorn and Knopp, "Concerning nonnegative matrices and doubly stochastic matrices", 1967; Altschuler,
    Weed and Rigollet, "Near-linear time approximation algorithms for optimal transport via Sinkhorn iteration", 2017
    (arXiv:1705.09634), algorithm 2, for what is added.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), DoublyStochastic())
        >>> [round(total, 5) for total in (*w.sum(0).tolist(), *w.sum(1).tolist())]
        [1.0, 1.0, 1.0, 1.0]
    """

    spec_name: ClassVar[str] = "doubly_stochastic"

    def __init__(self, *, steps: int = 20) -> None:
        super().__init__()
        self.steps = whole_number("doubly_stochastic: steps", steps)
        if self.steps < 1:
            raise ValueError(f"doubly_stochastic needs steps of 1 or more, got {steps!r}")

    def settings(self) -> dict[str, object]:
        """The rounds, where they are others."""
        return {} if self.steps == 20 else {"steps": self.steps}

    def forward(self, raw: Tensor) -> Tensor:
        """Sinkhorn's iteration on logarithms, then what is missing."""
        scaled = raw
        for _ in range(self.steps):
            scaled = scaled - torch.logsumexp(scaled, -1, True)
            scaled = scaled - torch.logsumexp(scaled, -2, True)
        found = torch.exp(scaled)
        found = found / found.sum(-1, True).clamp_min(1.0)
        found = found / found.sum(-2, True).clamp_min(1.0)
        missing_in_rows = 1.0 - found.sum(-1, True)
        missing_in_columns = 1.0 - found.sum(-2, True)
        total = missing_in_rows.sum(-2, True)
        is_right = total <= eps_of(raw) * raw.shape[-1]
        share = torch.where(
            is_right, torch.zeros_like(total), 1.0 / torch.where(is_right, torch.ones_like(total), total)
        )
        return found + (missing_in_rows * missing_in_columns * share).clamp_min(0.0)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The logarithms of the nearest point."""
        return Preimage((logarithms(nearest_doubly_stochastic(in_double(value)).to(value)),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference of a sum from one, and how far an entry is below zero."""
        exact = in_double(value)
        sums = torch.cat([exact.sum(-1).flatten(), exact.sum(-2).flatten()])
        return max(worst((sums - 1).abs()), worst(-exact), 0.0)
