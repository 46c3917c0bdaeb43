"""OFT, BOFT: a fixed weight whose inputs are turned."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.frozen_base import OnBase, added, plus, sides
from computed.constraints.refusing import exempt, require, resolved_dim, whole_number
from computed.linalg import as_matrix, like_weight
from computed.site import Site


def turned_from_identity(generators: Tensor) -> Tensor:
    """``(I - S)⁻¹ (I + S) - I = 2 (I - S)⁻¹ S`` of the skew parts ``S`` of matrices: zero for zero, bit for bit."""
    half = 0.5 * generators
    skew = half - half.transpose(-1, -2)
    eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    found: Tensor = torch.linalg.solve(eye - skew, 2 * skew)
    return found


class InBlocks(OnBase):
    """Inputs are turned in blocks of one size."""

    def __init__(self, block: int, seed: int | None, dim: int | None) -> None:
        super().__init__(seed, dim)
        self.block = whole_number(f"{self.spec_name}: block", block)
        require(self.block >= 1, f"{self.spec_name} needs a block of 1 or more, got {block!r}")

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix whose inputs are a number of blocks."""
        reason = super().why_not(site)
        if reason is not None or site.shape is None:
            return reason
        wide = sides(site.shape, resolved_dim(site, self.dim) or 0)[1]
        if wide % self.block == 0:
            return None
        return (
            f"blocks of {self.block} do not divide the {wide} inputs of shape {tuple(site.shape)}; "
            f"give another block or {exempt(site)}"
        )


class OFT(InBlocks):
    """Orthogonal fine-tuning: ``value = W R`` with ``W`` fixed and ``R`` orthogonal, in blocks along the inputs.

    ``R = diag(R_1, ...)`` with ``R_i = (I - S_i)⁻¹ (I + S_i)`` for the skew part ``S_i`` of the raw ``turns`` (in /
    block, block, block). Lengths of rows, and angles between them within a block, stay. For a convolution ``in`` is
    in * k. The value starts as the weight itself, bit for bit: ``turns`` are zero. Weight decay turns back.

    Args:
        block: how many inputs are turned together. dim: where rows run, if the host does not say.

    Errors:
        ValueError: ``block`` below 1. Inputs that it does not divide are refused.

    Reference: Qiu et al., "Controlling text-to-image diffusion by orthogonal finetuning", 2023 (arXiv:2306.07280),
    section 3.4.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.ones(3, 4)
        >>> torch.equal(ComputedParameter.from_value(weight, OFT(2)).detach(), weight)
        True
    """

    spec_name: ClassVar[str] = "oft"
    roles: ClassVar[tuple[Role, ...]] = added("turns")

    def __init__(self, block: int = 4, *, dim: int | None = None) -> None:
        super().__init__(block, None, dim)

    def own_settings(self) -> dict[str, object]:
        """The size of blocks."""
        return {"block": self.block}

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base`` and the blocks."""
        wide = sides(shape, self.rows)[1]
        return shape, torch.Size((wide // self.block, self.block, self.block))

    def forward(self, base: Tensor, turns: Tensor) -> Tensor:
        """The base plus what turning adds."""
        matrix = as_matrix(base, self.rows)
        return like_weight(plus(matrix, turned_blocks(matrix, turned_from_identity(turns))), base, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, and no turns."""
        return Preimage((value, value.new_zeros(self.raw_shapes(value.shape)[1])))


def turned_blocks(matrix: Tensor, blocks: Tensor) -> Tensor:
    """``matrix`` (m, n) times a block-diagonal matrix, of blocks (n / b, b, b)."""
    count, size = blocks.shape[0], blocks.shape[1]
    parts = matrix.reshape(matrix.shape[0], count, size).transpose(0, 1)
    return torch.bmm(parts, blocks).transpose(0, 1).reshape(matrix.shape)


class BOFT(InBlocks):
    """Orthogonal fine-tuning by butterflies: ``value = W R_1 ... R_k`` with ``W`` fixed.

    Each ``R_i`` is block-diagonal as in `OFT`, after the inputs were dealt into ``2^i`` hands, so that ``factors`` of
    them mix inputs of different blocks. ``turns`` is (factors, in / block, block, block). The value starts as the
    weight itself, bit for bit. Weight decay turns back.

    Args:
        block: how many inputs are turned together. factors: how many products.
        dim: where rows run, if the host does not say.

    Errors:
        ValueError: ``block`` or ``factors`` below 1. Inputs that blocks do not divide are refused.

    Reference: Liu et al., "Parameter-efficient orthogonal finetuning via butterfly factorization", 2024
    (arXiv:2311.06243), equation 3.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.ones(3, 8)
        >>> torch.equal(ComputedParameter.from_value(weight, BOFT(2, factors=2)).detach(), weight)
        True
    """

    spec_name: ClassVar[str] = "boft"
    roles: ClassVar[tuple[Role, ...]] = added("turns")

    def __init__(self, block: int = 4, *, factors: int = 2, dim: int | None = None) -> None:
        super().__init__(block, None, dim)
        self.factors = whole_number("boft: factors", factors)
        require(self.factors >= 1, f"boft needs factors of 1 or more, got {factors!r}")

    def own_settings(self) -> dict[str, object]:
        """The size of blocks, and how many factors where those are others."""
        return {"block": self.block, "factors": None if self.factors == 2 else self.factors}

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of ``base`` and the blocks of all factors."""
        wide = sides(shape, self.rows)[1]
        return shape, torch.Size((self.factors, wide // self.block, self.block, self.block))

    def forward(self, base: Tensor, turns: Tensor) -> Tensor:
        """One factor after the other, each added as a change."""
        matrix = as_matrix(base, self.rows)
        rotated = turned_from_identity(turns)
        hands = 1
        for index in range(turns.shape[0]):
            order = dealt(matrix.shape[1], hands, matrix.device)
            back = torch.argsort(order)
            change = turned_blocks(matrix.index_select(1, order), rotated[index]).index_select(1, back)
            matrix = plus(matrix, change)
            hands = hands * 2
        return like_weight(matrix, base, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as base, and no turns."""
        return Preimage((value, value.new_zeros(self.raw_shapes(value.shape)[1])))


def dealt(count: int, hands: int, device: torch.device) -> Tensor:
    """The numbers up to ``count`` as cards are dealt into ``hands``: 0, hands, 2 hands, ..., 1, 1 + hands, ..."""
    numbers = torch.arange(count, device=device)
    return torch.argsort(numbers % hands * count + numbers)
