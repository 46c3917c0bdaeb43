"""Names in a module: one that is free, and what stands under one."""

from typing import Any

from torch import nn


def fresh_name(module: nn.Module, wanted: str) -> str:
    """``wanted``, or with a number where the module has something of that name."""
    taken = {*vars(module), *module._parameters, *module._buffers, *module._modules, *dir(type(module))}
    numbered = (f"{wanted}_{number}" for number in range(1, len(taken) + 2))
    return wanted if wanted not in taken else next(name for name in numbered if name not in taken)


def standing(host: nn.Module, name: str | list[str] | dict[str, str]) -> Any:
    """What stands at a dotted name of ``host``: a tensor, a computed parameter, or None; for several names several."""
    if isinstance(name, list):
        return [standing(host, each) for each in name]
    if isinstance(name, dict):
        found = {key: standing(host, each) for key, each in name.items()}
        return {key: value for key, value in found.items() if value is not None}
    *path, attribute = name.split(".")
    for part in path:
        host = host._modules[part]  # type: ignore[assignment] # never None here
    for registry in (host._parameters, host._buffers, host._modules):
        if attribute in registry:
            return registry[attribute]
    return None
