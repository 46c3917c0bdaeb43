"""Circulant and Toeplitz: matrices with one number for each diagonal."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt
from computed.linalg import in_double
from computed.site import Site


def diagonal_means(matrix: Tensor, index: Tensor, count: int) -> Tensor:
    """The mean of the entries of each of ``count`` orbits, by the ``index`` of every entry's; in float64."""
    entries = in_double(matrix).flatten(-2)
    zero = entries.new_zeros(*entries.shape[:-1], count)
    where = index.flatten().expand(entries.shape)
    # differences to one entry of the orbit, so that equal entries have a mean that equals them
    last = zero.scatter(-1, where, entries)
    sums = zero.scatter_add(-1, where, entries - last.gather(-1, where))
    return last + sums / torch.bincount(index.flatten(), minlength=count)


class Diagonals(Described, Constraint, abc.ABC):
    """Matrices (m, n) whose entries are picked from fewer numbers."""

    def why_not(self, site: Site) -> str | None:
        """It takes matrices with entries."""
        shape = site.shape
        if shape is None or (len(shape) >= 2 and shape.numel() > 0):
            return None
        return f"{self.spec_name} needs matrices with entries, got shape {tuple(shape)}; {exempt(site)}"

    @abc.abstractmethod
    def projected(self, value: Tensor) -> Tensor:
        """The nearest point."""

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference of two entries that should be equal."""
        return worst((value - self.projected(value)).abs())

    def tolerance(self, dtype: torch.dtype) -> float:
        """None: entries are picked, not computed."""
        return 0.0


class Toeplitz(Diagonals):
    """A matrix (m, n) with one number for each diagonal: ``value_ij = raw_(i - j + n - 1)``, bit for bit.

    The raw has ``m + n - 1`` numbers. Further dimensions in front count matrices. The projection is the nearest point,
    the mean of each diagonal; a Toeplitz matrix is kept bit for bit. Weight decay acts on each number once.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[1.0, 2.0], [5.0, 3.0]]), Toeplitz())
        >>> w.raws["raw"].tolist(), w.tolist()
        ([2.0, 2.0, 5.0], [[2.0, 2.0], [5.0, 2.0]])
    """

    spec_name: ClassVar[str] = "toeplitz"

    def __init__(self) -> None:
        super().__init__()
        self.rows = 1
        self.columns = 1

    def bind(self, site: Site) -> None:
        """Learn how many rows and columns there are."""
        if site.shape is not None:
            self.rows, self.columns = site.shape[-2], site.shape[-1]

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """One number for each diagonal."""
        return (torch.Size((*shape[:-2], shape[-2] + shape[-1] - 1)),)

    def index(self, device: torch.device) -> Tensor:
        """Which number each entry is."""
        down = torch.arange(self.rows, device=device).unsqueeze(1)
        across = torch.arange(self.columns, device=device)
        return down - across + (self.columns - 1)

    def forward(self, raw: Tensor) -> Tensor:
        """Pick."""
        index = self.index(raw.device)
        return raw.index_select(-1, index.flatten()).reshape(raw.shape[:-1] + index.shape)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The means of diagonals."""
        rows, columns = value.shape[-2:]
        return Preimage((diagonal_means(value, self.index(value.device), rows + columns - 1).to(value),))

    def projected(self, value: Tensor) -> Tensor:
        """The means of diagonals, picked."""
        picked: Tensor = self(self.right_inverse(value).raws[0])
        return picked


class Circulant(Diagonals):
    """A square matrix (n, n) whose rows are the first one turned: ``value_ij = raw_((i - j) mod n)``, bit for bit.

    The raw, n numbers, is the first column. Further dimensions in front count matrices. The projection is the nearest
    point, the mean of each turned diagonal; a circulant matrix is kept bit for bit. Weight decay acts on each number
    once.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> w = ComputedParameter.from_value(torch.tensor([[1.0, 2.0], [5.0, 3.0]]), Circulant())
        >>> w.raws["raw"].tolist(), w.tolist()
        ([2.0, 3.5], [[2.0, 3.5], [3.5, 2.0]])
    """

    spec_name: ClassVar[str] = "circulant"

    def __init__(self) -> None:
        super().__init__()

    def why_not(self, site: Site) -> str | None:
        """It takes square matrices."""
        shape = site.shape
        if shape is None or (len(shape) >= 2 and shape[-1] == shape[-2] and shape.numel() > 0):
            return None
        return f"circulant needs square matrices with entries, got shape {tuple(shape)}; {exempt(site)}"

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """One column."""
        return (shape[:-1],)

    def forward(self, raw: Tensor) -> Tensor:
        """Pick."""
        size = raw.shape[-1]
        turns = torch.arange(size, device=raw.device)
        index = (turns.unsqueeze(1) - turns) % size
        return raw.index_select(-1, index.flatten()).reshape(raw.shape[:-1] + index.shape)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The means of turned diagonals."""
        size = value.shape[-1]
        turns = torch.arange(size, device=value.device)
        return Preimage((diagonal_means(value, (turns.unsqueeze(1) - turns) % size, size).to(value),))

    def projected(self, value: Tensor) -> Tensor:
        """The means of turned diagonals, picked."""
        picked: Tensor = self(self.right_inverse(value).raws[0])
        return picked
