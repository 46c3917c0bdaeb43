"""How a configuration of PEFT names modules: so that these are meant, and no others."""

from collections.abc import Sequence
from typing import Any

from torch import nn


def patterns(values: dict[str, Any], usual: Any) -> dict[str, Any]:
    """Patterns for what is not as usual; ``^`` keeps them from names that only end alike."""
    return {f"^{_escaped(name)}": value for name, value in values.items() if value != usual}


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")


def targets(model: nn.Module, names: Sequence[str]) -> list[str] | str:
    """The last parts of the names where they mean these modules alone, else the names, else an expression."""
    modules = [name for name, _ in model.named_modules() if name]
    for listed in (sorted({name.rpartition(".")[2] for name in names}), sorted(names)):
        meant = {one for one in modules if any(one == each or one.endswith(f".{each}") for each in listed)}
        if meant == set(names):
            return listed
    return exactly(names)


def exactly(names: Sequence[str]) -> str:
    """An expression that matches these names and no others."""
    return "|".join(map(_escaped, names))
