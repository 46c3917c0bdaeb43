"""Whether a graph gives what the model gives, in training and in eval, on an example: what no trace can see."""

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from computed.parameter import ComputedParameter
from computed.scaled import make_values
from computed.torch_private import tree_map
from surgery.errors import SurgeryError, TraceRefusedError
from surgery.graph.arguments import Example
from surgery.graph.module import ConstrainedGraph

# relative to the largest entry
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
COARSE = 2e-2
TINY = 1e-30
CALLS = 2  # what is kept from the first shows in the second


def compare(
    graph: ConstrainedGraph, model: nn.Module, inputs: Sequence[Any], example: Example, modes: Sequence[bool]
) -> None:
    """Raise where the graph on ``inputs`` and the constrained model on ``example`` differ in one of the ``modes``.

    Both stay as they are.

    Errors: TraceRefusedError.
    """
    for mode in modes:
        traced, whole = copy.deepcopy(graph).train(mode), copy.deepcopy(model).train(mode)
        for module in (*traced.modules(), *whole.modules()):
            if isinstance(module, ComputedParameter):
                make_values(module)  # both alike: a normalisation of few numbers makes much of rounding
        problem = None
        for _ in range(CALLS):
            expected = _outputs(_expected(whole, example, training=mode))
            got = _outputs(_got(traced, model, inputs))
            problem = problem or _difference(got, expected) or _moved(traced, whole)
        if problem is not None:
            name = "training" if mode else "eval"
            raise TraceRefusedError(
                f"{type(model).__name__}: the graph is not the model, {problem} in {name}. A branch on isinstance(x, "
                f"Tensor), a counter in Python or train() and eval() of its own are not in a graph; ways out: "
                f"via='tree', or lower={{Type: function}}"
            )


def _expected(model: nn.Module, example: Example, *, training: bool) -> Any:
    try:
        return _run(model, example[0], example[1])
    except Exception as error:
        mode = "training" if training else "eval"
        reason = f"{type(error).__name__}: {error}"
        raise SurgeryError(f"{type(model).__name__} itself raises on the example in {mode}: {reason}") from error


def _got(graph: nn.Module, model: nn.Module, inputs: Sequence[Any]) -> Any:
    try:
        return _run(graph, inputs, {})
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise TraceRefusedError(
            f"{type(model).__name__}: the graph does not run where the model does: {reason}. A part of a result that "
            f"is None was taken for a tensor, or something that no trace can see; ways out: via='tree', via='export'"
        ) from error


def _run(module: nn.Module, args: Any, kwargs: Any) -> Any:
    with torch.no_grad():
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        args, kwargs = tree_map(_own, (tuple(args), dict(kwargs)))
        return module(*args, **kwargs)


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _moved(graph: nn.Module, model: nn.Module) -> str | None:
    """Whether the call has left other state behind."""
    expected = dict(model.named_buffers())
    for name, buffer in graph.named_buffers():
        if name in expected and _difference([buffer], [expected[name]]) is not None:
            return f"a call leaves {name} with other numbers"
    return None


def _outputs(result: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(found.append, result)
    return found


def _difference(got: list[Any], expected: list[Any]) -> str | None:
    if len(got) != len(expected):
        return f"it has {len(got)} outputs instead of {len(expected)}"
    for position, (one, other) in enumerate(zip(got, expected, strict=True)):
        if not isinstance(other, Tensor):
            if one != other:
                return f"output {position} is {one!r} instead of {other!r}"
            continue
        if not isinstance(one, Tensor) or (one.shape, one.dtype) != (other.shape, other.dtype):
            return f"output {position} has another type, shape or dtype"
        if not other.is_floating_point():
            if not torch.equal(one, other):
                return f"output {position} differs"
            continue
        error = _error(one, other)
        if not error <= TOLERANCE.get(other.dtype, COARSE):
            return f"output {position} differs by {error:.2g} (relative to its largest entry)"
    return None


def _error(one: Tensor, other: Tensor) -> float:
    if not other.numel():
        return 0.0
    one, other = one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())
    difference = torch.where(same, 0.0, (one - other).abs())
    scale = float(torch.where(other.isfinite(), other, 0.0).abs().amax())
    return float(difference.amax()) / max(scale, TINY)
