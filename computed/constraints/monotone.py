"""Monotone: the signs of entries are given, for networks that rise or fall in some of their inputs."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require
from computed.site import Site


class Monotone(Described, Constraint):
    """Entries have given signs: ``value = s |raw|`` where ``s`` is 1 or -1, ``raw`` where it is 0.

    ``signs`` is one sign for all, or a sign for each index of the last dimension: for a weight (out, in) those of the
    inputs. An output of ``nn.Linear`` rises in inputs with sign 1, falls in those with -1. An entry of the right sign
    is kept bit for bit, one of the wrong sign starts at zero, the nearest one, and goes on training from there (see
    `NonNegative`). Weight decay moves entries towards zero, and never past it.

    Errors:
        ValueError: ``signs`` has others than -1, 0, 1. A weight with another last dimension is refused.

    Reference: Runje and Shankaranarayana, "Constrained monotonic neural networks", 2023 (arXiv:2205.11775), section
    3.2.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> weight = torch.tensor([[1.0, 2.0, -3.0], [-4.0, 5.0, 6.0]])
        >>> ComputedParameter.from_value(weight, Monotone([1, -1, 0])).tolist()
        [[1.0, 0.0, -3.0], [0.0, 0.0, 6.0]]
    """

    spec_name: ClassVar[str] = "monotone"
    signs: list[int]

    def __init__(self, signs: int | Sequence[int] = 1) -> None:
        super().__init__()
        given = [signs] if isinstance(signs, int) else list(signs)
        right = bool(given) and all(isinstance(sign, int) and sign in (-1, 0, 1) for sign in given)
        require(right, f"monotone needs signs -1, 0 or 1, one or a list, got {signs!r}")
        self.signs = [int(sign) for sign in given]
        self.for_all = isinstance(signs, int)

    def settings(self) -> dict[str, object]:
        """The signs."""
        return {"signs": self.signs[0] if self.for_all else tuple(self.signs)}

    def why_not(self, site: Site) -> str | None:
        """It takes what has one index for each sign."""
        shape = site.shape
        if self.for_all or shape is None or (len(shape) > 0 and shape[-1] == len(self.signs)):
            return None
        return (
            f"monotone was given {len(self.signs)} signs, which shape {tuple(shape)} does not have as its last "
            f"dimension; {exempt(site)}"
        )

    def signs_like(self, value: Tensor) -> Tensor:
        """The signs, one for each index of the last dimension, or one."""
        signs = torch.tensor(self.signs, dtype=value.dtype, device=value.device)
        return signs[0] if self.for_all else signs

    def forward(self, raw: Tensor) -> Tensor:
        """The size of the raw with the given sign."""
        signs = self.signs_like(raw)
        turned = torch.where(raw < 0, -raw, raw) * signs
        return torch.where(signs == 0, raw, turned)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value where its sign is right, else zero."""
        signs = self.signs_like(value)
        return Preimage((torch.where(value * signs < 0, torch.zeros_like(value), value),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The size of the largest entry of the wrong sign."""
        return max(0.0, worst(-value * self.signs_like(value)))

    def tolerance(self, dtype: torch.dtype) -> float:
        """None."""
        return 0.0
