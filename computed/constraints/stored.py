"""The dtype in which a weight is stored, for constraints that depend on it."""

from typing import Any

import torch
from torch import Tensor

from computed.constraint import Constraint
from computed.site import Site


class Stored(Constraint):
    """A constraint that knows the dtype of the weight: float32 until it is bound, then that of the site.

    Evaluation is done in at least float32, so the arguments do not tell.
    """

    stored: torch.dtype

    def bind(self, site: Site) -> None:
        """Take the dtype of the site."""
        self.stored = site.dtype

    def fitting(self, raw: Tensor, largest: Tensor | None = None) -> Tensor:
        """``raw``, scaled down where ``largest``, by default its own largest entry, is beyond the stored dtype."""
        if raw.numel() == 0:
            return raw
        limit = 0.995 * float(torch.finfo(self.stored).max)
        entry = raw.abs().amax() if largest is None else largest
        return raw * (limit / entry).clamp_max(1.0) if bool(entry > limit) else raw

    def _apply(self, fn: Any, recurse: bool = True) -> "Stored":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # there may be no tensor here that shows what a cast of the model does
        self.stored = fn(torch.empty(0, dtype=self.stored)).dtype
        return self
