"""What weights share that are products of small tensors."""

import abc
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraints.describing import Described
from computed.constraints.refusing import exempt, require, whole_number
from computed.constraints.stored import Stored
from computed.linalg import in_double, scaled_to_one
from computed.site import Site

Rank = int | float


def rank_or_share(name: str, rank: object) -> Rank:
    """A rank of 1 or more, or a share between 0 and 1; raises ValueError."""
    if isinstance(rank, float) and 0 < rank < 1:
        return rank
    found = whole_number(f"{name}: rank", rank)
    require(found >= 1, f"{name} needs a rank of 1 or more, or a share between 0 and 1, got {rank!r}")
    return found


class Factored(Described, Stored, abc.ABC):
    """A weight (out, in, k...) that is a product of small tensors."""

    factored_in_eval: ClassVar[bool] = True

    def why_not(self, site: Site) -> str | None:
        """It takes weights with outputs and inputs, of one group."""
        shape = site.shape
        if shape is None:
            return None
        if len(shape) < 2 or shape.numel() == 0:
            return f"{self.spec_name} needs outputs and inputs, got shape {tuple(shape)}; {exempt(site)}"
        return None

    @abc.abstractmethod
    def ranks(self, shape: torch.Size) -> tuple[int, ...]:
        """Those of the matrices that `unfoldings` gives."""

    @abc.abstractmethod
    def unfoldings(self, value: Tensor) -> list[Tensor]:
        """Matrices whose ranks the product bounds."""

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest singular value of an unfolding beyond its rank, relative to the largest of all."""
        if not bool(value.isfinite().all()):
            return math.inf
        scaled, largest = scaled_to_one(in_double(value))
        found = 0.0
        for matrix, rank in zip(self.unfoldings(scaled), self.ranks(value.shape), strict=True):
            s = torch.linalg.svdvals(matrix) * largest
            if len(s) > rank:
                found = max(found, float(s[rank] / s[0].clamp_min(torch.finfo(value.dtype).tiny)))
        return found

    def fitting_product(self, factors: Sequence[Tensor], scale: Tensor, like: Tensor) -> tuple[Tensor, ...]:
        """The factors, the last one times ``scale``, or less where their product would be beyond the stored dtype."""
        share = scale ** (1 / len(factors))
        even = [factor * share for factor in factors]
        largest = self(*even).abs().amax()
        return tuple(each.to(like).contiguous() for each in (*even[:-1], self.fitting(even[-1], largest)))
