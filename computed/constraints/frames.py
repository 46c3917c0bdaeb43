"""What constraints on rank share: singular values that stay apart from zero, between two turning frames."""

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from computed.constraint import Preimage, Role
from computed.constraints.describing import Described
from computed.constraints.refusing import require, resolved_dim, whole_number, why_not_matrix
from computed.constraints.stored import Stored
from computed.linalg import as_matrix, in_double, scaled_to_one
from computed.retractions import cayley_retraction
from computed.site import Site

LOGIT = 40.0  # where a singular value is at an end of its range, to rounding


class Frames(Described, Stored, abc.ABC):
    """``value = R(U, turn_left) diag(s) R(V, turn_right)ᵀ``, ``s`` between ``size / cond`` and ``size``.

    ``U`` (m, r) and ``V`` (n, r) are the singular vectors at insertion, fixed; ``R`` is the Cayley retraction.
    """

    roles: ClassVar[tuple[Role, ...]] = (
        Role("turn_left"),
        Role("turn_right"),
        Role("spread"),
        Role("log_size"),
        Role("U", trained=False),
        Role("V", trained=False),
    )

    def __init__(self, cond: float, dim: int | None) -> None:
        super().__init__()
        require(1 < cond < math.inf, f"{self.spec_name} needs a cond above 1, got {cond!r}")
        self.cond = float(cond)
        self.dim = None if dim is None else whole_number(f"{self.spec_name}: dim", dim)
        self.rows = self.dim or 0
        self.stored = torch.float32

    def __setattr__(self, name: str, value: Any) -> None:
        """Set as a Module does; limits follow the condition number and the dtype, which is set last."""
        super().__setattr__(name, value)
        if name in ("cond", "stored") and "stored" in vars(self):
            info = torch.finfo(self.stored)
            # rounding of entries moves singular values by up to eps sqrt(n) / 2 of the largest one
            self.low = max(1 / self.cond, min(0.5, 64 * float(info.eps)))
            smallest = max(1e-100, 2.0**-24 if self.stored is torch.float16 else float(info.tiny))
            self.log_least = math.log(smallest / float(info.eps) / self.low)
            self.log_most = math.log(0.99 * float(info.max))

    @abc.abstractmethod
    def rank_for(self, out: int, width: int) -> int:
        """The rank of a matrix (out, width)."""

    @abc.abstractmethod
    def oriented(self, u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor]:
        """Left vectors and values of the nearest admissible matrix, but for the lower end of values."""

    @abc.abstractmethod
    def own_settings(self) -> dict[str, object]:
        """The settings beside ``cond`` and ``dim``."""

    def settings(self) -> dict[str, object]:
        """What was given."""
        given = self.own_settings() | ({} if self.cond == 1e3 else {"cond": self.cond})
        return given if self.dim is None else given | {"dim": self.dim}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, or says how it is read as one."""
        return why_not_matrix(self.spec_name, site, self.dim)

    def bind(self, site: Site) -> None:
        """Find out where rows run."""
        super().bind(site)
        self.dim = resolved_dim(site, self.dim)
        self.rows = self.dim or 0

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of both turns, of the values' places, of their size, and of both frames."""
        out = shape[self.rows % len(shape)]
        rest = [size for dim, size in enumerate(shape) if dim != self.rows % len(shape)]
        rank = self.rank_for(out, math.prod(rest))
        left, right = torch.Size((out, rank)), torch.Size((rank, *rest))
        return left, right, torch.Size((rank,)), torch.Size((1,)), left, right

    def forward(
        self, turn_left: Tensor, turn_right: Tensor, spread: Tensor, log_size: Tensor, U: Tensor, V: Tensor
    ) -> Tensor:
        """Turn the frames, and put the values between them."""
        size = log_size.clamp(self.log_least, self.log_most).exp()
        values = size * (self.low + (1 - self.low) * torch.sigmoid(spread))
        left = cayley_retraction(U, turn_left)
        right = cayley_retraction(V.flatten(1).t(), turn_right.flatten(1).t())
        sizes = list(V.shape)
        sizes[0] = U.shape[0]
        return ((left * values) @ right.t()).reshape(sizes).movedim(0, self.rows)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The frames of the nearest admissible matrix, and its values; no turns."""
        left, right, count, _, _, _ = self.raw_shapes(value.shape)
        scaled, largest = scaled_to_one(in_double(as_matrix(value, self.rows)))
        u, s, vh = torch.linalg.svd(scaled, full_matrices=False)
        u, s = self.oriented(u[:, : count[0]], s[: count[0]] * largest, vh[: count[0]])
        spread, log_size = self.places(s)
        found = (value.new_zeros(left), value.new_zeros(right), spread, log_size, u, vh[: count[0]].reshape(right))
        return Preimage(tuple(raw.to(value).contiguous() for raw in found))

    def places(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Where values (r), in falling order, lie between both ends, and the size, all as raws."""
        most = math.exp(self.log_most)
        s = s * (most / s[:1].clamp_min(most))  # the dtype may hold the entries, and not the singular values
        top = s[:1].clamp_min(math.exp(self.log_least))
        bottom = torch.maximum(s[-1:], self.low * top)
        # twice the largest where there is room, so that it can grow; no more than the smallest one allows
        size = top * torch.minimum(torch.full_like(top, 4.0), bottom / top / self.low).sqrt()
        share = ((torch.maximum(s, bottom) / size - self.low) / (1 - self.low)).clamp(0.0, 1.0)
        return torch.logit(share).clamp(-LOGIT, LOGIT), size.log().clamp_max(self.log_most)

    def spectrum(self, value: Tensor) -> Tensor:
        """All singular values, in float64."""
        scaled, largest = scaled_to_one(in_double(as_matrix(value, self.rows)))
        found: Tensor = torch.linalg.svdvals(scaled) * largest
        return found

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The first singular value beyond the rank, relative to the largest; 1 where one within it is too small."""
        if not bool(value.isfinite().all()):
            return math.inf
        s = self.spectrum(value)
        out = value.shape[self.rows]
        rank = self.rank_for(out, value.numel() // out)
        if float(s[rank - 1]) <= 0.25 * self.low * float(s[0]):
            return 1.0
        return float(s[rank] / s[0]) if len(s) > rank else 0.0

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of entries moves singular values by up to as many times as much as there are rows."""
        return 64 * float(torch.finfo(dtype).eps)
