"""The guard of a host: its computed parameters come last, in original order, and are not lost by accident.

It takes the place of the host's ``_modules``, so that whatever registers or removes a child comes by; nothing of torch
is patched.
"""

from typing import Any

from torch import nn

from computed.errors import ReplacedParameterError
from computed.parameter import ComputedParameter
from computed.torch_private import rebuild_flat_weights


class GuardedModules(dict[str, Any]):
    """The ``_modules`` of a host that has computed parameters.

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

    def for_host(self, host: nn.Module) -> "GuardedModules":
        """A guard with the same entries and orders, for a host that takes the place of this one's."""
        made = GuardedModules.__new__(GuardedModules)
        made.__setstate__((dict(self), host, list(self.order), list(self.buffers), list(self.computed)))
        made.original = {name: module for name, module in self.items() if name not in self.computed}
        vars(host).update({name: self[name] for name in self.computed})
        return made

    def guard(self, name: str, parameter: ComputedParameter) -> None:
        """Register a computed parameter under ``name``."""
        if name not in self.order and name not in self.buffers:
            self.order.append(name)
        if name not in self.computed:
            self.computed = sorted([*self.computed, name], key=[*self.order, *self.buffers].index)
        self._put(name, parameter)
        self._computed_last()

    def _put(self, name: str, parameter: ComputedParameter) -> None:
        """Register it; to be found at once, it stands among the host's own attributes as well.

        An attribute that `nn.Module` must search for in its registries costs 0.8 us at each read of a weight.
        """
        dict.__setitem__(self, name, parameter)
        vars(self.host)[name] = parameter

    def release(self, name: str) -> None:
        """Take a computed parameter out, on purpose."""
        self.computed = [other for other in self.computed if other != name]
        dict.pop(self, name, None)  # a placement that was broken off has named it, and not put it here yet
        vars(self.host).pop(name, None)

    def __setitem__(self, name: str, module: Any) -> None:
        if name in self.computed and not isinstance(module, ComputedParameter):
            raise self._refusal(name, f"assigning {type(module).__name__}")
        # who replaces children while walking them (torch.jit does) must find the order unchanged
        is_new = name not in self
        if name in self.computed:
            self._put(name, module)
        else:
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

    def popitem(self) -> tuple[str, Any]:
        """Remove the last child; refuse where that is a computed parameter."""
        name = next(reversed(self), "")
        return name, self.pop(name)

    def clear(self) -> None:
        """Refuse where there are computed parameters."""
        for name in self.computed:
            raise self._refusal(name, "removing it")
        dict.clear(self)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """The child of this name, registered with ``default`` where there is none."""
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *others: Any, **named: Any) -> None:
        """Register one by one, so that each is guarded."""
        for name, module in dict(*others, **named).items():
            self[name] = module

    def __ior__(self, other: Any) -> "GuardedModules":  # type: ignore[misc, override] # typeshed knows plain dicts alone here
        self.update(other)
        return self

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


def _empty_guard() -> GuardedModules:
    return GuardedModules.__new__(GuardedModules)
