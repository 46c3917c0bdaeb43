"""LoRA: the weight as it is, fixed, plus a trained product of two thin matrices."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from computed.constraint import Constraint, Preimage, Role
from computed.constraints.settings import Described, require, resolved_dim, why_not_matrix
from computed.linalg import as_matrix
from computed.randomness import generator_for, kaiming_uniform
from computed.site import Site

Factors = tuple[Tensor, Tensor, Tensor]


class LoRA(Described, Constraint):
    """``base + (alpha / rank) B A``."""

    spec_name: ClassVar[str] = "lora"
    roles: ClassVar[tuple[Role, ...]] = (Role("base", trained=False), Role("A", added=True), Role("B", added=True))
    factored_in_eval: ClassVar[bool] = True

    def __init__(self, rank: int, *, alpha: float | None = None, seed: int | None = None, dim: int | None = None) -> None:
        super().__init__()
        require(isinstance(rank, int) and rank >= 1, f"lora needs a rank of 1 or more, got {rank!r}")
        self.rank = rank
        self.alpha = alpha
        self.seed = seed
        self.dim = dim
        self.scale = 1.0 if alpha is None else alpha / rank

    def settings(self) -> dict[str, object]:
        given = {"rank": self.rank, "alpha": self.alpha, "seed": self.seed, "dim": self.dim}
        return {name: value for name, value in given.items() if value is not None}

    def why_not(self, site: Site) -> str | None:
        return why_not_matrix("lora", site, self.dim)

    def bind(self, site: Site) -> None:
        self.dim = resolved_dim(site, self.dim)

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        rows = self.dim or 0
        rest = [size for d, size in enumerate(shape) if d != rows]
        return shape, torch.Size((self.rank, *rest)), torch.Size((shape[rows], self.rank))

    def forward(self, base: Tensor, A: Tensor, B: Tensor) -> Tensor:  # noqa: N803 - the paper's names
        dim = self.dim
        rows = 0 if dim is None else dim
        minus = torch.mm(B * -self.scale, A.flatten(1))
        return base - minus.view(base.movedim(rows, 0).shape).movedim(0, rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        _, a_shape, b_shape = self.raw_shapes(value.shape)
        a = kaiming_uniform(a_shape, generator_for(value, "A", self.seed), value)
        return Preimage((value, a, value.new_zeros(b_shape)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        rule = RULES.get(op)
        return None if rule is None or self.dim not in (None, 0) else partial(rule, self.scale)


def _linear(scale: float, input: Tensor, weight: Factors, bias: Tensor | None = None) -> Tensor:
    base, a, b = weight
    return F.linear(input, base, bias) + F.linear(F.linear(input, a) * scale, b)


def _convolution(op: Callable[..., Tensor]) -> Callable[..., Any]:
    def rule(
        scale: float,
        input: Tensor,
        weight: Factors,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if groups != 1:
            return NotImplemented
        base, a, b = weight
        thin = op(input, a, None, stride, padding, dilation) * scale
        wide = op(thin, b.view(*b.shape, *[1] * (a.dim() - 2)))
        return op(input, base, bias, stride, padding, dilation) + wide

    return rule


RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.conv1d: _convolution(F.conv1d),
    F.conv2d: _convolution(F.conv2d),
    F.conv3d: _convolution(F.conv3d),
}
