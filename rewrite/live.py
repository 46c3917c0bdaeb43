"""Where in source text each tensor of a live model was made: its builder runs once, and the stack is looked at.

torch calls global hooks wherever a module registers a parameter, a buffer or another module. They are there while the
builder runs; nothing is patched, and no trace function is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from rewrite.expressions import expressions, may_construct
from rewrite.frames import Spot, Stack

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["call", "parameter"]


@dataclass(frozen=True)
class Made:
    """The expression that made a tensor. Lines count from 1, columns from 0 in bytes of UTF-8, as in ``ast``.

    ``kind`` is "call" where it is the call that constructs a module, which has the tensor under ``name_below``; it is
    "parameter" where it gives the tensor to its module: the target of an assignment, or a call, of
    ``register_parameter`` for instance. ``name_below`` is then empty.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    kind: Kind
    name_below: str


@dataclass(frozen=True)
class Untold:
    """Why it cannot be told what made a tensor."""

    reason: str


@dataclass(frozen=True)
class Traced:
    """What made the tensors of a model, by each dotted name of each, in the model's order.

    ``elsewhere`` are the names of tensors that were copied, tied or moved to where they stand; ``late`` of those that
    came into the model when its constructor had returned.
    """

    parameters: Mapping[str, Made | Untold]
    buffers: Mapping[str, Made | Untold]
    elsewhere: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()


def trace(build: Callable[[], nn.Module]) -> Traced:
    """Run ``build`` once, and say of each tensor of the model that it returns what made it.

    What torch builds inside modules of its own is told of the nearest module around it that other code constructed,
    and so is what was copied. A tensor that stands elsewhere later, by a tie, is told of where it stood first; one that
    was put in the place of another, of what put it there. So build from a configuration, not from a checkpoint: its
    loader may put in all of them.

    Raises TypeError where ``build`` returns no module; an error of ``build`` passes.
    """
    return built(build)[1]


