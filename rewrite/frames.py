"""The stack while a module of torch registers something: who constructs the module, who hands the tensor over."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

# methods of a module that do no more than pass a tensor on to its registry, whoever overrides them
REGISTERING = frozenset({"__setattr__", "register_parameter", "register_buffer"})


class Spot(NamedTuple):
    """An instruction of a function that is running, or was."""

    code: CodeType
    last: int

    @property
    def positions(self) -> tuple[int | None, int | None, int | None, int | None]:
        """Line, end line, column, end column of the expression that it belongs to, columns in bytes of UTF-8."""
        return list(self.code.co_positions())[self.last // 2]


class Stack:
    """The frames between a hook that torch calls and the function whose code is ``boundary``."""

    def __init__(self, boundary: CodeType) -> None:
        import torch

        self._boundary = boundary
        self._torch = os.path.join(os.path.dirname(torch.__file__), "")

    def construction(self, host: nn.Module) -> FrameType | None:
        """The frame whose call constructs ``host`` right now; None where it stands already.

        Whoever calls a constructor cannot hold the module yet, so it is the caller of the outermost frame that does.
        """
        outermost, begun = None, False
        for frame in self._frames():
            if _holds(frame, host):
                outermost = frame
                begun = begun or _initialises(frame, host)
        caller = outermost.f_back if outermost is not None and begun else None
        # a metaclass with a `__call__` of its own
        while caller is not None and caller.f_code.co_name == "__call__" and _first(caller) is type(host):
            caller = caller.f_back
        return caller

    def initialised(self) -> Iterator[object]:
        """What is under construction right now: the first arguments of every ``__init__``."""
        return (_first(frame) for frame in self._frames() if frame.f_code.co_name == "__init__")

    def spot(self, frame: FrameType) -> Spot | None:
        """Where ``frame`` is; None inside torch, and in the boundary."""
        known = frame.f_code is self._boundary or self._in_torch(frame)
        return None if known else Spot(frame.f_code, frame.f_lasti)

    def assignment(self, host: nn.Module) -> Spot | None:
        """Where code outside torch has a tensor of ``host`` registered; None where a constructor of torch has."""
        inside: list[FrameType] = []
        for frame in self._frames():
            if not inside and frame.f_code.co_name in REGISTERING and _first(frame) is host:
                continue
            if not self._in_torch(frame):
                return None if _constructing(inside) else self.spot(frame)
            inside.append(frame)
        return None

    def _frames(self) -> Iterator[FrameType]:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not self._in_torch(frame):  # ours; then the method of torch that called the hook
            frame = frame.f_back
        while frame is not None and frame.f_code is not self._boundary:
            yield frame
            frame = frame.f_back

    def _in_torch(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith(self._torch)


def _constructing(inside: list[FrameType]) -> bool:
    """Whether the outermost of these frames of torch constructs a module: is its ``__init__``, or around that."""
    initialised = [_first(frame) for frame in inside if frame.f_code.co_name == "__init__"]
    return any(_holds(inside[-1], module) for module in initialised)


def _initialises(frame: FrameType, module: object) -> bool:
    return frame.f_code.co_name == "__init__" and _first(frame) is module


def _first(frame: FrameType) -> object:
    """The first argument of the function that runs in ``frame``; None where it has none."""
    code = frame.f_code
    if code.co_argcount:
        return frame.f_locals.get(code.co_varnames[0])
    rest = frame.f_locals.get(code.co_varnames[code.co_kwonlyargcount]) if code.co_flags & inspect.CO_VARARGS else ()
    return rest[0] if isinstance(rest, tuple) and rest else None


def _holds(frame: FrameType, module: object) -> bool:
    """Whether a local name of ``frame`` is ``module``, or a list or tuple with it."""
    if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return False  # the body of a file or a class, whose names are no locals
    # by identity: tensors in these lists compare elementwise
    return any(
        value is module or (type(value) in (list, tuple) and any(each is module for each in value))
        for value in frame.f_locals.values()
    )
