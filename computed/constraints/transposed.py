"""Transposed: a weight that is another layer's, transposed."""

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from computed.constraint import Constraint, Preimage, Role
from computed.constraints.measuring import worst
from computed.constraints.refusing import exempt, require
from computed.errors import ConstraintRefusedError
from computed.linalg import in_double
from computed.parameter import ComputedParameter
from computed.site import Site


class Transposed(Constraint):
    """``value = sourceᵀ`` where ``source`` (n, m) is the weight of another layer, as in tied autoencoders.

    ``{"decoder.weight": Transposed(model.encoder)}``. The value (m, n) is a view of the source, so it takes no memory,
    and the gradients of both places are summed in the source. The layer is asked at each evaluation: where its weight
    is a computed parameter, or becomes one later, the value follows. What stood here before is dropped, and comes back
    with undo; a plan shows how far that moves the weight. There is one admissible value, so what is written or loaded
    here is dropped too: write the source. It has no numbers of its own: ``unused`` is an empty raw that is not trained,
    so what a bake leaves here is frozen, and a state dict lists the tensors of the layer once more, as for any tie.
    Weight decay acts on the source.

    A copy of a model copies the layer with it; a copy of this constraint alone, as for each site of a rule, goes on
    reading the very layer that was given. It cannot be written as text, so files that hold rules have no place for it.

    Args:
        layer: the layer, without modules in it; not the one whose weight this becomes.
        name: which of its parameters.
        exact: refuse a weight that is not equal to the transposed source, bit for bit.

    Errors:
        ValueError: ``layer`` is no module, has modules in it, or no such parameter. A weight of another shape is
            refused.
        ConstraintRefusedError: with ``exact`` for a weight that would move.

    Reference: the Module without inputs in Thomas Viehmann, "Computed Parameters", lernapparat.de/computed-parameters,
    2020; Vincent et al., "Stacked denoising autoencoders", 2010, section 3.1, for tied weights.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> encoder = nn.Linear(3, 2)
        >>> w = ComputedParameter.from_value(torch.zeros(3, 2), Transposed(encoder))
        >>> torch.equal(w.detach(), encoder.weight.T), w.data_ptr() == encoder.weight.data_ptr()
        (True, True)
    """

    roles: ClassVar[tuple[Role, ...]] = (Role("unused", trained=False),)
    scriptable: ClassVar[bool] = False  # what it reads may be a computed parameter

    def __init__(self, layer: nn.Module, name: str = "weight", *, exact: bool = False) -> None:
        super().__init__()
        require(isinstance(layer, nn.Module), f"Transposed needs the layer that has the weight, got {layer!r}")
        own = [child for child in layer.children() if not isinstance(child, ComputedParameter)]
        require(
            not own,
            f"Transposed needs the very layer that has the weight, got a {type(layer).__name__} with modules in it",
        )
        self.layer = layer
        self.read_from = (layer, name)  # a setting too: by it a plan tells two layers apart
        self.exact = bool(exact)
        found = getattr(layer, name, None)
        right = isinstance(found, Tensor | ComputedParameter)
        require(right, f"Transposed: {type(layer).__name__} has no parameter {name!r}")

    def extra_repr(self) -> str:
        """The layer and the name of its parameter."""
        layer, name = self.read_from
        return f"{type(layer).__name__}.{name}{', exact=True' if self.exact else ''}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Transposed":
        """Copy with what contains it; alone, go on reading the same layer."""
        if not memo:
            memo[id(self.layer)] = self.layer
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__dict__, memo))  # type: ignore[no-untyped-call] # torch annotates nothing of it
        return new

    def source(self) -> Tensor:
        """The weight of the layer, transposed."""
        layer, name = self.read_from
        found: Tensor | ComputedParameter = getattr(layer, name)
        whole = found.value() if isinstance(found, ComputedParameter) else found
        return whole.t()

    def why_not(self, site: Site) -> str | None:
        """It takes what has the shape of the source, transposed."""
        layer, name = self.read_from
        shape = tuple(getattr(layer, name).shape)
        if site.shape is None or (len(shape) == 2 and tuple(site.shape) == shape[::-1]):
            return None
        return f"it is no transposed source of shape {shape}, got shape {tuple(site.shape)}; {exempt(site)}"

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """There is nothing in it."""
        return (torch.Size((0,)),)

    def forward(self, unused: Tensor) -> Tensor:
        """The transposed source."""
        return self.source()

    def right_inverse(self, value: Tensor) -> Preimage:
        """Nothing: there is one value."""
        if self.exact and not value.is_meta and not torch.equal(value, self.source().to(value)):
            raise ConstraintRefusedError(
                "it differs from the transposed source, and exact=True keeps it from being moved there; leave exact "
                "out, or write the source first"
            )
        return Preimage((value.new_zeros(0),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest difference from the transposed source."""
        if not bool(value.isfinite().all()):
            return math.inf
        return worst((in_double(value) - in_double(self.source())).abs())

    def tolerance(self, dtype: torch.dtype) -> float:
        """None: it is the same memory."""
        return 0.0
