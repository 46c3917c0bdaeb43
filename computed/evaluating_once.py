"""Each value once in a part of a model that Dynamo reads: `torch.compile` and strict export.

Elsewhere nothing needs this: eager reads find the value held, and a graph that is traced by running the model
(`computed.once`) has it once. Dynamo follows each read into the evaluation, so that a cell that is unrolled a hundred
times has a hundred. Inductor merges equal ones in the forward, not in the backward. Strict export warns of the note
that is taken here for the next read, as it does inside torch's own ``parametrize.cached()``; the block ends it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_depth = 0
_values: dict[tuple[int, bool, bool], Tensor] = {}


@contextmanager
def evaluate_once() -> Iterator[None]:
    """Within this, code that Dynamo compiles evaluates each computed parameter once, at its first read.

    For loops over a weight, as in an unrolled cell, under `torch.compile` and ``torch.export(strict=True)``; without a
    compiler it changes nothing, for values are held. A raw may not be written to inside. Blocks can be nested, and the
    outermost counts; stochastic constraints draw at each read as before. What is compiled inside belongs to its model:
    blocks of equal layers compile once each.

    Example:
        >>> import torch, computed, surgery
        >>> cell = surgery.apply_constraints(torch.nn.Linear(3, 3), {"weight": "orthogonal"})
        >>> def unrolled(x):
        ...     with computed.evaluate_once():
        ...         for _ in range(100):
        ...             x = cell(x)
        ...     return x
        >>> unrolled(torch.ones(2, 3)).shape  # and so of torch.compile(unrolled), with one evaluation in its graph
        torch.Size([2, 3])
    """
    global _depth, _values
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _values = {}


def evaluates_once() -> bool:
    """Whether this is inside a block: only there is Dynamo asked for an ``id``, to which it ties what it compiles."""
    return _depth > 0


def noted(key: int, *, training: bool) -> Tensor | None:
    """The value of the computed parameter ``key`` (its ``id``), where one was noted in this block."""
    return _values.get((key, training, torch.is_grad_enabled()))


def note(key: int, value: Tensor, *, training: bool) -> None:
    """Note a value for the next read in this block."""
    _values[key, training, torch.is_grad_enabled()] = value
