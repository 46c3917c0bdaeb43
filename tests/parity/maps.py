"""Maps as users of `torch.nn.utils.parametrize` write them, and how a twin of a layer is given them by torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Same(nn.Module):
    """x."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Counted(nn.Module):
    """x, and a note of each evaluation; kept on the class, as the attributes of a module are settings."""

    evaluations: ClassVar[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.evaluations.append(id(self))
        return x


class Plus(nn.Module):
    """x + amount, without a right inverse."""

    def __init__(self, amount: float = 1.0) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount


class Times(nn.Module):
    """factor * x, without a right inverse."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Scaled(Times):
    """factor * x, with a right inverse."""

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / self.factor


class LowerSkew(nn.Module):
    """The skew matrix whose lower triangle is that of x."""

    def forward(self, x: Tensor) -> Tensor:
        lower = x.tril(-1)
        return lower - lower.mT


class Cayley(nn.Module):
    """Orthogonal for a skew x."""

    def forward(self, x: Tensor) -> Tensor:
        one = torch.eye(len(x))
        return torch.linalg.solve(one + x, one - x).contiguous()


class ZeroAt(nn.Module):
    """A vector with one entry set to zero."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        keep = torch.ones_like(x)
        keep[self.index] = 0.0
        return x * keep


class RankOne(nn.Module):
    """The outer product of two vectors; the right inverse is the best approximation of rank one."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.outer(left, right)

    def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(value)
        return s[0] * u[:, 0], vh[0]


class Halves(nn.Module):
    """Upper and lower rows, kept apart."""

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        return torch.cat([upper, lower])

    def right_inverse(self, value: Tensor) -> tuple[Tensor, ...]:
        return value.tensor_split(2)


def twins(width: int = 8) -> tuple[nn.Linear, nn.Linear]:
    """Two equal layers: one for us, one for torch."""
    ours = nn.Linear(width, width)
    return ours, copy.deepcopy(ours)


def register(layer: nn.Module, **maps: nn.Module | tuple[nn.Module, ...]) -> nn.Module:
    """Let torch parametrize ``layer``, in the order of ``maps``."""
    for name, given in maps.items():
        for each in given if isinstance(given, tuple) else (given,):
            parametrize.register_parametrization(layer, name, copy.deepcopy(each))
    return layer


def stepper(layer: nn.Module, rate: float = 0.1) -> Callable[[Tensor], None]:
    """A function that does one SGD step of ``layer`` on a batch."""
    optimizer = torch.optim.SGD(layer.parameters(), rate)

    def step(batch: Tensor) -> None:
        optimizer.zero_grad()
        layer(batch).square().mean().backward()
        optimizer.step()

    return step
