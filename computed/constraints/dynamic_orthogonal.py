"""DynamicOrthogonal: orthonormal columns, from a base that follows the value."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraints.stepped import OnOrthonormal
from computed.linalg import as_matrix, like_weight, polar_factor
from computed.retractions import cayley_retraction, tangent
from computed.torch_private import inside_transform


class FreeStep(torch.autograd.Function):
    """A retraction at a step of zero: the value is the base, and the derivative the projection to its tangents."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, constraint: "DynamicOrthogonal", base: Tensor) -> Tensor:
        """The base."""
        ctx.save_for_backward(raw, base)
        ctx.constraint = constraint
        return base.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """The projection; to be differentiated again, the derivative of the retraction itself."""
        raw, base = ctx.saved_tensors
        if torch.is_grad_enabled():
            again = ctx.constraint.moved(raw, base, raw.detach())
            return (*torch.autograd.grad(again, raw, cotangents[0], create_graph=True), None, None)
        return ctx.constraint.projected(base, cotangents[0]), None, None


class DynamicOrthogonal(OnOrthonormal):
    """Orthonormal columns, or rows where there are fewer, from a ``base`` that follows the value.

    ``value = R(base, raw - origin)`` with the Cayley retraction of `Orthogonal`. Each step of an optimizer makes the
    value the new ``base`` and the raw the new ``origin``, so that each gradient is taken at a step of zero, where it is
    the Riemannian one, ``g - Q sym(Qᵀ g)``: one retraction a step that nothing is differentiated through, and
    nothing where a weight did not move. `Orthogonal` has a base that stays: its steps are those of a fixed map from
    a linear space, which momentum takes for granted, and which distorts where the value turned far.

    At insertion value, base and raw are the polar factor, the nearest point; a weight that is orthonormal is kept bit
    for bit. The raw then only collects steps: only its changes mean something. Weight decay is one of these changes:
    it turns the value along the raw, and leaves it orthonormal. Base and origin take the memory of two weights, and
    four more while training.

    Reference: Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds", 2019 (arXiv:1909.09501),
    algorithm 1 with K = 1.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> q = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, -3.0]]), DynamicOrthogonal())
        >>> (q.detach() + 0.0).tolist()
        [[1.0, 0.0], [0.0, -1.0]]
    """

    spec_name: ClassVar[str] = "dynamic_orthogonal"
    state_names: ClassVar[tuple[str, ...]] = ("base", "origin")
    origin: Tensor
    pending_base: Tensor
    pending_origin: Tensor
    settled_base: Tensor
    settled_origin: Tensor

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__(dim, corrects=True)  # errors of many steps would add up

    def own_settings(self) -> dict[str, object]:
        """None."""
        return {}

    def stepped(self, base: Tensor, delta: Tensor) -> Tensor:
        """By the Cayley retraction."""
        return cayley_retraction(base, delta)

    def nearest(self, matrix: Tensor) -> Tensor:
        """The polar factor."""
        return polar_factor(matrix)

    def projected(self, base: Tensor, change: Tensor) -> Tensor:
        """A change of the weight in the tangent space at ``base``."""
        start, step = as_matrix(base, self.rows), as_matrix(change, self.rows)
        if start.shape[0] < start.shape[1]:
            return like_weight(tangent(start.t(), step.t()).t(), change, self.rows)
        return like_weight(tangent(start, step), change, self.rows)

    def forward(self, raw: Tensor) -> Tensor:
        """The value in a graph, in training with state that a step commits."""
        here = raw.detach()
        if not self.training:
            return self.settled_base + self.projected(self.settled_base, raw - here)
        base = self.moved(here, self.base, self.origin).detach()
        with torch.no_grad():
            self.pending_base.copy_(base)
            self.pending_origin.copy_(here)
            # a scripted module is told of no optimizer's step; torch does not say that it exports is_scripting, and
            # TorchScript takes no second comment behind that
            if torch.jit.is_scripting():  # type: ignore[attr-defined]
                self.base.copy_(base)
                self.origin.copy_(here)
                self.settled_base.copy_(base)
                self.settled_origin.copy_(here)
        return base + self.projected(base, raw - here)

    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The value for a given base and origin; without a step from there it costs nothing."""
        base, origin = state
        if not inside_transform() and not raw.is_meta and torch.equal(raw.detach(), origin):
            value: Tensor = FreeStep.apply(raw, self, base)  # type: ignore[no-untyped-call] # torch annotates nothing of it
            return value
        return self.moved(raw, base, origin)

    def next_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Here: the value as base, the raw as origin."""
        here = raw.detach()
        with torch.no_grad():
            return self.moved(here, self.base, self.origin), here.clone()

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Here, too."""
        return self.next_state(raw)
