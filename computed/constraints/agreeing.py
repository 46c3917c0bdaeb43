"""What constraints of one rule settle together, from the values of all their sites: the share that each leaves out."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from computed.constraint import Constraint


class Agreeing(Constraint, abc.ABC):
    """A constraint whose rule ranks the scores of all its sites together, where ``scope`` is "rule"."""

    scope: str
    sparsity: float
    share: float | None

    @abc.abstractmethod
    def scores(self, value: Tensor) -> Tensor:
        """One number for each entry, or slice, that is left out as a whole: the smallest are."""

    @property
    def agrees(self) -> bool:
        """Whether it is still to be ranked with others."""
        return self.scope == "rule" and self.share is None


def agree(constraints: Sequence[Agreeing], values: Sequence[Tensor]) -> None:
    """Set the ``share`` of each constraint, so that the smallest scores of all values together are left out."""
    scores = [each.scores(value.detach().float()) for each, value in zip(constraints, values, strict=True)]
    kept = kept_of(scores, constraints[0].sparsity)
    for each, own, count in zip(constraints, scores, kept, strict=True):
        each.share = 1 - count / len(own) if len(own) else 0.0


def kept_of(scores: Sequence[Tensor], sparsity: float) -> list[int]:
    """How many of each list are among the largest of all; of equal ones the first.

    >>> kept_of([torch.tensor([1.0, 5.0, 6.0]), torch.tensor([2.0, 3.0])], 0.4)
    [2, 1]
    """
    everything = torch.cat([own.nan_to_num(nan=-1.0) for own in scores])
    left_out = round(sparsity * len(everything))
    if left_out == 0:
        return [len(own) for own in scores]
    threshold = everything.kthvalue(left_out).values
    above = [int((own > threshold).sum()) for own in scores]
    ties = len(everything) - left_out - sum(above)  # as many of those at the threshold stay
    for place, own in enumerate(scores):
        equal = min(ties, int((own == threshold).sum()))
        above[place] += equal
        ties -= equal
    return above
