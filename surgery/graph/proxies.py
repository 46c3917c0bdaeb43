"""What stands for tensors in a trace: operations are recorded, and what cannot be recorded is refused."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.proxy import Attribute, TracerBase

# attributes that code asks for without calling them
NO_METHODS = frozenset(("shape", "ndim", "dtype", "device"))
OWN = frozenset(("node", "tracer", "tensor", "refuse"))


class Sized:
    """What Python asks of a size, a shape or a dtype: the answers are those of the example, asserted."""

    tracer: Any

    def __len__(self) -> int:
        """That of a shape."""
        return int(self.tracer.decisions.length_of(self))

    def __int__(self) -> int:
        """A size."""
        return int(self.tracer.decisions.number_of(self))

    def __float__(self) -> float:
        """A size."""
        return float(self.tracer.decisions.number_of(self))

    def __hash__(self) -> int:
        """A size is looked up by what it is; a tensor by its identity."""
        known = self.tracer.decisions.constant(self)
        return object.__hash__(self) if known is None else hash(known)

    def __repr__(self) -> str:
        """A size as text."""
        known = self.tracer.decisions.constant(self)
        return object.__repr__(self) if known is None else repr(known)

    def __str__(self) -> str:
        """A size as text."""
        known = self.tracer.decisions.constant(self)
        return object.__repr__(self) if known is None else str(known)

    def __format__(self, spec: str) -> str:
        """A size as text."""
        known = self.tracer.decisions.constant(self)
        return object.__repr__(self) if known is None else format(known, spec)


class SizeAttribute(Sized, Attribute):
    """``x.shape`` and its kin: a node once it is used."""


class RecordedProxy(Sized, fx.Proxy):
    """The result of an operation. Its attributes are the tensor's, and setting one would be lost."""

    def __init__(self, node: fx.Node, tracer: TracerBase, refuse: Callable[[str], None]) -> None:
        vars(self)["refuse"] = refuse
        super().__init__(node, tracer)

    def __getattr__(self, name: str) -> Any:
        """What a branch may ask for knows its size."""
        return SizeAttribute(self, name) if name in NO_METHODS else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse."""
        if name not in OWN:
            self.refuse(f"sets .{name} of a tensor, which a graph does not record; write w.copy_(...)")
        vars(self)[name] = value


class TensorProxy(RecordedProxy):
    """A parameter or buffer in a trace.

    Authors' code asks for shapes and dtypes and branches on them; those of a tensor that stands in the model do not
    change, so the answer is the tensor's own.
    """

    def __init__(self, node: fx.Node, tracer: TracerBase, refuse: Callable[[str], None], tensor: Tensor) -> None:
        super().__init__(node, tracer, refuse)
        self.tensor = tensor

    @property
    def shape(self) -> torch.Size:
        """As the tensor's."""
        return self.tensor.shape

    @property
    def dtype(self) -> torch.dtype:
        """As the tensor's."""
        return self.tensor.dtype

    @property
    def device(self) -> torch.device:
        """As the tensor's."""
        return self.tensor.device

    @property
    def ndim(self) -> int:
        """As the tensor's."""
        return self.tensor.ndim

    @property
    def requires_grad(self) -> bool:
        """As the tensor's."""
        return self.tensor.requires_grad

    @property
    def is_cuda(self) -> bool:
        """As the tensor's."""
        return self.tensor.is_cuda

    def size(self, dim: int | None = None) -> torch.Size | int:
        """As the tensor's."""
        return self.tensor.size() if dim is None else self.tensor.size(dim)

    def dim(self) -> int:
        """As the tensor's."""
        return self.tensor.dim()

    def numel(self) -> int:
        """As the tensor's."""
        return self.tensor.numel()

    def nelement(self) -> int:
        """As the tensor's."""
        return self.tensor.nelement()

    def is_floating_point(self) -> bool:
        """As the tensor's."""
        return self.tensor.is_floating_point()

    def is_complex(self) -> bool:
        """As the tensor's."""
        return self.tensor.is_complex()

    def element_size(self) -> int:
        """As the tensor's."""
        return self.tensor.element_size()

    def __len__(self) -> int:
        """As the tensor's."""
        return len(self.tensor)
