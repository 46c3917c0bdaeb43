"""LoRA: the weight as it is, fixed, plus a trained product of two thin matrices."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from computed.constraint import Constraint, Preimage, Role
from computed.constraints.describing import Described
from computed.constraints.refusing import require, resolved_dim, whole_number, why_not_matrix
from computed.randomness import generator_for, kaiming_uniform
from computed.site import Site

Factors = tuple[Tensor, Tensor, Tensor]


class LoRA(Described, Constraint):
    """A low-rank adapter: ``value = base + s B A`` with ``base`` fixed, ``s = alpha / rank``.

    For a weight (out, in): ``A`` (rank, in), ``B`` (out, rank); for a convolution (out, in, k): ``A`` (rank,
    in, k). The value starts as the weight itself, bit for bit: ``B`` is zero, ``A`` is drawn as `nn.Linear`
    draws its weight, by a generator of its own, so the global random state stays as it is. ``A`` and ``B``
    train also where the weight was frozen. Weight decay shrinks the change, and leaves the base.

    `F.linear`, `F.conv1d`, `F.conv2d` and `F.conv3d` (with one group) are done without making the value, in
    eval too:
    ``x baseᵀ + (x Aᵀ) Bᵀ s``. Everything else uses the value, computed in at least float32; both agree to
    rounding.

    Args:
        rank: any from 1; above the smaller side of the weight it costs more than it gives, but harms nothing.
        alpha: the scale is ``alpha / rank``; where it is not given, the scale is 1.
        seed: draws ``A`` instead of `torch.initial_seed`; weights that differ still get different numbers.
        dim: where rows run, for a weight of three or more dimensions whose host is no convolution.

    Errors:
        ValueError: ``rank`` below 1, ``alpha`` not finite.

    Reference: Hu et al., "LoRA: low-rank adaptation of large language models", 2021 (arXiv:2106.09685),
    equation 3.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.ones(3, 4)
        >>> w = ComputedParameter.from_value(weight, LoRA(2, alpha=4))
        >>> {role: tuple(raw.shape) for role, raw in w.raws.items()}
        {'base': (3, 4), 'A': (2, 4), 'B': (3, 2)}
        >>> torch.equal(w.detach(), weight)
        True
    """

    spec_name: ClassVar[str] = "lora"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("base", trained=False),
        Role("A", added=True),
        Role("B", added=True),
    )
    factored_in_eval: ClassVar[bool] = True
    alpha: float | None

    def __init__(
        self, rank: int, *, alpha: float | None = None, seed: int | None = None, dim: int | None = None
    ) -> None:
        super().__init__()
        self.rank = whole_number("lora: rank", rank)
        require(self.rank >= 1, f"lora needs a rank of 1 or more, got {rank!r}")
        require(alpha is None or math.isfinite(alpha), f"lora needs a finite alpha, got {alpha!r}")
        self.alpha = None if alpha is None else float(alpha)
        self.seed = None if seed is None else whole_number("lora: seed", seed)
        self.dim = None if dim is None else whole_number("lora: dim", dim)
        self.rows = self.dim or 0

    def settings(self) -> dict[str, object]:
        """Rank, and what else was given."""
        given = {"rank": self.rank, "alpha": self.alpha, "seed": self.seed, "dim": self.dim}
        return {name: value for name, value in given.items() if value is not None}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix("lora", site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base``, ``A`` and ``B``."""
        rows = self.rows % len(shape)
        rest = [size for dim, size in enumerate(shape) if dim != rows]
        return shape, torch.Size((self.rank, *rest)), torch.Size((shape[rows], self.rank))

    def forward(self, base: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """Subtract the negative product: adding a zero would clear the sign of a negative zero."""
        alpha = self.alpha
        scale = 1.0 if alpha is None else alpha / self.rank
        product = torch.mm(B * -scale, A.flatten(1))
        return base - product.view(base.movedim(self.rows, 0).shape).movedim(0, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, ``A`` drawn, ``B`` zero."""
        _, thin, tall = self.raw_shapes(value.shape)
        drawn = kaiming_uniform(thin, generator_for(value, "A", self.seed), value)
        return Preimage((value, drawn, value.new_zeros(tall)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every value is a base plus nothing."""
        return 0.0

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        """The rules for `F.linear` and convolutions, whose rows run along the first dimension."""
        rule = RULES.get(op)
        if rule is None or self.rows != 0:
            return None
        return partial(rule, 1.0 if self.alpha is None else self.alpha / self.rank)


def _linear(scale: float, input: Tensor, weight: Factors, bias: Tensor | None = None) -> Tensor:
    base, thin, tall = weight
    return functional.linear(input, base, bias) + functional.linear(functional.linear(input, thin) * scale, tall)


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
        # a group's filters see a part of the input only, and A would see another one for each group
        if groups != 1:
            return NotImplemented
        base, thin, tall = weight
        narrow = op(input, thin, None, stride, padding, dilation) * scale
        widened = op(narrow, tall.view(*tall.shape, *[1] * (thin.dim() - 2)))
        return op(input, base, bias, stride, padding, dilation) + widened

    return rule


RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.linear: _linear,
    functional.conv1d: _convolution(functional.conv1d),
    functional.conv2d: _convolution(functional.conv2d),
    functional.conv3d: _convolution(functional.conv3d),
}
