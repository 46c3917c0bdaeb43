"""Placing a computed parameter on its host: guard, load hook and order record, in one function for every route.

torch calls `on_registration` (a public hook) whenever a module is registered as a child of another, so an author's
``self.weight = ComputedParameter.from_value(...)`` is placed exactly as a tree walk places it.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

import computed.stepping  # noqa: F401 - whoever has computed parameters needs the hook before a step
from computed.errors import ReplacedParameterError
from computed.loading import accept_plain_keys
from computed.parameter import ComputedParameter
from computed.torch_private import rebuild_flat_weights


class GuardedModules(dict[str, Any]):
    """The ``_modules`` of a host: its computed parameters come last, in original order, and are not lost by accident.

    ``order`` and ``buffers`` are the original orders of the host's parameters and buffers, ``computed`` the names that
    are guarded, ``original`` is the mapping whose place it takes.
    """

    def __init__(self, host: nn.Module) -> None:
        super().__init__(host._modules)
        self.host = host
        self.original: dict[str, Any] = host._modules
        self.order: list[str] = list(host._parameters)
        self.buffers: list[str] = list(host._buffers)
        self.computed: list[str] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Carry the entries as state: pickle would set them one by one, before there is an order."""
        return _empty_guard, (), (dict(self), self.host, self.order, self.buffers, self.computed)

    def __setstate__(self, state: tuple[dict[str, Any], nn.Module, list[str], list[str], list[str]]) -> None:
        entries, self.host, self.order, self.buffers, self.computed = state
        self.original = {}
        dict.update(self, entries)

    def guard(self, name: str, parameter: ComputedParameter) -> None:
        """Register a computed parameter under ``name``."""
        if name not in self.order and name not in self.buffers:
            self.order.append(name)
        if name not in self.computed:
            self.computed = sorted([*self.computed, name], key=[*self.order, *self.buffers].index)
        dict.__setitem__(self, name, parameter)
        self._computed_last()

    def release(self, name: str) -> None:
        """Take a computed parameter out, on purpose."""
        self.computed = [other for other in self.computed if other != name]
        dict.__delitem__(self, name)

    def __setitem__(self, name: str, module: Any) -> None:
        if name in self.computed and not isinstance(module, ComputedParameter):
            raise self._refusal(name, f"assigning {type(module).__name__}")
        # who replaces children while walking them (torch.jit does) must find the order unchanged
        is_new = name not in self
        dict.__setitem__(self, name, module)
        if is_new:
            self._computed_last()

    def __delitem__(self, name: str) -> None:
        if name in self.computed:
            raise self._refusal(name, "deleting or replacing it")
        dict.__delitem__(self, name)

    def pop(self, name: str, *default: Any) -> Any:
        """Refuse for a computed parameter."""
        if name in self.computed:
            raise self._refusal(name, "removing it")
        return dict.pop(self, name, *default)

    def _computed_last(self) -> None:
        for name in self.computed:
            dict.__setitem__(self, name, dict.pop(self, name))

    def _refusal(self, name: str, attempt: str) -> ReplacedParameterError:
        # RNNBase.__setattr__ has put the new tensor into its flat list before it is refused here
        rebuild_flat_weights(self.host)
        return ReplacedParameterError(
            f"{type(self.host).__name__}.{name} is a computed parameter ({self[name]!r}); {attempt} would drop its "
            f"constraint. To write a value: w.copy_(tensor) under torch.no_grad(); for a plain parameter: "
            f"surgery.bake(model) or surgery.undo(model)"
        )


def place(host: nn.Module, name: str, parameter: ComputedParameter) -> None:
    """Put ``parameter`` where the Parameter or buffer ``name`` of ``host`` stands; ``type(host)`` does not change."""
    modules = guarded(host)
    host._parameters.pop(name, None)
    host._buffers.pop(name, None)
    if name in modules.computed:
        modules.release(name)
    # setattr, not a dict write: RNNBase keeps a flat list of its weights in __setattr__
    setattr(host, name, parameter)


def put_back(host: nn.Module, name: str, tensor: Tensor, *, buffer: bool, persistent: bool = True) -> None:
    """Register a plain ``tensor`` in the place of the computed parameter ``name``, in the original order."""
    modules = host._modules
    assert isinstance(modules, GuardedModules)
    order = modules.buffers if buffer else modules.order
    if name in modules.computed:
        modules.release(name)
    registry: dict[str, Any] = host._buffers if buffer else host._parameters
    registry[name] = tensor
    if buffer and not persistent:
        # torch has forgotten it: a module was registered under that name
        host._non_persistent_buffers_set.add(name)
    _reorder(registry, order)
    if not modules.computed:
        modules.original.clear()
        modules.original.update(modules)
        host._modules = modules.original
        _remove_load_hook(host)
    rebuild_flat_weights(host)


def _reorder(registry: dict[str, Any], order: Sequence[str]) -> None:
    """Sort the names that ``order`` knows by it; those registered since stay behind them."""
    known = [name for name in order if name in registry]
    for name in (*known, *[name for name in registry if name not in order]):
        registry[name] = registry.pop(name)


def _remove_load_hook(host: nn.Module) -> None:
    for key, hook in list(host._load_state_dict_pre_hooks.items()):
        if getattr(hook, "hook", hook) is accept_plain_keys:
            del host._load_state_dict_pre_hooks[key]


def guarded(host: nn.Module) -> GuardedModules:
    """The guard of ``host``, installed with the load hook where there is none yet."""
    if not isinstance(host._modules, GuardedModules):
        host._modules = GuardedModules(host)
        _remove_load_hook(host)  # a copy or a pickle of a guarded host may carry it already
        host.register_load_state_dict_pre_hook(accept_plain_keys)
    assert isinstance(host._modules, GuardedModules)
    return host._modules


def on_registration(host: nn.Module, name: str, module: nn.Module | None) -> None:
    """Guard every computed parameter that is registered on a module that uses it as its parameter.

    What wraps a model registers it as well: what was written must be projected before, since compiled code sees raws
    alone, and DistributedDataParallel gives the first process's raws to all.
    """
    if module is not None and (name == "_orig_mod" or isinstance(host, DistributedDataParallel)):
        for parameter in module.modules():
            if isinstance(parameter, ComputedParameter):
                parameter.absorb()
    if type(module) is ComputedParameter and not isinstance(host, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        guarded(host).guard(name, module)


def _empty_guard() -> GuardedModules:
    return GuardedModules.__new__(GuardedModules)


register_module_module_registration_hook(on_registration)
