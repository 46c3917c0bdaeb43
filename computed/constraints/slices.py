"""Concatenated and Stacked: slices of a weight, each with a constraint of its own."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraints.on_slices import OnSlices
from computed.constraints.refusing import require, whole_number


class Concatenated(OnSlices):
    """Slices of ``sizes`` along ``dim``, each with its own constraint: ``value = cat(c_1(x_1), ..., c_n(x_n))``.

    ``specs`` are texts, one for each slice, ``'none'`` or None for one that stays as it is; ``x_i`` are the slices of
    the raw. A slice is projected, kept and measured as its own constraint does it; weight decay does to each what that
    says. Constraints with one trained raw of the shape of their slice can be slices; others, such as ``spectral`` with
    its state and ``low_rank`` with two raws, are refused by name.

    Errors:
        ValueError: another number of sizes than of specs, sizes that are not positive, a chain, or a constraint that
            cannot be a slice. A weight of another size is refused, and one whose slice a constraint refuses.

    Reference: ``CatTransform`` of `torch.distributions`.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> parts = Concatenated(["nonnegative", None, "simplex"], [1, 1, 2])
        >>> ComputedParameter.from_value(torch.tensor([-1.0, -1.0, 0.5, 0.5]), parts).tolist()
        [0.0, -1.0, 0.5, 0.5]
    """

    spec_name: ClassVar[str] = "cat"
    sizes: list[int]

    def __init__(self, specs: Sequence[str | None], sizes: Sequence[int], *, dim: int = 0) -> None:
        super().__init__(specs, dim)
        right = isinstance(sizes, list | tuple) and len(sizes) == len(specs)
        require(right, f"cat needs a list with one size for each of {len(specs)} specs, got {sizes!r}")
        self.sizes = [whole_number("cat: each of its sizes", size) for size in sizes]
        require(min(self.sizes) > 0, f"cat needs sizes of 1 or more, got {sizes!r}")

    def settings(self) -> dict[str, object]:
        """Specs, sizes, and the dimension where it is not the first."""
        given = super().settings()
        return {"specs": given.pop("specs"), "sizes": tuple(self.sizes)} | given

    def cut(self, whole: Tensor) -> list[Tensor]:
        """Along the dimension, by the sizes."""
        return list(torch.split_with_sizes(whole, self.sizes, self.dim))

    def joined(self, slices: list[Tensor]) -> Tensor:
        """One behind the other."""
        return torch.cat(slices, self.dim)

    def shapes(self, shape: torch.Size) -> list[torch.Size]:
        """That of the weight, with the sizes along the dimension."""
        dim = self.dim % len(shape)
        return [torch.Size((*shape[:dim], size, *shape[dim + 1 :])) for size in self.sizes]

    def misfit(self, shape: torch.Size) -> str | None:
        """Sizes must add up."""
        if sum(self.sizes) == shape[self.dim]:
            return None
        return f"was given sizes that add up to {sum(self.sizes)}, which dim={self.dim} of shape {tuple(shape)} is not"


class Stacked(OnSlices):
    """Each index along ``dim`` has its own constraint: ``value = stack(c_1(x_1), ..., c_n(x_n))``.

    ``specs`` are texts, one for each index, ``'none'`` or None for one that stays as it is; ``x_i`` are the slices of
    the raw, which have one dimension less: of a weight (out, in) with ``dim=0`` vectors (in). Which constraints, and
    what they do to a slice, is as for `Concatenated`: weight decay does to each what its own constraint says.

    Errors:
        ValueError: a chain, or a constraint that cannot be a slice. A weight of another size is refused, and one whose
            slice a constraint refuses.

    Reference: ``StackTransform`` of `torch.distributions`.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.tensor([[-1.0, 2.0], [0.5, 0.5], [-3.0, 4.0]])
        >>> ComputedParameter.from_value(weight, Stacked(["nonnegative", "simplex", "none"])).tolist()
        [[0.0, 2.0], [0.5, 0.5], [-3.0, 4.0]]
    """

    spec_name: ClassVar[str] = "stack"

    def __init__(self, specs: Sequence[str | None], *, dim: int = 0) -> None:
        super().__init__(specs, dim)

    def cut(self, whole: Tensor) -> list[Tensor]:
        """Along the dimension, which is gone in them."""
        return list(torch.unbind(whole, self.dim))

    def joined(self, slices: list[Tensor]) -> Tensor:
        """Side by side."""
        return torch.stack(slices, self.dim)

    def shapes(self, shape: torch.Size) -> list[torch.Size]:
        """That of the weight without the dimension."""
        dim = self.dim % len(shape)
        return [torch.Size((*shape[:dim], *shape[dim + 1 :])) for _ in self.parts]

    def misfit(self, shape: torch.Size) -> str | None:
        """There must be one index for each."""
        if len(self.parts) == shape[self.dim]:
            return None
        return f"was given {len(self.parts)} specs, which dim={self.dim} of shape {tuple(shape)} is not"
