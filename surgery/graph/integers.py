"""A weight of a graph that is stored as integers."""

from typing import Any

import torch
from torch import Tensor, nn

from computed.constraint import state_dtype
from computed.constraints.integers import Integers

BLOCKED_SINCE = 21  # the opset


class IntegerWeight(nn.Module):
    """``scale numbers``, made at each read: nothing dense is kept.

    ``numbers`` are int8, of the weight's shape. ``scale``, in the weight's dtype, has one number for each slice along
    ``dim``, or (..., in / group) for each ``group`` of neighbours along the last dimension, or is one number.

    For `torch.onnx.export` it is a DequantizeLinear: ``axis`` is ``dim``; groups are rows of a reshaped weight, with
    ``blocked`` they are its blocks. Of float64, which that knows nothing of, it is a product there too.
    """

    numbers: Tensor
    scale: Tensor

    def __init__(self, stored: Integers, dtype: torch.dtype, *, blocked: bool = False) -> None:
        super().__init__()
        numbers, scale, self.dim, self.group = stored
        kept = scale if self.group is not None else scale.reshape(-1 if self.dim is not None else ())
        self.blocked = blocked
        self.register_buffer("numbers", numbers.detach().contiguous())
        self.register_buffer("scale", kept.detach().to(dtype).contiguous())

    def forward(self) -> Tensor:
        """The weight."""
        # torch does not say that it exports is_scripting, and TorchScript takes no second comment behind that
        if not torch.jit.is_scripting() and self.for_onnx():  # type: ignore[attr-defined]
            return self.dequantised()
        wide = self.scale.to(state_dtype(self.scale.dtype))
        numbers = self.numbers.to(wide.dtype)
        group = self.group
        if group is not None:
            product: Tensor = numbers.unflatten(-1, (-1, group)) * wide.unsqueeze(-1)
            return product.flatten(-2).to(self.scale.dtype)
        return (numbers * self.spread(wide)).to(self.scale.dtype)

    def spread(self, scale: Tensor) -> Tensor:
        """With all dimensions of the weight."""
        if self.dim is None:
            return scale
        sizes = [1] * self.numbers.dim()
        sizes[self.dim] = -1
        return scale.reshape(sizes)

    @torch.jit.unused
    def for_onnx(self) -> bool:
        """Whether this read becomes a node of an ONNX graph."""
        return torch.onnx.is_in_onnx_export() and self.scale.dtype is not torch.float64

    @torch.jit.unused
    def dequantised(self) -> Tensor:
        """The node of an ONNX graph, whose scales are of float32."""
        numbers, scale = self.numbers, self.scale.to(torch.float32)
        attributes: dict[str, Any] = {} if self.dim is None else {"axis": self.dim}
        version = None
        if self.group is not None and self.blocked:
            attributes, version = {"axis": numbers.dim() - 1, "block_size": self.group}, BLOCKED_SINCE
        elif self.group is not None:
            attributes, numbers, scale = {"axis": 0}, numbers.reshape(-1, self.group), scale.reshape(-1)
        made: Tensor = torch.onnx.ops.symbolic(
            "DequantizeLinear", (numbers, scale), attributes, dtype=scale.dtype, shape=numbers.shape, version=version
        )
        return made.reshape(self.numbers.shape).to(self.scale.dtype)

    def extra_repr(self) -> str:
        """What it is."""
        scales = f"groups of {self.group}" if self.group is not None else f"dim={self.dim}"
        return f"{tuple(self.numbers.shape)}, int8, scales by {scales}"
