"""``MODULE:CALLABLE``: what a user names to have a model built, and what it returns."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce, wraps
from typing import TYPE_CHECKING, Any

from rewrite.child import ChildError

if TYPE_CHECKING:
    from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
INPUTS = "example_inputs"
PAIR = 2


class ModelTextError(ValueError):
    """A text that names no callable of a module."""


@dataclass(frozen=True)
class Builder:
    """A callable of a module, by their names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    def load(self) -> Callable[[], Any]:
        """Import it; raises `ChildError` where it is not there. What the import raises passes."""
        if _spec(self.module) is None:
            raise ChildError(f"{self}: there is no module {self.module!r} in this folder or in what is installed")
        module = importlib.import_module(self.module)
        try:
            found = reduce(getattr, self.name.split("."), module)
        except AttributeError as error:
            names = ", ".join(name for name, each in vars(module).items() if callable(each) and name[0] != "_")
            raise ChildError(f"{self}: {error}; {self.module} has {names or 'nothing to call'}") from error
        if not callable(found):
            raise ChildError(f"{self} is no callable, but a {type(found).__name__}")
        builder: Callable[[], Any] = found
        return builder


def parse_model(text: str) -> Builder:
    """The callable that ``text`` names; raises `ModelTextError`.

    >>> str(parse_model("pkg.nets:build"))
    'pkg.nets:build'
    """
    module, colon, name = text.strip().partition(":")
    words = [*module.split("."), *name.split(".")]
    if not colon or not all(word.isidentifier() for word in words):
        hint = "; write the module as an import does" if "/" in module or module.endswith(".py") else ""
        raise ModelTextError(f"{text!r}: write MODULE:CALLABLE, such as pkg.nets:build{hint}")
    return Builder(module, name)


def model_only(build: Callable[[], Any]) -> Callable[[], nn.Module]:
    """``build``, which may return its inputs too, without them."""

    @wraps(build, updated=())
    def built() -> nn.Module:
        return _pair(build())[0]

    return built


def with_inputs(build: Callable[[], Any]) -> tuple[nn.Module, Inputs | None]:
    """The model, and the inputs that ``build`` returns or has as ``example_inputs``, a callable; None without any."""
    model, given = _pair(build())
    example = getattr(build, INPUTS, None)
    if given is None and callable(example):
        given = example()
    return model, None if given is None else _call(given)


def _pair(returned: Any) -> tuple[nn.Module, Any]:
    from torch import nn

    model, given = returned if isinstance(returned, tuple) and len(returned) == PAIR else (returned, None)
    if not isinstance(model, nn.Module):
        raise ChildError(
            f"the builder must return a torch.nn.Module, or one and its inputs; it returned {type(returned).__name__}"
        )
    return model, given


def _call(given: Any) -> Inputs:
    """The arguments that are meant: by name in a dictionary, else by position; or both."""
    if isinstance(given, Mapping):
        return (), dict(given)
    if not isinstance(given, tuple):
        return (given,), {}
    if len(given) == PAIR and isinstance(given[0], tuple) and isinstance(given[1], Mapping):
        return given[0], dict(given[1])
    return given, {}


def _spec(module: str) -> object:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return None
        raise
