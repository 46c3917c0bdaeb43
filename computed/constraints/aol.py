"""Aol: columns scaled so that a layer is 1-Lipschitz by a proof, without an iteration."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from computed.constraint import Constraint, Preimage, Role
from computed.constraints.describing import Described
from computed.constraints.one_operator import undilated, why_not_one_operator
from computed.constraints.refusing import exempt, require, whole_number
from computed.linalg import in_double, scaled_to_one
from computed.numbers import tiny_of
from computed.site import Site
from computed.symbol_peak import operator_norm


def correlations(weight: Tensor, groups: int) -> Tensor:
    """``sum_t |(w_i * w_j)(t)|`` (groups, in, in): how much columns of a weight (groups * out, in, *k) overlap."""
    sizes = list(weight.shape)
    parts: Tensor = weight.unflatten(0, (groups, sizes[0] // groups))
    if weight.dim() == 2:
        return torch.bmm(parts.transpose(1, 2), parts).abs()
    every = parts.movedim(2, 0).flatten(1, 2)  # an input each; groups and their outputs
    each = parts.transpose(1, 2).flatten(0, 1)
    reach = [size - 1 for size in sizes[2:]]
    if weight.dim() == 3:
        found = functional.conv1d(every, each, padding=reach, groups=groups)
    elif weight.dim() == 4:
        found = functional.conv2d(every, each, padding=reach, groups=groups)
    else:
        found = functional.conv3d(every, each, padding=reach, groups=groups)
    overlap = found.flatten(2).abs().sum(2)
    return overlap.reshape(sizes[1], groups, sizes[1]).transpose(0, 1)


def balance(overlap: Tensor, eps: float) -> Tensor:
    """``q > 0`` (groups, in) with ``|G| q <= q`` where the largest eigenvalue of ``|G|`` is at most one.

    Else nearly its eigenvector: the resolvent at that eigenvalue, or at one, applied to ones. In float64.
    """
    sides = overlap.shape[-1]
    identity = torch.eye(sides, dtype=overlap.dtype, device=overlap.device)
    largest = torch.linalg.eigvalsh(0.5 * (overlap + overlap.mT))[:, -1:, None].clamp_min(1.0)
    place = torch.where(largest > 1, largest * (1 + eps), torch.full_like(largest, 1 + eps))
    ones = torch.ones(*overlap.shape[:2], 1, dtype=overlap.dtype, device=overlap.device)
    found: Tensor = torch.linalg.solve(identity - overlap / place, ones).squeeze(-1)
    return found / found.amax(-1, keepdim=True)


class Aol(Described, Constraint):
    """A 1-Lipschitz layer by scaled columns: ``value_j = w_j min(1, bound (sum_i |G_ij| q_i / q_j)^{-1/2})``.

    ``w_j`` are what the weight (out, in, *k) does with input ``j``, and ``G_ij`` are the sums of the absolute values of
    all correlations of ``w_i`` and ``w_j``: ``G = |WᵀW|`` for a matrix. The largest singular value of the value, as an
    operator on inputs of every size, is at most ``bound``, in every step of training, by generalised diagonal dominance
    and without an iteration. It is loose: `OperatorScale` (``operator_norm``) leaves larger weights, of which it knows
    the norm to a thousandth in eval. A layer with orthogonal columns is kept, and stays one under the map.

    ``q`` (groups, in), fixed, is found at insertion, so that a weight for which some ``q`` makes all factors one is
    kept to rounding. Any other is scaled, all columns by nearly the same, until there is one. Convolutions may have
    groups, strides and dilations, and may be transposed; padding as for `OperatorScale`. Where nothing but weight decay
    acts, columns shrink.

    Errors:
        ValueError: ``bound`` is not positive and finite.

    Reference: Prach and Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz networks", 2022
    (arXiv:2208.03160), theorems 1 and 2; with ``q``, Araujo et al., "A unified algebraic perspective on Lipschitz
    neural networks", 2023 (arXiv:2303.03169), section 4.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[4.0, 0.0], [0.0, 0.5]]), Aol())
        >>> [[round(entry, 4) for entry in row] for row in w.tolist()]
        [[1.0, 0.0], [0.0, 0.5]]
    """

    spec_name: ClassVar[str] = "aol"
    roles: ClassVar[tuple[Role, ...]] = (Role("raw"), Role("q", trained=False))

    def __init__(self, bound: float = 1.0, *, groups: int | None = None) -> None:
        super().__init__()
        require(0 < bound < float("inf"), f"aol needs a positive finite bound, got {bound!r}")
        self.bound = float(bound)
        self.groups = None if groups is None else whole_number("aol: groups", groups)
        require(self.groups is None or self.groups >= 1, f"aol needs groups >= 1, got {groups!r}")
        self.parts = self.groups or 1
        self.strides = [1]

    def settings(self) -> dict[str, object]:
        """The bound, and the groups where they were given or found."""
        given: dict[str, object] = {"bound": self.bound}
        return given if self.groups is None else given | {"groups": self.groups}

    def why_not(self, site: Site) -> str | None:
        """It takes matrices, and convolutions that it knows to be one operator for inputs of every size."""
        shape = site.shape
        if shape is None:
            return None
        if not 2 <= len(shape) <= 5 or shape.numel() == 0:
            return f"aol needs a matrix or a convolution, with entries, got shape {tuple(shape)}; {exempt(site)}"
        if site.convolution is not None:
            return why_not_one_operator("aol", site)
        if len(shape) > 2 and self.groups is None:
            return (
                f"aol does not know how {site.host_type.__name__} uses its weight of shape {tuple(shape)}: give "
                f"groups= to read it as a convolution's (out, in / groups, *k), or {exempt(site)}"
            )
        return None if shape[0] % self.parts == 0 else f"aol: {shape[0]} is no multiple of groups={self.groups}"

    def bind(self, site: Site) -> None:
        """Find out the groups."""
        if site.convolution is not None:
            self.groups = site.convolution.groups
            self.strides = list(undilated(site.convolution))
        elif site.shape is not None:
            self.strides = [1] * max(1, len(site.shape) - 2)
        self.parts = self.groups or 1

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number for each input."""
        return shape, torch.Size((self.parts, shape[1]))

    def factors(self, raw: Tensor, q: Tensor) -> Tensor:
        """What columns are scaled by (groups, in)."""
        overlap = correlations(raw, self.parts)
        sums = (overlap * (q.unsqueeze(1) / q.unsqueeze(2))).sum(2)
        return (self.bound * torch.rsqrt(sums.clamp_min(tiny_of(sums)))).clamp_max(1.0)

    def forward(self, raw: Tensor, q: Tensor) -> Tensor:
        """Scale the columns of each group."""
        sizes = list(raw.shape)
        factors = self.factors(raw, q).repeat_interleave(sizes[0] // self.parts, dim=0)
        return raw * factors.reshape([sizes[0], sizes[1]] + [1] * (len(sizes) - 2))

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value scaled, with a ``q`` for which that is kept."""
        scaled, largest = scaled_to_one(in_double(value))
        size = largest / self.bound
        eps = 4 * torch.finfo(value.dtype).eps
        # so that numbers stay moderate: the map is the same for the bound as for one
        moderate = scaled * size.clamp(max=1.0)
        norm_first = size.clamp(min=1.0)
        overlap = correlations(moderate, self.parts)
        q = balance(overlap * norm_first.square().clamp_max(1e60), eps)
        sums = (overlap * (q.unsqueeze(1) / q.unsqueeze(2))).sum(2)
        factors = (torch.rsqrt(sums.clamp_min(1e-300)) / norm_first).clamp_max(1.0)
        each = factors.repeat_interleave(value.shape[0] // self.parts, dim=0)
        sizes = [value.shape[0], value.shape[1]] + [1] * (value.dim() - 2)
        raw = scaled * largest * each.reshape(sizes)
        kept = q / factors.clamp_min(1e-300)
        return Preimage((raw.to(value).contiguous(), (kept / kept.amax(-1, keepdim=True)).clamp_min(1e-12).to(value)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """By how much the norm as an operator exceeds the bound, relatively."""
        taps = value.unsqueeze(-1) if value.dim() == 2 else value
        return max(0.0, operator_norm(in_double(taps), self.parts, self.strides) / self.bound - 1)

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of entries moves singular values by up to as many times as much as there are rows."""
        return 64 * float(torch.finfo(dtype).eps)
