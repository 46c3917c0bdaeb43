"""The tensor protocol of a computed parameter.

How a name or an operation is answered, in this order:

1. what is known without the value (shape, dtype, device, `requires_grad`...) is answered from the raws;
2. names that Module and Tensor share (`to`, `float`, `type`, `cpu`...) follow the Tensor: they give a tensor and
   change nothing. Module-wide moves still reach the raws, since `Module.to` recurses through `_apply`;
3. a write (in-place method, ``out=``, item assignment) acts on the value and is projected once, at the next access;
   with gradients on it raises, as on a leaf;
4. an operation for which the last constraint has an op rule is done by the rule;
5. everything else is done with the value, wherever in the arguments the computed parameter stands;
6. a name in `REFUSED` raises, with its reason. Names of Module (`parameters`, `apply`, `train`...) stay the Module's.
"""

import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from computed.errors import ComputedParameterError

REFUSED: dict[str, str] = {
    "register_hook": "the value is computed anew after each step; register the hook on a raw",
    "register_post_accumulate_grad_hook": "gradients accumulate in the raws; register the hook on a raw",
    "retain_grad": "gradients accumulate in the raws; use torch.autograd.grad(loss, w) for the value's",
    "backward": "call backward on a loss, not on a weight",
    "set_": "the value has no storage of its own to exchange; write with copy_",
    "resize_": "the shape of a weight is fixed; write with copy_",
    "resize_as_": "the shape of a weight is fixed; write with copy_",
    "share_memory_": "share the module that owns it: module.share_memory()",
    "rename_": "named dimensions are not kept by constraints",
    "names": "named dimensions are not kept by constraints",
    "as_subclass": "the result would no longer be computed; take as_subclass of w.detach()",
    "apply_": "a Python function a number is a write in a loop; compute a tensor and write it with copy_",
    "map_": "a Python function a number is a write in a loop; compute a tensor and write it with copy_",
    "map2_": "a Python function a number is a write in a loop; compute a tensor and write it with copy_",
    "module_load": "state dicts are loaded through the host's load_state_dict",
    "detach_": "use detach(), which gives a tensor",
    "squeeze_": "the shape of a weight is fixed; use squeeze()",
    "unsqueeze_": "the shape of a weight is fixed; use unsqueeze()",
    "t_": "the shape of a weight is fixed; use t()",
    "transpose_": "the shape of a weight is fixed; use transpose()",
    "swapaxes_": "the shape of a weight is fixed; use swapaxes()",
    "swapdims_": "the shape of a weight is fixed; use swapdims()",
    "as_strided_": "the layout of a weight is fixed; use as_strided()",
    "sparse_resize_": "a weight is dense",
    "sparse_resize_and_clear_": "a weight is dense",
    "__cuda_array_interface__": "a raw pointer would bypass the watch on the value; use w.detach().clone()",
    "__dlpack_c_exchange_api__": "a raw pointer would bypass the watch on the value; use w.detach().clone()",
}

BINARY = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
COMPARED = ("lt", "le", "gt", "ge")
UNARY = ("neg", "pos", "abs", "invert")
CONVERSIONS = (
    "__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__getitem__", "__reversed__",
    "__array__", "__array_wrap__", "__dlpack__", "__dlpack_device__", "__div__", "__rdiv__", "__long__", "__nonzero__",
)  # fmt: skip
CONTAINERS = (list, tuple, dict)
PLAIN = frozenset((Tensor, nn.Parameter, type(None), int, float, bool, torch.dtype))
SHARED_NAMES_THAT_FOLLOW_THE_TENSOR = frozenset(
    ("to", "type", "float", "half", "double", "bfloat16", "cpu", "cuda", "xpu", "ipu", "mtia", "requires_grad_")
)


class TensorLike:
    """Answers for a tensor; a subclass gives `value`, `write_target`, `rule` and what is known without the value.

    Not an ABC: `isinstance` with one costs four times as much, and it is asked for every argument of every operation.
    """

    __array_priority__: ClassVar[int] = 1000

    @abstractmethod
    def value(self) -> Tensor:
        """The value now, in the autograd graph where gradients are on."""

    @abstractmethod
    def write_target(self, operation: str) -> Tensor:
        """A tensor of the value's bits, writes to which are projected at the next access."""

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

        One flat loop, and types compared before `isinstance`: this is paid by every read of every weight.
        """
        if kwargs:
            return _with_keywords(func, args, kwargs)
        if is_write(func):
            return _write(func, args, {})
        values = []
        for argument in args:
            if type(argument) in PLAIN:
                values.append(argument)
            elif isinstance(argument, TensorLike):
                if argument.ruled:
                    result = argument.rule(func, args, {})
                    if result is not NotImplemented:
                        return result
                values.append(argument.value())
            else:
                values.append(resolved(argument))
        return func(*values)

    ruled: bool = False

    def __eq__(self, other: object) -> Any:
        """With a Module: identity. With anything else: as a Tensor."""
        return self is other if isinstance(other, nn.Module) else self.value() == other

    def __ne__(self, other: object) -> Any:
        """With a Module: identity. With anything else: as a Tensor."""
        return self is not other if isinstance(other, nn.Module) else self.value() != other

    def __hash__(self) -> int:
        """By identity, as tensors and modules do."""
        return id(self)

    def __len__(self) -> int:
        """The size of the first dimension."""
        return len(self.value())

    def __iter__(self) -> Iterator[Tensor]:
        """Over the first dimension."""
        return iter(self.value())

    def __setitem__(self, index: Any, new: Any) -> None:
        """Write a part of the value."""
        self.write_target("item assignment")[resolved(index)] = resolved(new)

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
        self.write_target("copy_").copy_(resolved(source), non_blocking=non_blocking)
        return self


def resolved(argument: Any) -> Any:
    """``argument`` with every computed parameter in it replaced by its value."""
    if isinstance(argument, TensorLike):
        return argument.value()
    if isinstance(argument, CONTAINERS) and argument:
        return pytree.tree_map(_leaf_resolved, argument)
    return argument


def is_write(func: Callable[..., Any]) -> bool:
    """Whether torch function ``func`` writes to its first argument, by torch's naming convention."""
    name = func.__name__
    return name[-1] == "_" and name[-2:] != "__"


