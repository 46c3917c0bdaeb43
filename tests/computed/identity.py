"""Constraints that tests know everything about: one that changes nothing, one that counts its evaluations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from computed.constraint import Constraint, Preimage


class Identity(Constraint):
    """``value = raw``: whatever differs from the plain parameter is the computed parameter's own doing."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0


class Counting(Identity):
    """``value = tanh(raw)``, with a list of what each evaluation was given."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluations: list[Tensor] = []
        self.projections: list[Tensor] = []

    def forward(self, raw: Tensor) -> Tensor:
        self.evaluations.append(raw.detach().clone())
        return raw.tanh()

    def right_inverse(self, value: Tensor) -> Preimage:
        self.projections.append(value.detach().clone())
        return Preimage((value.clamp(-0.99, 0.99).atanh(),))
