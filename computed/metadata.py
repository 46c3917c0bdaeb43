"""What a computed parameter answers without its value: shape, dtype, device, ``requires_grad``."""

from typing import Any

import torch
from torch import Tensor

from computed.errors import ComputedParameterError
from computed.frame import Frame


class Metadata(Frame):
    """The metadata of the value, read from the raws."""

    @property
    def shape(self) -> torch.Size:
        """The shape of the value."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the value: that of the first raw, or what a module without inputs gave."""
        raws = self.raw_tensors()
        return raws[0].dtype if raws else self._dtype

    @property
    def device(self) -> torch.device:
        """The device of the first raw."""
        first = self.first_raw()
        return torch.device("cpu") if first is None else first.device

    def first_raw(self) -> Tensor | None:
        """The first raw, or the first parameter of a module without inputs, or None."""
        # raws first: walking `parameters` hashes modules, and compiled code would be compiled anew for each object
        raws = self.raw_tensors()
        return raws[0] if raws else next(iter(self.parameters()), None)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def ndimension(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of entries."""
        return self.shape.numel()

    def nelement(self) -> int:
        """The number of entries."""
        return self.shape.numel()

    def __len__(self) -> int:
        """The size of the first dimension."""
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def element_size(self) -> int:
        """The bytes of one entry."""
        return self.dtype.itemsize

    def is_floating_point(self) -> bool:
        """Whether the value's dtype is a float."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the value's dtype is complex."""
        return self.dtype.is_complex

    @property
    def is_cuda(self) -> bool:
        """Whether the raws are on a CUDA device."""
        return self.device.type == "cuda"

    @property
    def is_cpu(self) -> bool:
        """Whether the raws are in main memory."""
        return self.device.type == "cpu"

    @property
    def is_meta(self) -> bool:
        """Whether the raws have no data yet."""
        return self.device.type == "meta"

    @property
    def is_leaf(self) -> bool:
        """Whether no gradient flows to raws."""
        return not self.requires_grad

    @property
    def requires_grad(self) -> bool:
        """Whether some raw that is trained requires a gradient; setting it reaches the trained raws only."""
        return any(raw.requires_grad for raw in self.trained_raws)

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        for raw in self.trained_raws:
            raw.requires_grad_(wanted)

    def requires_grad_(self, requires_grad: bool = True) -> "Metadata":
        """Set ``requires_grad`` of the trained raws."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad_dtype(self) -> torch.dtype | None:
        """The dtype that gradients of the first raw are kept in."""
        first = self.first_raw()
        return None if first is None else first.grad_dtype

    @property
    def grad(self) -> None:
        """None: gradients accumulate in the raws."""
        return

    @grad.setter
    def grad(self, new: Tensor | None) -> None:
        if new is not None:
            raise ComputedParameterError(f"{self.called()}: gradients accumulate in the raws; set those of w.raws")
