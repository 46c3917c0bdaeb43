"""Who holds a weight already: torch's parametrizations, its weight and spectral norm hooks, pruning masks.

GeoTorch's constraints are parametrizations.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Generic, TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import (
    SpectralNorm,
    SpectralNormLoadStateDictPreHook,
    SpectralNormStateDictHook,
)
from torch.nn.utils.weight_norm import WeightNorm

from computed.unhooked import StoredLengths, StoredMask, StoredPowerIteration

Hook = TypeVar("Hook")


class Holder(ABC):
    """What computes the weight ``attribute`` of ``host`` at each forward or at each access.

    ``called`` names it in messages, ``suffixes`` are the parts that it keeps among the host's own parameters and
    buffers, behind the name of the weight: raws first.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    called: str

    def __init__(self, host: nn.Module, attribute: str) -> None:
        self.host = host
        self.attribute = attribute

    @property
    @abstractmethod
    def raws(self) -> tuple[object, ...]:
        """What is trained, as the modules take it."""

    @abstractmethod
    def modules(self) -> list[nn.Module]:
        """The modules that compute the same weight from the raws, one after the other."""

    @abstractmethod
    def let_go(self) -> None:
        """Leave the host without the weight and what held it."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of its parts among the host's own."""
        return tuple(self.attribute + suffix for suffix in self.suffixes)

    def part(self, suffix: str) -> Tensor | None:
        """One of its parts."""
        name = self.attribute + suffix
        return self.host._parameters.get(name, self.host._buffers.get(name))


class Parametrization(Holder):
    """A list of modules that ``torch.nn.utils.parametrize`` has put upon a weight.

    Its property stands in a class that was made for the host, and possibly for copies of it; the class stays as it is.
    """

    def __init__(self, host: nn.Module, attribute: str, listed: parametrize.ParametrizationList) -> None:
        super().__init__(host, attribute)
        self.listed = listed
        self.called = f"torch.nn.utils.parametrize ({' | '.join(type(module).__name__ for module in self.modules())})"

    @property
    def raws(self) -> tuple[object, ...]:
        """``original``, or ``original0``, ``original1``..."""
        if self.listed.is_tensor:
            return (self.listed.original,)
        return tuple(getattr(self.listed, f"original{i}") for i in range(self.listed.ntensors))

    def modules(self) -> list[nn.Module]:
        """Those with numbers for names: torch calls no other."""
        registered = self.listed._modules
        numbered = (registered.get(str(i)) for i in range(len(registered)))
        return [module for module in numbered if module is not None]

    def let_go(self) -> None:
        """Give the host its own class back, all of its weights at once.

        torch's weight norm has also left a function that reads old keys: adoption reads them itself, and a local
        function cannot be pickled.
        """
        if "parametrizations" in self.host._modules:
            self.host.__class__ = parametrize.type_before_parametrizations(self.host)
            del self.host._modules["parametrizations"]
            hooks = self.host._load_state_dict_pre_hooks
            for key in [key for key, hook in hooks.items() if _unwrapped(hook).__module__ == parametrizations.__name__]:
                del hooks[key]


class ByHook(Holder, Generic[Hook]):
    """A forward pre-hook that sets the weight as a plain attribute before each forward."""

    def __init__(self, host: nn.Module, attribute: str, hook: Hook) -> None:
        super().__init__(host, attribute)
        self.hook = hook

    def let_go(self) -> None:
        """Remove hooks, parts and attribute."""
        for hooks in (self.host._forward_pre_hooks, self.host._state_dict_hooks, self.host._load_state_dict_pre_hooks):
            for key in [key for key, hook in hooks.items() if self._is_ours(hook)]:
                del hooks[key]
        for name in self.parts:
            self.host._parameters.pop(name, None)
            self.host._buffers.pop(name, None)
        vars(self.host).pop(self.attribute, None)

    @property
    def raws(self) -> tuple[object, ...]:
        """Its parts that are Parameters."""
        return tuple(self.part(suffix) for suffix in self.suffixes if self.attribute + suffix in self.host._parameters)

    def _is_ours(self, hook: object) -> bool:
        """Whether a hook of the host belongs to this."""
        hook = _unwrapped(hook)
        if isinstance(hook, SpectralNormStateDictHook | SpectralNormLoadStateDictPreHook):
            hook = hook.fn
        return hook is self.hook


class WeightNormHook(ByHook[WeightNorm]):
    """``torch.nn.utils.weight_norm``."""

    called = "torch.nn.utils.weight_norm"
    suffixes: ClassVar[tuple[str, ...]] = ("_g", "_v")

    def modules(self) -> list[nn.Module]:
        """Lengths and directions."""
        return [StoredLengths(self.hook.dim)]


class SpectralNormHook(ByHook[SpectralNorm]):
    """``torch.nn.utils.spectral_norm``."""

    called = "torch.nn.utils.spectral_norm"
    suffixes: ClassVar[tuple[str, ...]] = ("_orig", "_u", "_v")

    def modules(self) -> list[nn.Module]:
        """The power iteration, upon the host's own buffers."""
        u, v = self.part("_u"), self.part("_v")
        assert u is not None
        assert v is not None
        return [StoredPowerIteration(u, v, dim=self.hook.dim, steps=self.hook.n_power_iterations, eps=self.hook.eps)]


class PruningHook(ByHook[BasePruningMethod]):
    """A method of ``torch.nn.utils.prune``, or several."""

    called = "torch.nn.utils.prune"
    suffixes: ClassVar[tuple[str, ...]] = ("_orig", "_mask")

    def modules(self) -> list[nn.Module]:
        """The mask, the host's own buffer."""
        mask = self.part("_mask")
        assert mask is not None
        return [StoredMask(mask)]


def _unwrapped(hook: object) -> object:
    """The hook itself, which torch wraps in some registries."""
    return getattr(hook, "hook", hook)


def holders(host: nn.Module) -> Mapping[str, Holder]:
    """What holds weights of ``host``, by their names."""
    return {holder.attribute: holder for holder in _holders(host)}


def _holders(host: nn.Module) -> Iterator[Holder]:
    lists = dict(host._modules.items()).get("parametrizations")  # a scripted module's answer items() and little else
    if isinstance(lists, nn.ModuleDict) and parametrize.is_parametrized(host):
        for name, listed in lists.items():
            if isinstance(listed, parametrize.ParametrizationList):
                yield Parametrization(host, name, listed)
    for hook in host._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield WeightNormHook(host, hook.name, hook)
        elif isinstance(hook, SpectralNorm):
            yield SpectralNormHook(host, hook.name, hook)
        elif isinstance(hook, BasePruningMethod):
            yield PruningHook(host, hook._tensor_name, hook)


def why_not(holder: Holder) -> str | None:
    """Why a weight cannot be taken over, or None."""
    missing = [suffix for suffix in holder.suffixes if holder.part(suffix) is None]
    others = [type(raw).__name__ for raw in holder.raws if not isinstance(raw, Tensor)]
    if missing:
        return f"{holder.called} holds it, and something else holds {holder.attribute}{missing[0]}; remove that first"
    if others:
        return f"{holder.called} computes it from a {others[0]}, which is no tensor"
    return None
