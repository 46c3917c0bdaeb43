"""LoRA: the weight as it is, fixed, plus a trained product of two thin matrices."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from computed.constraint import Preimage, Role
from computed.constraints.frozen_base import Scaled, added
from computed.constraints.input_dropout import dropped, probability, why_no_input
from computed.constraints.refusing import exempt, require
from computed.linalg import as_matrix, in_double, like_weight
from computed.site import Site

Factors = tuple[Tensor, Tensor, Tensor]
Drop = Callable[[Tensor], Tensor]
INITS = ("kaiming", "pissa")


class LoRA(Scaled):
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
        rslora: the scale is ``alpha / sqrt(rank)``, which keeps steps alike over ranks (arXiv:2312.03732).
        init: "kaiming", or "pissa" (arXiv:2404.02948): ``s B A`` is the weight's best approximation of that rank and
            ``base`` what is left, so the value is the weight to rounding, not bit for bit; `surgery.undo` is exact.
        dropout: the share of the inputs of ``A`` that is zero in training, the others scaled up. Only for layers
            that the op rules do; refused elsewhere, and in a chain.
        seed: draws ``A`` instead of `torch.initial_seed`; weights that differ still get different numbers.
        dim: where rows run, for a weight of three or more dimensions whose host is no convolution.

    Errors:
        ValueError: ``rank`` below 1, ``alpha`` not finite, none for ``rslora``, none above 0 for "pissa", another
            ``init``, ``dropout`` outside [0, 1).

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
    roles: ClassVar[tuple[Role, ...]] = added("A", "B")
    factored_in_eval: ClassVar[bool] = True

    def __init__(
        self,
        rank: int,
        *,
        alpha: float | None = None,
        rslora: bool = False,
        init: str = "kaiming",
        dropout: float = 0.0,
        seed: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(rank, alpha, seed, dim, rslora=rslora)
        require(init in INITS, f"lora: init is one of {', '.join(map(repr, INITS))}, got {init!r}")
        scale = self.scale()
        require(init == "kaiming" or scale > 0, f"lora with init='pissa' needs an alpha above 0, got {alpha!r}")
        self.init = init
        self.dropout = probability("lora", dropout)

    def own_settings(self) -> dict[str, object]:
        """Rank, and what is not as it is by default."""
        given = {"init": self.init if self.init != "kaiming" else None, "dropout": self.dropout or None}
        return super().own_settings() | given

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one; with dropout what a layer is done by."""
        reason = super().why_not(site)
        if reason is None and self.init == "pissa" and site.shape is not None:
            reason = self._why_not_pissa(site, site.shape)
        return reason if reason is not None or not self.dropout else self._why_not_dropout(site)

    def _why_not_pissa(self, site: Site, shape: torch.Size) -> str | None:
        rows = shape[(self.dim if self.dim is not None else 0) % len(shape)]
        smaller = min(rows, shape.numel() // rows)
        if self.rank <= smaller:
            return None
        return (
            f"lora(rank={self.rank}, init='pissa') needs as many singular values, and shape {tuple(shape)} has "
            f"{smaller}; give a rank of at most {smaller}, or {exempt(site)}"
        )

    def _why_not_dropout(self, site: Site) -> str | None:
        if self.dim:
            return f"lora with dropout needs rows along the first dimension, got dim={self.dim}; {exempt(site)}"
        return why_no_input("lora", site)

    def keeps_weight(self) -> bool:
        """The base is the weight, but for PiSSA, which leaves a part of it there."""
        return self.init != "pissa"

    def acts_on_inputs(self) -> bool:
        """Whether it drops inputs."""
        return self.dropout > 0

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base``, ``A`` and ``B``."""
        rows = self.rows % len(shape)
        rest = [size for dim, size in enumerate(shape) if dim != rows]
        return shape, torch.Size((self.rank, *rest)), torch.Size((shape[rows], self.rank))

    def forward(self, base: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """Subtract the negative product: adding a zero would clear the sign of a negative zero."""
        product = torch.mm(B * -self.scale(), A.flatten(1))
        return base - product.view(base.movedim(self.rows, 0).shape).movedim(0, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, ``A`` drawn, ``B`` zero; or the value without its largest singular values."""
        _, thin, tall = self.raw_shapes(value.shape)
        if self.init == "pissa":
            return self._principal(value, thin)
        return Preimage((value, self.drawn(value, "A", thin), value.new_zeros(tall)))

    def _principal(self, value: Tensor, thin: torch.Size) -> Preimage:
        matrix = in_double(as_matrix(value, self.rows))
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        shares = (s[: self.rank] / self.scale()).sqrt()
        # where a singular value is zero one factor is not: with both zero, no gradient would ever come
        a = torch.where(shares > 0, shares, 1.0).unsqueeze(1) * vh[: self.rank]
        a, b = a.to(value), (u[:, : self.rank] * shares).to(value)
        rest = matrix - self.scale() * in_double(b) @ in_double(a)
        return Preimage((like_weight(rest.to(value), value, self.rows), a.view(thin), b))

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        """The rules for `F.linear` and convolutions, whose rows run along the first dimension."""
        rule = RULES.get(op)
        if rule is None or self.rows != 0 or self.disabled:
            return None
        return partial(rule, self.scale(), partial(dropped, p=self.dropout, training=self.training))


def _linear(scale: float, drop: Drop, input: Tensor, weight: Factors, bias: Tensor | None = None) -> Tensor:
    base, thin, tall = weight
    narrow = functional.linear(drop(input), thin) * scale
    return functional.linear(input, base, bias) + functional.linear(narrow, tall)


def _convolution(op: Callable[..., Tensor]) -> Callable[..., Any]:
    def rule(
        scale: float,
        drop: Drop,
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
        narrow = op(drop(input), thin, None, stride, padding, dilation) * scale
        widened = op(narrow, tall.view(*tall.shape, *[1] * (thin.dim() - 2)))
        return op(input, base, bias, stride, padding, dilation) + widened

    return rule


RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.linear: _linear,
    functional.conv1d: _convolution(functional.conv1d),
    functional.conv2d: _convolution(functional.conv2d),
    functional.conv3d: _convolution(functional.conv3d),
}
