"""The tensor protocol of a computed parameter.

How a name or an operation is answered, in this order:

1. what is known without the value (shape, dtype, device, `requires_grad`...) is answered from the raws;
2. names that Module and Tensor share (`to`, `float`, `type`, `cpu`...) follow the Tensor: they give a tensor and
   change nothing. Module-wide moves still reach the raws, since `Module.to` recurses through `_apply`;
3. a write (in-place method, ``out=``, item assignment) acts on the value and is projected once, at the next access;
   with gradients on it raises, as on a leaf;
4. an operation for which the last constraint has an op rule is done by the rule;
5. everything else is done with the value, wherever in the arguments the computed parameter stands;
6. a name in `computed.refused` raises, with its reason. Names of Module (`parameters`, `apply`...) stay the Module's.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import NoneType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from computed.answers import answer_names, answer_operators
from computed.torch_private import tree_map

CONTAINERS = (list, tuple, dict)
PLAIN = frozenset((Tensor, nn.Parameter, type(None), int, float, bool, str, torch.dtype, torch.Size))
# what reads weights most, and writes to none
OFTEN = frozenset((nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul, torch.embedding))
# oneDNN's recurrent kernels take their weights by pointers for writing, so that a copy-on-write storage is copied, at
# each call, and by several threads at once, which crashes
TAKING_THE_MEMORY = frozenset((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu))


class TensorLike:
    """Answers for a tensor; a subclass gives `value`, `writing`, `rule` and what is known without the value.

    Not an ABC: `isinstance` with one costs four times as much, and it is asked for every argument of every operation.
    """

    __array_priority__: ClassVar[int] = 1000

    @abstractmethod
    def value(self) -> Tensor:
        """The value now, in the autograd graph where gradients are on."""

    @abstractmethod
    def writing(self, operation: str) -> AbstractContextManager[Tensor]:
        """A tensor of the value's bits, writes to which are projected at the next access, after the block."""

    @abstractmethod
    def rule(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an op rule, or NotImplemented."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do ``func`` with values in the place of computed parameters.

        One flat loop, and types compared before `isinstance`: this is paid by every read of every weight, and in the
        midst of a model's work each object that is looked at comes from main memory.
        """
        if kwargs:
            return _with_keywords(func, args, kwargs)
        if func not in OFTEN and is_write(func):
            return _write(func, args, {})
        values = []
        for argument in args:
            kind = type(argument)
            if kind is Tensor or kind is nn.Parameter or kind is NoneType:
                values.append(argument)
            elif kind is cls or isinstance(argument, TensorLike):
                if argument.ruled:
                    result = argument.rule(func, args, {})
                    if result is not NotImplemented:
                        return result
                values.append(argument.value())
            elif kind in PLAIN:
                values.append(argument)
            else:
                values.append(resolved(argument) if func not in TAKING_THE_MEMORY else copied(argument))
        return func(*values)

    ruled: bool = False

    def __eq__(self, other: object) -> Any:
        """With a Module: identity. With anything else: as a Tensor."""
        if isinstance(other, nn.Module):
            return self is other  # type: ignore[comparison-overlap] # a subclass of this is a Module
        return self.value() == other

    def __ne__(self, other: object) -> Any:
        """With a Module: identity. With anything else: as a Tensor."""
        if isinstance(other, nn.Module):
            return self is not other  # type: ignore[comparison-overlap] # a subclass of this is a Module
        return self.value() != other

    def __hash__(self) -> int:
        """By identity, as tensors and modules do."""
        return id(self)

    def __iter__(self) -> Iterator[Tensor]:
        """Over the first dimension."""
        return iter(self.value())

    def __setitem__(self, index: Any, new: Any) -> None:
        """Write a part of the value."""
        place, values = resolved(index), resolved(new)  # first: reading looks at what was written before
        with self.writing("item assignment") as target:
            target[place] = values

    def __format__(self, spec: str) -> str:
        """As a Tensor: a number's format where there is one number."""
        return format(self.value().detach(), spec)

    def __str__(self) -> str:
        """The numbers."""
        return str(self.value())

    def __round__(self, digits: int = 0) -> Tensor:
        """As `torch.round`."""
        return torch.round(self.value(), decimals=digits)

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        """Floor quotient and remainder."""
        return self.value() // resolved(other), self.value() % resolved(other)

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        """Floor quotient and remainder."""
        return resolved(other) // self.value(), resolved(other) % self.value()

    def copy_(self, source: Any, non_blocking: bool = False) -> Self:
        """Write a whole new value; it is projected at the next access."""
        values = resolved(source)  # first: reading looks at what was written before
        with self.writing("copy_") as target:
            target.copy_(values, non_blocking=non_blocking)
        return self


def resolved(argument: Any) -> Any:
    """``argument`` with every computed parameter in it replaced by its value."""
    if isinstance(argument, TensorLike):
        return argument.value()
    if isinstance(argument, CONTAINERS) and not is_plain_sequence(argument):
        return tree_map(_leaf_resolved, argument)
    return argument


def copied(argument: Any) -> Any:
    """`resolved`, with values in memory of their own; gradients go through the copy."""
    if not isinstance(argument, CONTAINERS):
        return resolved(argument)
    return tree_map(lambda leaf: leaf.value().clone() if isinstance(leaf, TensorLike) else leaf, argument)


def is_plain_sequence(argument: Any) -> bool:
    """Whether ``argument`` is a list or tuple without containers or computed parameters, such as a stride.

    Most are: torch's general walk over containers would cost more than the whole read.
    """
    if type(argument) is not tuple and type(argument) is not list:
        return False
    for item in argument:  # noqa: SIM110 - a generator would cost more than the loop
        if type(item) not in PLAIN:
            return False
    return True


def is_write(func: Callable[..., Any]) -> bool:
    """Whether torch function ``func`` writes to its first argument, by torch's naming convention."""
    name = func.__name__
    return name[-1] == "_" and name[-2:] != "__"


def _with_keywords(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if is_write(func) or "out" in kwargs or kwargs.get("inplace") is True:
        return _write(func, args, kwargs)
    if kwargs.get("max_norm") is not None and torch.is_grad_enabled():
        # torch would say that a view of a custom function was modified
        raise RuntimeError(
            f"{func.__name__}(max_norm={kwargs['max_norm']}) writes to a weight that is computed; leave out max_norm "
            f"and bound the weight by a constraint"
        )
    for argument in (*args, *kwargs.values()):
        if type(argument) not in PLAIN and isinstance(argument, TensorLike) and argument.ruled:
            result = argument.rule(func, args, kwargs)
            if result is not NotImplemented:
                return result
    values = [argument if type(argument) in PLAIN else resolved(argument) for argument in args]
    named = {key: argument if type(argument) in PLAIN else resolved(argument) for key, argument in kwargs.items()}
    return func(*values, **named)


def _leaf_resolved(leaf: Any) -> Any:
    return leaf.value() if isinstance(leaf, TensorLike) else leaf


def _write(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a writing function: the written argument gives its write target, the others their values."""
    name = getattr(func, "__name__", "")
    if torch.is_grad_enabled() and getattr(func, "__module__", "") == "torch.nn.init":
        # an initialiser turns gradients off itself, but only after it has asked here
        with torch.no_grad():
            return _write(func, args, kwargs)
    position, keyword = (None, "out") if "out" in kwargs else ((0, None) if args else (None, next(iter(kwargs))))
    written = args[0] if position == 0 else kwargs[keyword or "out"]
    # read first: reading looks at what was written before
    new_args = [argument if i == position else resolved(argument) for i, argument in enumerate(args)]
    new_kwargs = {key: argument if key == keyword else resolved(argument) for key, argument in kwargs.items()}
    with written.writing(name) if isinstance(written, TensorLike) else nullcontext(resolved(written)) as target:
        if position is not None:
            new_args[position] = target
        else:
            new_kwargs[keyword or "out"] = target
        result = func(*new_args, **new_kwargs)
    return written if result is target else result


answer_operators(TensorLike)
answer_names(TensorLike)
