"""A constraint with a state that is found once, from the value, and stays: a mask, for instance."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import IteratedConstraint, state_dtype


class FixedState(IteratedConstraint, abc.ABC):
    """One state buffer that no evaluation moves; a write or a load finds it anew."""

    state_names: ClassVar[tuple[str, ...]] = ("mask",)
    state_moves: ClassVar[bool] = False
    found_from_settings: ClassVar[tuple[str, ...]] = ("mask",)
    mask: Tensor

    def next_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """It stays."""
        return (self.mask,)

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """It stays."""
        return (self.mask,)

    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight."""
        return (shape,)

    def allocate_state(self, shape: torch.Size, like: Tensor) -> None:
        """Register one buffer: what does not move needs no pending and no settled copy."""
        self.register_buffer("mask", torch.zeros(shape, dtype=state_dtype(like.dtype), device=like.device))

    def state(self, prefix: str = "") -> tuple[Tensor, ...]:
        """The one, whichever set is asked for."""
        return (self.mask,)

    def writes(self, prefix: str, state: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The mask, where it is another one: to commit it to itself would copy it at every step and end the hold."""
        return super().writes(prefix, state) if not prefix and state[0] is not self.mask else []
