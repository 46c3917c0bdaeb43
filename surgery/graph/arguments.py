"""Which arguments of a model are given: they are inputs of its graph, and all others are constants."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from surgery.errors import SurgeryError

Example = tuple[Sequence[Any], Mapping[str, Any]]


class Argument(NamedTuple):
    """One argument of a call: its name in the graph, and the name and kind of its parameter.

    ``type`` is its type where it is a container of tensors; TorchScript must be told.
    """

    name: str
    keyword: str | None
    type: Any
    traced: bool
    value: Any


@dataclass(frozen=True)
class Call:
    """The arguments of a model's forward, in order: inputs, and constants."""

    arguments: tuple[Argument, ...]
    by_example: bool = False

    def filled(self, inputs: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the call, by position and by name, with other values for the inputs."""
        rest = iter(inputs)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for argument in self.arguments:
            value = next(rest) if argument.traced else argument.value
            if argument.keyword is None:
                args.append(value)
            else:
                kwargs[argument.keyword] = value
        return args, kwargs

    @property
    def inputs(self) -> list[Any]:
        """The values of the arguments that are inputs."""
        return [argument.value for argument in self.arguments if argument.traced]

    @property
    def values(self) -> dict[str, Any]:
        """The arguments that are inputs, by their names in the graph."""
        return {argument.name: argument.value for argument in self.arguments if argument.traced}

    @property
    def constants(self) -> dict[str, Any]:
        """The arguments that were given and are no tensors: the graph has them built in."""
        return {argument.name: argument.value for argument in self.arguments if not argument.traced}


def call_of(model: nn.Module, example: Example | None) -> Call:
    """The call that an ``example`` stands for; without one, all arguments without a default are tensors.

    Errors: SurgeryError where the forward of the model does not take these arguments.
    """
    signature = inspect.signature(type(model).forward)
    if example is None:
        collected = [str(one) for one in signature.parameters.values() if one.kind is inspect.Parameter.VAR_POSITIONAL]
        if collected:
            called = f"{type(model).__name__}.forward"
            raise SurgeryError(
                f"{called} collects {collected[0]}: pass example=(args, kwargs) to say which it is given"
            )
        return Call(tuple(_required(signature)))
    try:
        bound = signature.bind(model, *example[0], **example[1])
    except TypeError as error:
        raise SurgeryError(f"example: {type(model).__name__}.forward: {error}") from error
    return Call(tuple(_given(signature, bound)), by_example=True)


def example_of(example: object) -> Example | None:
    """``example`` as (args, kwargs); a tensor or a tuple of arguments will do.

    Errors: SurgeryError for anything else.
    """
    if example is None:
        return None
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, tuple):
        if len(example) == 2 and isinstance(example[0], tuple | list) and isinstance(example[1], Mapping):
            return tuple(example[0]), dict(example[1])
        return example, {}
    raise SurgeryError(f"example={type(example).__name__}; it is (args, kwargs), as the model would be called with")


def _required(signature: inspect.Signature) -> list[Argument]:
    parameters = list(signature.parameters.values())[1:]
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [one for one in parameters if one.default is inspect.Parameter.empty and one.kind not in fixed]
    return [
        Argument(one.name, one.name if one.kind is inspect.Parameter.KEYWORD_ONLY else None, None, True, None)
        for one in needed
    ]


def _given(signature: inspect.Signature, bound: inspect.BoundArguments) -> list[Argument]:
    found: list[Argument] = []
    names = list(bound.arguments)[1:]
    by_position = True
    known = list(signature.parameters)[1:]
    for name in names:
        value, kind = bound.arguments[name], signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found += [_argument(f"{name}_{position}", None, each) for position, each in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            found += [_argument(key, key, each) for key, each in value.items()]
        else:
            # an argument left out before it: from here on by name
            by_position = by_position and known[: len(found) + 1][-1:] == [name]
            takes_name = kind is not inspect.Parameter.POSITIONAL_ONLY and not by_position
            keyword = name if kind is inspect.Parameter.KEYWORD_ONLY or takes_name else None
            found.append(_argument(name, keyword, value))
    return found


def _argument(name: str, keyword: str | None, value: Any) -> Argument:
    return Argument(name, keyword, _type(value), _has_tensors(value), value)


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    if isinstance(value, tuple | list):
        return any(map(_has_tensors, value))
    return isinstance(value, Tensor)


def _type(value: Any) -> Any:
    """The type that TorchScript needs: a Tensor is what it takes for granted."""
    if isinstance(value, tuple) and value and all(isinstance(each, Tensor) for each in value):
        return tuple[(Tensor,) * len(value)] if type(value) is tuple else None  # type: ignore[misc] # made at run time
    if isinstance(value, list) and all(isinstance(each, Tensor) for each in value):
        return list[Tensor]
    if isinstance(value, dict) and all(isinstance(each, Tensor) for each in value.values()):
        return dict[str, Tensor]
    return None
