"""What torch's forward pre-hooks compute, as modules without hooks: weight norm, spectral norm, a pruning mask.

Each gives the bits that its hook gives, and names its tensors as the hook's state dict does, behind the weight's name.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from computed.torch_private import weight_norm


class Unhooked(nn.Module):
    """A module that stands for a hook.

    ``suffixes`` are the hook's keys behind the weight's name, by the keys of the computed parameter: raws first.
    ``format`` is what state dicts of the hook are called, where there is a name for that.
    """

    suffixes: ClassVar[dict[str, str]]
    format: ClassVar[str | None] = None


class StoredLengths(Unhooked):
    """``g v / |v|``, with lengths over all dimensions but ``dim``; over all of them where it is -1.

    Reference: Salimans and Kingma, "Weight normalization", 2016 (arXiv:1602.07868), equation 2.
    """

    suffixes: ClassVar[dict[str, str]] = {"0": "_g", "1": "_v"}
    format: ClassVar[str | None] = "weight_norm"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """The weight, in the shape of ``v``."""
        return weight_norm(v, g, self.dim)

    def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The lengths of ``value``, and itself."""
        return torch.norm_except_dim(value, 2, self.dim), value


class StoredPowerIteration(Unhooked):
    """``W / (uᵀ W v)``, with rows along ``dim``; each evaluation in train mode takes ``steps`` steps of ``u``, ``v``.

    Reference: Miyato et al., "Spectral normalization for generative adversarial networks", 2018 (arXiv:1802.05957),
    algorithm 1.
    """

    suffixes: ClassVar[dict[str, str]] = {"raw": "_orig", "constraints.0.u": "_u", "constraints.0.v": "_v"}
    format: ClassVar[str | None] = "spectral_norm"
    u: Tensor
    v: Tensor

    def __init__(self, u: Tensor, v: Tensor, *, dim: int, steps: int, eps: float) -> None:
        super().__init__()
        self.register_buffer("u", u)
        self.register_buffer("v", v)
        self.dim = dim
        self.steps = steps
        self.eps = eps

    def forward(self, raw: Tensor) -> Tensor:
        """The weight, in the shape of ``raw``."""
        others = [dim for dim in range(raw.dim()) if dim != self.dim]
        matrix = (raw.permute(self.dim, *others) if self.dim else raw).reshape(raw.shape[self.dim], -1)
        if self.training:
            with torch.no_grad():
                for _ in range(self.steps):
                    self.v.copy_(F.normalize(torch.mv(matrix.t(), self.u), dim=0, eps=self.eps))
                    self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0, eps=self.eps))
        return raw / torch.dot(self.u.clone(), torch.mv(matrix, self.v.clone()))


class StoredMask(Unhooked):
    """``mask * raw``."""

    suffixes: ClassVar[dict[str, str]] = {"raw": "_orig", "constraints.0.mask": "_mask"}
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, raw: Tensor) -> Tensor:
        """The weight, in the shape of ``raw``."""
        return self.mask.to(dtype=raw.dtype) * raw
