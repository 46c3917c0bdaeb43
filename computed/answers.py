"""Answers that are alike: each operator and each public name of Tensor becomes a method of the tensor protocol."""

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from computed.errors import ComputedParameterError
from computed.refused import REFUSED

BINARY = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
COMPARED = ("lt", "le", "gt", "ge")
UNARY = ("neg", "pos", "abs", "invert")
CONVERSIONS = (
    "__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__getitem__", "__reversed__",
    "__array_wrap__", "__dlpack_device__", "__div__", "__rdiv__", "__long__", "__nonzero__",
    "__delitem__",
)  # fmt: skip
EXPORTS = ("__array__", "__dlpack__", "numpy")
SHARED_NAMES_THAT_FOLLOW_THE_TENSOR = frozenset(
    ("to", "type", "float", "half", "double", "bfloat16", "cpu", "cuda", "xpu", "ipu", "mtia", "requires_grad_")
)


class Answering(Protocol):
    """What an answer needs of the one who gives it."""

    def value(self) -> Tensor:
        """The value now."""

    def writing(self, operation: str) -> AbstractContextManager[Tensor]:
        """A tensor of the value's bits, writes to which are projected at the next access, after the block."""


def _reading_method(name: str) -> Callable[..., Any]:
    def method(self: Answering, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.value(), name)(*args, **kwargs)

    return _named(method, name)


def _exporting_method(name: str) -> Callable[..., Any]:
    def method(self: Answering, *args: Any, **kwargs: Any) -> Any:
        # with gradients on it is refused, as for a Parameter; without, whoever asks wants the numbers
        value = self.value()
        return getattr(value if torch.is_grad_enabled() else value.detach(), name)(*args, **kwargs)

    return _named(method, name)


def _writing_method(name: str) -> Callable[..., Any]:
    def method(self: Answering, *args: Any, **kwargs: Any) -> Any:
        with self.writing(name) as target:
            result = getattr(target, name)(*args, **kwargs)
        return self if result is target else result

    return _named(method, name)


class AbsentAttributeError(ComputedParameterError, AttributeError):
    """An attribute that is refused, or that this value has not.

    An AttributeError too: torch asks every name of a module whether it is there (`torch.jit.trace` does).
    """


def _refusing_property(name: str) -> property:
    def refuse(self: Answering) -> Any:
        raise AbsentAttributeError(f"{self!r} has no {name}: {REFUSED[name]}")

    return property(refuse)


def _refusing_method(name: str) -> Callable[..., Any]:
    def method(self: Answering, *args: Any, **kwargs: Any) -> Any:
        raise ComputedParameterError(f"{self!r} has no {name}: {REFUSED[name]}")

    return _named(method, name)


def _reading_property(name: str) -> property:
    def read(self: Answering) -> Any:
        try:
            return getattr(self.value(), name)
        except (RuntimeError, TypeError) as error:
            raise AbsentAttributeError(str(error)) from error

    return property(read, doc=f"As `torch.Tensor.{name}`.")


def _operator_method(symbol: Callable[..., Any], name: str, *, reflected: bool) -> Callable[..., Any]:
    def method(self: Answering, other: Any) -> Any:
        # another computed parameter answers for itself: an operation of a tensor with it comes to __torch_function__
        return symbol(other, self.value()) if reflected else symbol(self.value(), other)

    return _named(method, name)


def _unary_method(symbol: Callable[..., Any], name: str) -> Callable[..., Any]:
    def method(self: Answering) -> Any:
        return symbol(self.value())

    return _named(method, name)


def _named(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    method.__name__ = name
    method.__qualname__ = f"TensorLike.{name}"
    method.__doc__ = f"As `torch.Tensor.{name}`."
    return method


def _symbol(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(operator, f"__{name}__")
    return found


def answer_operators(cls: type) -> None:
    """Give ``cls`` every operator and conversion of Tensor."""
    for name in BINARY:
        setattr(cls, f"__{name}__", _operator_method(_symbol(name), f"__{name}__", reflected=False))
        setattr(cls, f"__r{name}__", _operator_method(_symbol(name), f"__r{name}__", reflected=True))
        if name != "matmul":
            setattr(cls, f"__i{name}__", _writing_method(f"__i{name}__"))
    for name in COMPARED:
        setattr(cls, f"__{name}__", _operator_method(_symbol(name), f"__{name}__", reflected=False))
    for name in UNARY:
        setattr(cls, f"__{name}__", _unary_method(_symbol(name), f"__{name}__"))
    setattr(cls, "__idiv__", _writing_method("__idiv__"))  # noqa: B010 - as those above; torch kept it from Python 2
    for name in CONVERSIONS:
        setattr(cls, name, _reading_method(name))
    for name in EXPORTS:
        setattr(cls, name, _exporting_method(name))


def answer_names(cls: type) -> None:
    """Give ``cls`` every public name of Tensor that it neither writes out itself nor has as a Module."""
    modules_own = set(dir(nn.Module)) - SHARED_NAMES_THAT_FOLLOW_THE_TENSOR
    for name in dir(Tensor):
        public = not name.startswith("_") or name in REFUSED
        if public and name not in modules_own and name not in vars(cls):
            setattr(cls, name, _answer(name))


def _answer(name: str) -> Any:
    is_method = callable(getattr(Tensor, name, None))
    if name in REFUSED:
        return _refusing_method(name) if is_method else _refusing_property(name)
    if not is_method:
        return _reading_property(name)
    return _writing_method(name) if name.endswith("_") else _reading_method(name)
