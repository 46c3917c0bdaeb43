"""Every private name of torch that computed parameters touch, each with its reason.

Where a name is missing, the mechanism that needs it is off and everything is evaluated at each read: slower, and right.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import pyfunctorch
from torch.autograd import forward_ad
from torch.fx import _symbolic_trace
from torch.fx.experimental import proxy_tensor
from torch.utils import _python_dispatch, _pytree

# The address of the first element, read without materialising a copy-on-write storage as `data_ptr()` does. A public
# method; bound once, since a read of a held value calls it several times.
address_of: Callable[[Tensor], int] = Tensor.const_data_ptr  # type: ignore[attr-defined] # in no stub


def _probe() -> bool:
    """Whether a copy-on-write snapshot works here: a write must move the address, and undo nothing else."""
    try:
        watched = torch.ones(2)
        snapshot = torch._lazy_clone(watched)
        address = address_of(watched)
        watched.add_(1)
    except (AttributeError, RuntimeError):
        return False
    return bool(address != address_of(watched) and snapshot[0] == 1)


# Copy-on-write snapshots see every write to a storage, also those that `_version` does not count (fused optimizers,
# `.data`, third-party optimizers): https://github.com/pytorch/pytorch/blob/v2.13.0/c10/core/impl/COW.h
CAN_WATCH: bool = _probe()


def lazy_clone(tensor: Tensor) -> Tensor:
    """A copy-on-write clone: no memory until either side is written."""
    clone: Tensor = torch._lazy_clone(tensor)
    return clone


def alias(tensor: Tensor) -> Tensor:
    """A view with the very strides of ``tensor``; `view_as` gives others along dimensions of size one.

    Strides decide on the memory format of results: https://pytorch.org/docs/stable/tensor_attributes.html
    """
    return tensor[...]


def _always_retained() -> bool:
    return True


# whether the backward that runs at this moment retains the graph; where that cannot be asked, all are kept
backward_retains_graph: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", _always_retained
)

# the kernel of torch's own weight norms: their bits come from no other formula
weight_norm: Callable[[Tensor, Tensor, int], Tensor] = torch._weight_norm


# one call for many tensors: off the GPU each is done by the kernel that does it alone, with the same bits. torch's own
# optimizers are written with them: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/sgd.py
foreach_mul: Callable[..., Sequence[Tensor]] = torch._foreach_mul
foreach_copy_: Callable[..., object] = torch._foreach_copy_


# a tensor where a mask is positive, zero elsewhere whatever stood there, differentiable to any order: the gradient of
# a threshold. A tenth of the time of `masked_fill` and `where`, whose loops have no vector form:
# https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cpu/Activation.cpp
_threshold_backward: Callable[[Tensor, Tensor, float], Tensor] = torch.ops.aten.threshold_backward.default


def where_positive(tensor: Tensor, mask: Tensor) -> Tensor:
    """``tensor`` where ``mask``, of its shape, is positive, and zero elsewhere."""
    return _threshold_backward(tensor, mask.to(tensor.dtype), 0.0)


def _fused_backward() -> Callable[..., tuple[Tensor, Tensor]] | None:
    return getattr(torch.ops.aten, "_weight_norm_interface_backward", None)


# their derivative in one kernel, which reads each number twice where four operations read it seven times; it takes
# contiguous tensors, and slices along the first or the last dimension. None where it is missing.
weight_norm_backward: Callable[..., tuple[Tensor, Tensor]] | None = _fused_backward()


# `torch.compiler.disable`, which imports the compiler only when what it decorates is called: that takes a second
outside_compilation: Callable[..., Any] = torch._compile._disable_dynamo

# bound once: a read of a held value asks some of these, and an attribute chain costs more than the call
_functorch_level = torch._C._functorch.peek_interpreter_stack
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
# whether `torch.jit.trace` records what is done at this moment
is_jit_tracing: Callable[[], bool] = torch._C._is_tracing
# newer releases have no flag and answer by thread; where there is one, it is looked at without a function in Python
_FLAG = "_is_fx_tracing_flag"
fx_tracing: Callable[[], Any] = (
    functools.partial(vars(_symbolic_trace).get, _FLAG)
    if _FLAG in vars(_symbolic_trace)
    else _symbolic_trace.is_fx_symbolic_tracing
)


def inside_transform() -> bool:
    """Inside a functorch level, a dispatch mode, a trace or a forward-mode level: no tensor there is ours to keep."""
    return (
        dispatch_modes() != 0
        or _functorch_level() is not None
        or forward_ad._current_level >= 0
        or fx_tracing()
        or is_jit_tracing()
    )


def proxy_tracer() -> Any:
    """The tracer that records what is run at this moment, as `torch.export` does without ``strict``; None for none."""
    mode = proxy_tensor.get_proxy_mode()
    return None if mode is None else mode.tracer


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """No functorch level, dispatch mode or jit trace: what is done here is none of their business."""
    with contextlib.ExitStack() as stack:
        if is_jit_tracing():
            tracing = torch._C._get_tracing_state()
            torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
            stack.callback(torch._C._set_tracing_state, tracing)  # type: ignore[attr-defined]
        if _functorch_level() is not None:
            stack.enter_context(pyfunctorch.temporarily_clear_interpreter_stack())
        if dispatch_modes():
            stack.enter_context(_python_dispatch._disable_current_modes())
        yield


# what is done inside comes by no `__torch_function__`, of subclasses or of modes
without_torch_function: Callable[[], contextlib.AbstractContextManager[None]] = torch._C.DisableTorchFunction


def fx_patches_lifted() -> contextlib.AbstractContextManager[None]:
    """Calls of modules are calls again, in the midst of a symbolic trace, which patches `nn.Module.__call__`."""
    lifted: contextlib.AbstractContextManager[None] = _symbolic_trace._maybe_revert_all_patches()
    return lifted


def is_fx_tracing() -> bool:
    """Whether stock FX traces at this moment; a computed parameter must then be recorded as a call of its module."""
    return bool(_symbolic_trace.is_fx_symbolic_tracing())


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """``tree`` with ``function`` applied to all that is no container: torch's own idea of what a container is."""
    return _pytree.tree_map(function, tree)


def tree_unflatten(leaves: list[Any], structure: Any) -> Any:
    """The tree of a structure, as `torch.export` keeps that of a model's outputs."""
    return _pytree.tree_unflatten(leaves, structure)


def rebuild_flat_weights(host: nn.Module) -> None:
    """Let an RNN, LSTM or GRU read its weights anew: it keeps them in a list that no registry knows of."""
    if isinstance(host, nn.RNNBase):
        host._init_flat_weights()


def is_accumulate_grad(node: Any) -> bool:
    """Whether an autograd node is the leaf node of a tensor (it has no public class)."""
    return type(node).__name__ == "AccumulateGrad"