def built(build: Callable[[], nn.Module]) -> tuple[nn.Module, Traced]:
    """The model that ``build`` returns, and what `trace` says of it."""
    from torch import nn
    from torch.nn.modules.module import (
        register_module_buffer_registration_hook,
        register_module_module_registration_hook,
        register_module_parameter_registration_hook,
    )

    record = _Record(Stack(built.__code__))
    hooks = [
        register_module_module_registration_hook(record.module),
        register_module_parameter_registration_hook(record.tensor),
        register_module_buffer_registration_hook(record.tensor),
    ]
    try:
        model = build()
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(model, nn.Module):
        raise TypeError(f"the builder must return a torch.nn.Module; it returned {type(model).__name__}")
    told = _Telling(record, model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    return model, Traced(
        {name: told.made(name, tensor) for name, tensor in parameters.items()},
        {name: told.made(name, tensor) for name, tensor in buffers.items()},
        frozenset(name for name, tensor in (parameters | buffers).items() if told.is_elsewhere(name, tensor)),
        frozenset(name for name in parameters | buffers if told.is_late(name)),
    )


class _Origin(NamedTuple):
    """A registration of a tensor: by code outside torch at ``spot``, or by a constructor of torch."""

    host: nn.Module
    name: str
    spot: Spot | None


class _Record:
    """What the hooks see. Modules and tensors are kept, so that no other one gets the id of one that is gone."""

    def __init__(self, stack: Stack) -> None:
        self.calls: dict[int, Spot | None] = {}  # by modules: the calls of constructors
        self.first: dict[int, _Origin] = {}  # by tensors
        self.latest: dict[tuple[int, str], _Origin] = {}  # by modules and names
        self.times: dict[tuple[int, str], int] = {}  # by modules and names: the latest registration
        self.ends: dict[int, int] = {}  # by modules: the last registration of any while their constructors run
        self._stack = stack
        self._kept: list[object] = []
        self._time = 0

    def module(self, host: nn.Module, name: str, _child: object) -> None:
        """Something is registered in ``host``, which may be under construction."""
        self._time += 1
        self._kept.append(host)
        self.times[id(host), name] = self._time
        self.ends.update(dict.fromkeys(map(id, self._stack.initialised()), self._time))
        if id(host) not in self.calls:
            frame = self._stack.construction(host)
            if frame is not None:
                self.calls[id(host)] = self._stack.spot(frame)

    def tensor(self, host: nn.Module, name: str, tensor: Tensor | None) -> None:
        """A parameter or buffer is registered in ``host``."""
        self.module(host, name, tensor)
        origin = _Origin(host, name, self._stack.assignment(host))
        self._kept.append(tensor)
        self.latest[id(host), name] = origin
        if tensor is not None:
            self.first.setdefault(id(tensor), origin)


class _Telling:
    """What was recorded, told by the names that a model has in the end."""

    def __init__(self, record: _Record, model: nn.Module) -> None:
        self._record = record
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._places: dict[int, str] = {}
        for place, module in self._modules.items():
            self._places.setdefault(id(module), place)
        self._expressions = cache(expressions)  # a file is read once a trace: it may be another one the next time

    def made(self, full_name: str, tensor: Tensor) -> Made | Untold:
        """What made ``tensor``, which stands at ``full_name``."""
        place, _, name = full_name.rpartition(".")
        origin = self._origin(full_name, tensor)
        if origin is None:
            return self._around(place, name)
        if origin.spot is not None:
            return self._at(origin.spot, "parameter", "")
        call = self._record.calls.get(id(origin.host))
        if call is not None:
            return self._at(call, "call", origin.name)
        if id(origin.host) in self._places:
            return self._around(self._places[id(origin.host)], origin.name)
        return Untold("it was taken out of a module of torch that is no part of the model")

    def is_elsewhere(self, full_name: str, tensor: Tensor) -> bool:
        """Whether ``tensor`` came to its name by a copy, or stood under another one first."""
        place, _, name = full_name.rpartition(".")
        origin = self._origin(full_name, tensor)
        return origin is None or origin.host is not self._modules[place] or origin.name != name

    def is_late(self, full_name: str) -> bool:
        """Whether a part of the way to a tensor was not there yet when the model's constructor returned."""
        end = self._record.ends.get(id(self._modules[""]))
        parts = full_name.split(".")
        way = [(id(self._modules[".".join(parts[:deep])]), name) for deep, name in enumerate(parts)]
        return end is None or any(self._record.times.get(step, 0) > end for step in way)

    def _origin(self, full_name: str, tensor: Tensor) -> _Origin | None:
        place, _, name = full_name.rpartition(".")
        # what `Module.to` puts in the place of a tensor is not registered anew
        return self._record.first.get(id(tensor)) or self._record.latest.get((id(self._modules[place]), name))

    def _around(self, place: str, below: str) -> Made | Untold:
        """The call that constructed the module at ``place``, or the nearest one around it."""
        while (call := self._record.calls.get(id(self._modules[place]))) is None:
            if not place:
                return Untold("it was copied, or was there before, and no call around it constructs a module")
            place, _, last = place.rpartition(".")
            below = f"{last}.{below}"
        return self._at(call, "call", below)

    def _at(self, spot: Spot, kind: Kind, below: str) -> Made | Untold:
        if not os.path.isfile(spot.code.co_filename):
            return Untold(f"it was made by code that stands in no file: {spot.code.co_filename}")
        file = os.path.abspath(spot.code.co_filename)
        line, end_line, column, end_column = spot.positions
        if line is None or end_line is None or column is None or end_column is None:
            return Untold(f"Python keeps no positions of {file}: start it without -X no_debug_ranges")
        known = self._expressions(file)
        if isinstance(known, str):
            return Untold(known)
        node = known.get(((line, column), None)) or known.get((None, (end_line, end_column)))
        if node is None or (kind == "call" and not may_construct(node)):
            return Untold(f"what made it at line {line} of {file} is no call of its own")
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return Made(file, node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, kind, below)
