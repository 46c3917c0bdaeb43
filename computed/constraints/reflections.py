"""HRA: a fixed weight whose inputs are reflected."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.frozen_base import OnBase, added, plus, sides
from computed.constraints.refusing import require, whole_number
from computed.linalg import as_matrix, like_weight


class HRA(OnBase):
    """Householder reflections: ``value = W H_1 ... H_r`` with ``W`` fixed and ``H_i = I - 2 u_i u_iᵀ / |u_i|²``.

    ``u`` (reflections, in) are trained; there is an even number of them, drawn in equal pairs, which undo each other:
    the value starts as the weight to rounding, at ``W`` itself where they have not moved apart. Lengths of rows and
    angles between them stay. For a convolution ``in`` is in * k. Weight decay changes no value.

    Args:
        reflections: an even number from 2.
        seed: draws instead of `torch.initial_seed`. dim: where rows run, if the host does not say.

    Errors:
        ValueError: ``reflections`` is odd, or below 2.

    Reference: Yuan, Liu and Xu, "Bridging the gap between low-rank and orthogonal adaptation via Householder reflection
    adaptation", 2024 (arXiv:2405.17484), equation 5.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.ones(3, 4)
        >>> torch.equal(ComputedParameter.from_value(weight, HRA(2)).detach(), weight)
        True
    """

    spec_name: ClassVar[str] = "hra"
    roles: ClassVar[tuple[Role, ...]] = added("u")

    def __init__(self, reflections: int = 8, *, seed: int | None = None, dim: int | None = None) -> None:
        super().__init__(seed, dim)
        self.reflections = whole_number("hra: reflections", reflections)
        right = self.reflections >= 2 and self.reflections % 2 == 0
        require(right, f"hra needs an even number of reflections from 2, got {reflections!r}")

    def own_settings(self) -> dict[str, object]:
        """How many reflections."""
        return {"reflections": self.reflections}

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base`` and the vectors."""
        return shape, torch.Size((self.reflections, sides(shape, self.rows)[1]))

    def forward(self, base: Tensor, u: Tensor) -> Tensor:
        """Two at once: with ``d = b - a``, ``H_a H_b - I = 2 a dᵀ - 2 |d|² a bᵀ - 2 d bᵀ``, nothing for ``d = 0``."""
        matrix = as_matrix(base, self.rows)
        lengths = torch.linalg.vector_norm(u, 2.0, [1], True)
        is_zero = lengths == 0
        even = torch.full_like(u, float(u.shape[1]) ** -0.5)
        unit = torch.where(is_zero, even, u / torch.where(is_zero, torch.ones_like(lengths), lengths))
        for index in range(0, u.shape[0], 2):
            a, b = unit[index], unit[index + 1]
            d = b - a
            along = torch.mv(matrix, a)
            first = torch.outer(along, d - d.square().sum() * b)
            matrix = plus(matrix, 2.0 * (first - torch.outer(torch.mv(matrix, d), b)))
        return like_weight(matrix, base, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, and vectors in equal pairs."""
        wide = sides(value.shape, self.rows)[1]
        half = self.drawn(value, "u", torch.Size((self.reflections // 2, wide)))
        return Preimage((value, half.repeat_interleave(2, 0)))
