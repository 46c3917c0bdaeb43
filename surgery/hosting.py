"""A host as it was before what held its weights was removed, and the order in which it has them afterwards."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from computed.guard import GuardedModules
from computed.parameter import ComputedParameter

REGISTRIES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_forward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


class KeptHost:
    """The class, registries, hooks and plain tensors of a host; what others have registered since stays."""

    def __init__(self, host: nn.Module) -> None:
        self.host = host
        self.type = type(host)
        self.modules = host._modules
        self.tensors = {name: value for name, value in vars(host).items() if isinstance(value, Tensor)}
        self.before = _contents(host)
        self.after: dict[str, dict[Any, Any]] | None = None  # None while it is changed: then all of it goes back

    def changed(self) -> None:
        """Note what the host has now: that goes again, and nothing else."""
        self.after = _contents(self.host)

    def restore(self) -> None:
        """Give the host back what it had."""
        host = self.host
        now = _contents(host)
        after = self.after or now
        if isinstance(host._modules, GuardedModules):
            for name in [name for name in host._modules.computed if name not in self.before["_modules"]]:
                host._modules.release(name)
        host.__class__ = self.type
        host._modules = self.modules
        for registry in REGISTRIES:
            _refill(getattr(host, registry), _taken_back(self.before[registry], after[registry], now[registry]))
        vars(host).update(self.tensors)


def _contents(host: nn.Module) -> dict[str, dict[Any, Any]]:
    found = {}
    for name in REGISTRIES:
        registry = getattr(host, name)
        found[name] = dict(registry.items()) if isinstance(registry, Mapping) else dict.fromkeys(registry)
    return found


def _taken_back(before: dict[Any, Any], after: dict[Any, Any], now: dict[Any, Any]) -> dict[Any, Any]:
    """``before``, but for what was removed since ``after``, with what was added since."""
    kept = {key: value for key, value in before.items() if key in now or key not in after}
    return kept | {key: value for key, value in now.items() if key not in after}


def _refill(registry: Any, contents: dict[Any, Any]) -> None:
    if isinstance(registry, GuardedModules):
        computed = {name: registry[name] for name in registry.computed}
        for name in [name for name in registry if name not in computed]:
            del registry[name]
        registry.update({name: module for name, module in contents.items() if name not in computed})
        return
    registry.clear()
    registry.update(contents)


def register_in_order(host: nn.Module, made: Sequence[tuple[str, ComputedParameter]]) -> None:
    """Register the names of computed parameters where layers of torch have them: weights before biases.

    What held them had taken them out, and with them their place; RNNs know theirs.
    """
    names = [name for name, parameter in made if not parameter.buffer]
    own = dict(host._parameters)
    first = next((i for i, name in enumerate(own) if "bias" in name), len(own))
    order = [*list(own)[:first], *[name for name in names if "weight" in name], *list(own)[first:]]
    order += [name for name in names if "weight" not in name]
    if isinstance(host, nn.RNNBase):
        known = [name for name in host._flat_weights_names if name in order]
        order = [*known, *[name for name in order if name not in known]]
    host._parameters.clear()
    host._parameters.update({name: own.get(name) for name in order})
    for name, parameter in made:
        if parameter.buffer:
            host._buffers[name] = None