def _with_keywords(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if is_write(func) or "out" in kwargs or kwargs.get("inplace") is True:
        return _write(func, args, kwargs)
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, TensorLike) and argument.ruled:
            result = argument.rule(func, args, kwargs)
            if result is not NotImplemented:
                return result
    return func(
        *[resolved(argument) for argument in args], **{key: resolved(argument) for key, argument in kwargs.items()}
    )


def _leaf_resolved(leaf: Any) -> Any:
    return leaf.value() if isinstance(leaf, TensorLike) else leaf


def _write(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a writing function: the written argument gives its write target, the others their values."""
    name = getattr(func, "__name__", "")
    position, keyword = (None, "out") if "out" in kwargs else ((0, None) if args else (None, next(iter(kwargs))))
    written = args[0] if position == 0 else kwargs[keyword or "out"]
    target = written.write_target(name) if isinstance(written, TensorLike) else resolved(written)
    new_args = [target if i == position else resolved(argument) for i, argument in enumerate(args)]
    new_kwargs = {key: target if key == keyword else resolved(argument) for key, argument in kwargs.items()}
    result = func(*new_args, **new_kwargs)
    return written if result is target else result


def _reading_method(name: str) -> Callable[..., Any]:
    def method(self: TensorLike, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.value(), name)(*args, **kwargs)

    return _named(method, name)


def _writing_method(name: str) -> Callable[..., Any]:
    def method(self: TensorLike, *args: Any, **kwargs: Any) -> Any:
        target = self.write_target(name)
        result = getattr(target, name)(*args, **kwargs)
        return self if result is target else result

    return _named(method, name)


def _refusing_method(name: str) -> Callable[..., Any]:
    def method(self: TensorLike, *args: Any, **kwargs: Any) -> Any:
        raise ComputedParameterError(f"{self!r} has no {name}: {REFUSED[name]}")

    return _named(method, name)


def _reading_property(name: str) -> property:
    return property(lambda self: getattr(self.value(), name), doc=f"As `torch.Tensor.{name}`.")


def _operator_method(symbol: Callable[..., Any], name: str, *, reflected: bool) -> Callable[..., Any]:
    def method(self: TensorLike, other: Any) -> Any:
        return symbol(resolved(other), self.value()) if reflected else symbol(self.value(), resolved(other))

    return _named(method, name)


def _unary_method(symbol: Callable[..., Any], name: str) -> Callable[..., Any]:
    def method(self: TensorLike) -> Any:
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


def _answer_operators(cls: type) -> None:
    for name in BINARY:
        setattr(cls, f"__{name}__", _operator_method(_symbol(name), f"__{name}__", reflected=False))
        setattr(cls, f"__r{name}__", _operator_method(_symbol(name), f"__r{name}__", reflected=True))
        if name != "matmul":
            setattr(cls, f"__i{name}__", _writing_method(f"__i{name}__"))
    for name in COMPARED:
        setattr(cls, f"__{name}__", _operator_method(_symbol(name), f"__{name}__", reflected=False))
    for name in UNARY:
        setattr(cls, f"__{name}__", _unary_method(_symbol(name), f"__{name}__"))
    for name in CONVERSIONS:
        setattr(cls, name, _reading_method(name))


def _answer_names(cls: type) -> None:
    """Answer every public name of Tensor that is neither written out above nor a Module's own."""
    modules_own = set(dir(nn.Module)) - SHARED_NAMES_THAT_FOLLOW_THE_TENSOR
    for name in dir(Tensor):
        public = not name.startswith("_") or name in REFUSED
        if public and name not in modules_own and name not in vars(cls):
            setattr(cls, name, _answer(name))


def _answer(name: str) -> Any:
    is_method = callable(getattr(Tensor, name, None))
    if name in REFUSED:
        return _refusing_method(name) if is_method else property(_refusing_method(name))
    if not is_method:
        return _reading_property(name)
    return _writing_method(name) if name.endswith("_") else _reading_method(name)


_answer_operators(TensorLike)
_answer_names(TensorLike)
