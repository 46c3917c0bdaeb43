"""What the catalogue knows of a constraint without importing it: where its class lives, how it is called."""

import ast
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from types import MappingProxyType
from typing import Any, Final


class Required(Enum):
    """The default of a parameter that has none."""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED


@dataclass(frozen=True)
class Parameter:
    """One argument of a constraint; ``default`` is `REQUIRED` where there is none."""

    name: str
    default: object = REQUIRED
    keyword_only: bool = False

    def __str__(self) -> str:
        return self.name if self.default is REQUIRED else f"{self.name}={self.default!r}"


@dataclass(frozen=True)
class Entry:
    """One constraint of the catalogue.

    ``parameters`` is None where only the class knows them (plugins). ``misnomers`` maps the keywords that
    other libraries use to the right ones, ``also_called`` holds what people write for ``name``: both are
    there for messages. With the arguments of ``joint`` (None for one that is not given) a constraint needs the values
    of all sites of its rule, which only a live model has.
    """

    name: str
    module: str
    qualname: str
    parameters: tuple[Parameter, ...] | None
    summary: str
    misnomers: Mapping[str, str] = field(default_factory=dict, hash=False)
    also_called: tuple[str, ...] = ()
    joint: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def target(self) -> str:
        """Where the class lives: ``module:qualname``."""
        return f"{self.module}:{self.qualname}"

    @property
    def signature(self) -> str:
        """How it is called, ``lora(rank, *, alpha=None, seed=None)``; ``name(...)`` for plugins."""
        if self.parameters is None:
            return f"{self.name}(...)"
        free = [str(parameter) for parameter in self.parameters if not parameter.keyword_only]
        bound = [str(parameter) for parameter in self.parameters if parameter.keyword_only]
        return f"{self.name}({', '.join([*free, '*', *bound] if bound else free)})"

    def load(self) -> Any:
        """The class (of a plugin: whatever its entry point names), imported now.

        Raises ImportError, which names the constraint and ``module:qualname``, where nothing stands there.
        """
        try:
            return reduce(getattr, self.qualname.split("."), importlib.import_module(self.module))
        except (ImportError, AttributeError) as error:
            raise ImportError(f"constraint {self.name!r}: cannot load {self.target}: {error}") from error


def parameters_of(signature: str) -> tuple[Parameter, ...]:
    """The parameters of a signature that is written as Python writes it, with literals as defaults.

    >>> [str(parameter) for parameter in parameters_of("rank, *, alpha=None")]
    ['rank', 'alpha=None']
    """
    function = ast.parse(f"def _({signature}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    required = [REQUIRED] * (len(arguments.args) - len(arguments.defaults))
    free = zip(arguments.args, [*required, *map(ast.literal_eval, arguments.defaults)], strict=True)
    bound = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return (
        *(Parameter(argument.arg, default) for argument, default in free),
        *(
            Parameter(argument.arg, REQUIRED if node is None else ast.literal_eval(node), keyword_only=True)
            for argument, node in bound
        ),
    )


def entry(
    home: str,
    call: str,
    summary: str,
    misnomers: Mapping[str, str] = MappingProxyType({}),
    also_called: tuple[str, ...] = (),
    joint: Mapping[str, object] = MappingProxyType({}),
) -> Entry:
    """A built-in constraint: ``module:Class`` below `computed.constraints`, and how a spec calls it.

    >>> entry("elementwise:Positive", "positive()", "every entry above zero").target
    'computed.constraints.elementwise:Positive'
    """
    module, qualname = home.split(":")
    name, signature = call.removesuffix(")").split("(", 1)
    home_module = f"computed.constraints.{module}"
    return Entry(
        name, home_module, qualname, parameters_of(signature), summary, dict(misnomers), also_called, dict(joint)
    )
