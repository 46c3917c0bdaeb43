"""Placing a computed parameter on its host: guard and load hook, in one function for every route.

torch calls `on_registration` (a public hook) whenever a module is registered as a child of another, so an author's
``self.weight = ComputedParameter.from_value(...)`` is placed exactly as a tree walk places it.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

import computed.stepping  # noqa: F401 - whoever has computed parameters needs the hook before a step
from computed.guard import GuardedModules
from computed.loading import accept_plain_keys
from computed.parameter import ComputedParameter
from computed.torch_private import rebuild_flat_weights


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
    unguard(host)
    rebuild_flat_weights(host)


def unguard(host: nn.Module) -> None:
    """Give a host without computed parameters its own mapping of children again, and take the load hook away."""
    modules = host._modules
    if isinstance(modules, GuardedModules) and not modules.computed:
        modules.original.clear()
        modules.original.update(modules)
        host._modules = modules.original
        _remove_load_hook(host)


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


def take_registries(host: nn.Module, source: nn.Module) -> None:
    """Let ``host``, which has nothing yet, have what ``source`` has: the same tensors and modules, guarded as there.

    Tensors that stand in ``source`` unregistered come along.
    """
    host.training = source.training
    host._parameters.update(source._parameters)
    host._buffers.update(source._buffers)
    host._non_persistent_buffers_set.update(source._non_persistent_buffers_set)
    vars(host).update({name: value for name, value in vars(source).items() if isinstance(value, Tensor)})
    if isinstance(source._modules, GuardedModules):
        host._modules = source._modules.for_host(host)
        host.register_load_state_dict_pre_hook(accept_plain_keys)
    else:
        host._modules.update(source._modules)


def on_registration(host: nn.Module, name: str, module: nn.Module | None) -> None:
    """Guard every computed parameter that is registered on a module that uses it as its parameter.

    What wraps a model registers it as well: what was written must be projected before, since compiled code sees raws
    alone, and DistributedDataParallel gives the first process's raws to all.
    """
    if module is not None and (name == "_orig_mod" or isinstance(host, DistributedDataParallel)):
        for parameter in module.modules():
            if isinstance(parameter, ComputedParameter):
                parameter.absorb()
                # gradients that wait for those of others would be sent later than they could
                parameter.__dict__["alone"] = isinstance(host, DistributedDataParallel) or parameter.alone
    if type(module) is ComputedParameter and not isinstance(host, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        guarded(host).guard(name, module)


register_module_module_registration_hook(on_registration)
