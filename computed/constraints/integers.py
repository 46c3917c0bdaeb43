"""Integers: what a value on a grid is stored as."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Integers(NamedTuple):
    """A value as integers of eight bits: ``value = scale numbers``.

    ``numbers`` are int8, of the value's shape. ``scale`` has one number for each slice along ``dim``, or for each
    ``group`` of neighbours along the last dimension, shaped as the weight without it; or, where both are None, one.
    """

    numbers: Tensor
    scale: Tensor
    dim: int | None
    group: int | None


class OnGrid(abc.ABC):
    """A constraint whose values are integers times a scale."""

    @abc.abstractmethod
    def why_no_integers(self) -> str | None:
        """Why eight bits do not hold the integers, or None."""

    @abc.abstractmethod
    def integers(self, value: Tensor, raws: Sequence[Tensor]) -> Integers:
        """The integers of a value, given the raws that it comes from; times the scale they are it, exactly."""
