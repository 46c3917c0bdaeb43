"""Mask and SparsePattern: entries that are zero and stay zero."""

import abc
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage
from computed.constraints.agreeing import Agreeing
from computed.constraints.describing import Described
from computed.constraints.fixed_state import FixedState
from computed.constraints.mask_ops import masked
from computed.constraints.refusing import exempt, require, whole_number, why_not_dim
from computed.scaled import DIMENSIONS
from computed.site import Site
from computed.torch_private import where_positive


def largest(scores: Tensor, count: int) -> Tensor:
    """1 for the ``count`` largest of each row of ``scores``, of equal ones the first, else 0."""
    order = scores.nan_to_num(nan=-1.0).sort(stable=True, dim=-1, descending=True).indices
    return torch.zeros_like(scores).scatter(-1, order[..., :count], 1.0)


class Masked(Described, FixedState, abc.ABC):
    """``value = raw * mask``, with a mask of ones and zeros that the value at insertion decides.

    By filling: what a product leaves of a negative number is a negative zero, and NaN of a number that is none.
    """

    @abc.abstractmethod
    def mask_of(self, value: Tensor) -> Tensor:
        """Which entries of a value stay."""

    @abc.abstractmethod
    def excess(self, value: Tensor) -> float:
        """The share of entries that should be zero and are not."""

    def forward(self, raw: Tensor) -> Tensor:
        """The value in a graph."""
        return raw.masked_fill(self.mask == 0, 0.0)

    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The value for a given mask."""
        return where_positive(raw, state[0])

    def keeps_weight(self) -> bool:
        """What is masked stays in the raw."""
        return True

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value itself: what is masked is kept, for a mask that has more ones later."""
        return Preimage((value,), (self.mask_of(value.detach()),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The share of entries that should be zero and are not."""
        return math.inf if bool(value.isnan().any()) else self.excess(value)

    def tolerance(self, dtype: torch.dtype) -> float:
        """None: zeros are zeros."""
        return 0.0


class Mask(Masked, Agreeing):
    """A share of the entries is zero, those smallest in size: ``value = raw * mask``.

    With ``dim`` whole slices along it are zero, those shortest: rows of a weight (out, in) for 0, filters of a
    convolution, inputs for 1. The mask is found at insertion, and again when the weight is written or loaded; what is
    masked keeps its raw, has no gradient, and comes back if the sparsity is lowered. This is the nearest point.
    ``round(sparsity n)`` of ``n`` entries or slices are zero; of equal ones the last. Weight decay acts on raws,
    hidden ones too.

    With ``scope="rule"`` the entries, or lengths of slices, of all sites of a rule are ranked together, so that each
    gets a ``share`` of its own, which stands in its spec and stays its own when it is written or loaded;
    `surgery.configure` ranks those anew that it moves. That needs the weights of a whole model: `apply_constraints`
    and graphs take it, source text and decorated classes do not.

    Zeros save no memory and no time by themselves, and whole slices of them neither: layers keep their shapes. In
    training, `F.linear` and convolutions whose output channels are masked are done with the raw, and leave channels out
    of a result that is smaller than the weight: no masked weight is made. Eval takes the value.

    Errors:
        ValueError: not ``0 <= sparsity <= 1``, another scope than "site" and "rule", or ``dim`` is no whole number. A
            weight without that dimension is refused.

    Reference: Han et al., "Learning both weights and connections for efficient neural networks", 2015
    (arXiv:1506.02626), section 3; for ``dim``, Li et al., "Pruning filters for efficient convnets", 2017
    (arXiv:1608.08710).

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, -4.0], [0.5, 2.0]]), Mask(0.5)).tolist()
        [[3.0, -4.0], [0.0, 0.0]]
    """

    spec_name: ClassVar[str] = "mask"

    def __init__(
        self, sparsity: float, *, dim: int | None = None, scope: str = "site", share: float | None = None
    ) -> None:
        super().__init__()
        for name, number in (("sparsity", sparsity), ("share", share)):
            require(number is None or 0 <= number <= 1, f"mask needs a {name} from 0 to 1, got {number!r}")
        require(scope in ("site", "rule"), f"mask needs the scope 'site' or 'rule', got {scope!r}")
        require(share is None or scope == "rule", f"mask has a share of its own with scope='rule', got share={share!r}")
        self.sparsity = float(sparsity)
        self.dim = None if dim is None else whole_number("mask: dim", dim)
        self.scope = scope
        self.share = share

    def settings(self) -> dict[str, object]:
        """The sparsity, the dimension of structured ones, and what a rule agreed on."""
        given: dict[str, object] = {"sparsity": self.sparsity}
        given |= {} if self.dim is None else {"dim": self.dim}
        given |= {} if self.scope == "site" else {"scope": self.scope}
        return given if self.share is None else given | {"share": self.share}

    def why_not(self, site: Site) -> str | None:
        """It takes what has the dimension."""
        return why_not_dim("mask", site, self.dim)

    def bind(self, site: Site) -> None:
        """Count the dimension from the front."""
        if self.dim is not None and site.shape is not None:
            self.dim = self.dim % len(site.shape)

    def kept(self, count: int) -> int:
        """How many of ``count`` stay."""
        return count - round((self.sparsity if self.share is None else self.share) * count)

    def scores(self, value: Tensor) -> Tensor:
        """The size of each entry, or the length of each slice."""
        if self.dim is None:
            return value.abs().flatten()
        slices = value.movedim(self.dim, 0).flatten(1) if value.dim() > 1 else value.unsqueeze(1)
        scale = slices.abs().amax().clamp_min(torch.finfo(value.dtype).tiny) if slices.numel() else 1.0
        found: Tensor = torch.linalg.vector_norm(slices / scale, dim=1)
        return found * scale

    def mask_of(self, value: Tensor) -> Tensor:
        """The largest entries, or slices."""
        scores = self.scores(value)
        chosen = largest(scores, self.kept(len(scores)))
        if self.dim is None:
            return chosen.reshape(value.shape)
        sizes = [1] * value.dim()
        sizes[self.dim] = len(scores)
        return chosen.reshape(sizes).expand(value.shape).contiguous()

    def has_op_rules(self) -> bool:
        """Where slices are masked."""
        return self.dim is not None

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Any] | None:
        """The rules for `F.linear` and convolutions whose output channels are masked, transposed ones too."""
        if self.dim is None or op not in DIMENSIONS or self.disabled:
            return None
        return partial(masked, op, self.dim, self.mask)

    def excess(self, value: Tensor) -> float:
        """The share of entries or slices that are not zero, beyond those that may be."""
        scores = self.scores(value)
        return max(0.0, (int((scores != 0).sum()) - self.kept(len(scores))) / max(1, len(scores)))


class SparsePattern(Masked):
    """N:M sparsity: of every ``m`` neighbours along ``dim`` no more than ``n`` are not zero.

    The ``n`` largest in size stay, which gives the nearest point. ``dim`` is 1 by default, the inputs of a weight
    (out, in): 2:4 is what GPUs run faster (`torch.sparse.to_sparse_semi_structured` takes the baked weight, in half
    precision on CUDA). The mask is found as for `Mask`, and as there what is masked keeps its raw, on which weight
    decay acts.

    Errors:
        ValueError: not ``1 <= n <= m``. A dimension that ``m`` does not divide is refused.

    Reference: Mishra et al., "Accelerating sparse deep neural networks", 2021 (arXiv:2104.08378); Zhou et al.,
    "Learning N:M fine-grained structured sparse neural networks from scratch", 2021 (arXiv:2102.04010).

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> ComputedParameter.from_value(torch.tensor([[3.0, -4.0, 0.5, 2.0]]), SparsePattern(2, 4)).tolist()
        [[3.0, -4.0, 0.0, 0.0]]
    """

    spec_name: ClassVar[str] = "n_m"

    def __init__(self, n: int = 2, m: int = 4, *, dim: int = 1) -> None:
        super().__init__()
        self.n = whole_number("n_m: n", n)
        self.m = whole_number("n_m: m", m)
        require(1 <= self.n <= self.m, f"n_m needs 1 <= n <= m, got n={n!r} and m={m!r}")
        self.dim = whole_number("n_m: dim", dim)

    def settings(self) -> dict[str, object]:
        """Both numbers, and the dimension where it is another one."""
        given: dict[str, object] = {"n": self.n, "m": self.m}
        return given if self.dim == 1 else given | {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what has the dimension, in groups of ``m``."""
        shape = site.shape
        reason = why_not_dim("n_m", site, self.dim)
        if reason is not None or shape is None:
            return reason
        if shape[self.dim] % self.m == 0:
            return None
        return (
            f"{self.m} does not divide dimension {self.dim} of shape {tuple(shape)}; give another m or {exempt(site)}"
        )

    def groups(self, value: Tensor) -> Tensor:
        """Neighbours in the last dimension."""
        found: Tensor = value.movedim(self.dim, -1).unflatten(-1, (value.shape[self.dim] // self.m, self.m))
        return found

    def mask_of(self, value: Tensor) -> Tensor:
        """The largest of each group."""
        chosen = largest(self.groups(value).abs(), self.n)
        return chosen.flatten(-2).movedim(-1, self.dim).contiguous()

    def excess(self, value: Tensor) -> float:
        """The share of groups with too many entries that are not zero."""
        wrong = (self.groups(value) != 0).sum(-1) > self.n
        return float(wrong.double().mean()) if wrong.numel() else 0.0
