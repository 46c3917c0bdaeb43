"""Each value once in a graph that is traced by running the model: `torch.export`, not strict, and ONNX by way of it.

A cell that is unrolled a hundred times would have a hundred evaluations in its graph. Dynamo (``torch.compile``, strict
export) reads code instead of running it, and what this notes would be a side effect there; inductor merges equal
evaluations in the forward of what it compiles.
"""

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from computed.torch_private import proxy_tracer


class Recorded(NamedTuple):
    """A value in the graph, and the raws that it was computed from, as they were."""

    value: Tensor
    raws: tuple[Tensor, ...]
    versions: tuple[int, ...]


_by_tracer: WeakKeyDictionary[Any, dict[tuple[int, bool, bool], Recorded]] = WeakKeyDictionary()


def recorded(key: int, raws: tuple[Tensor, ...], *, training: bool) -> Tensor | None:
    """The value of the computed parameter ``key`` in the graph that is being traced, where it is there and still true.

    ``key`` is its ``id``, which is its own as long as it is traced.
    """
    tracer = proxy_tracer()
    found = None if tracer is None else _by_tracer.get(tracer, {}).get((key, torch.is_grad_enabled(), training))
    if found is None or found.versions != _versions(raws):
        return None
    same = len(raws) == len(found.raws) and all(raw is old for raw, old in zip(raws, found.raws, strict=True))
    return found.value if same else None


def record(key: int, raws: tuple[Tensor, ...], value: Tensor, *, training: bool) -> None:
    """Note the value for the next read in the same graph."""
    tracer = proxy_tracer()
    if tracer is not None:
        values = _by_tracer.setdefault(tracer, {})
        values[key, torch.is_grad_enabled(), training] = Recorded(value, raws, _versions(raws))


def _versions(raws: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(-1 if raw.is_inference() else raw._version for raw in raws)
