"""One model under spectral norms by each library: plain, ours, and torch's own two ways."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as hooked_spectral_norm

import surgery

PLAIN, OURS = "plain", "computed-surgery"
TORCH, CACHED, HOOKS = "torch parametrize", "torch, cached()", "torch hooks"


@dataclass(frozen=True)
class Variant:
    """A model, and what its forward is done within: torch's ``parametrize.cached()``, or nothing."""

    model: nn.Module
    within: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def spectral_variants(
    plain: nn.Module, kind: type[nn.Module], weights: tuple[str, ...], only: str | None = None
) -> dict[str, Variant]:
    """``plain`` with the largest singular value of ``weights`` of each host of ``kind`` set to one, by each library.

    ``only`` one of them, where that is asked for: the others would take memory.
    """
    makers: dict[str, Callable[[], Variant]] = {
        PLAIN: lambda: Variant(plain),
        OURS: lambda: Variant(_ours(copy.deepcopy(plain), kind, weights)),
        TORCH: lambda: Variant(_theirs(copy.deepcopy(plain), kind, weights)),
        CACHED: lambda: Variant(_theirs(copy.deepcopy(plain), kind, weights), _cached),
        HOOKS: lambda: Variant(_hooked(copy.deepcopy(plain), kind, weights)),
    }
    return {name: make() for name, make in makers.items() if only in (None, name)}


def _ours(model: nn.Module, kind: type[nn.Module], weights: tuple[str, ...]) -> nn.Module:
    rules = {f"*@{kind.__name__}.{name}": "spectral" for name in weights}
    return surgery.apply_constraints(model, rules, keep_undo=False)


def _theirs(model: nn.Module, kind: type[nn.Module], weights: tuple[str, ...]) -> nn.Module:
    for host, name in _hosts(model, kind, weights):
        parametrizations.spectral_norm(host, name)
    return model


def _hooked(model: nn.Module, kind: type[nn.Module], weights: tuple[str, ...]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it tells of the way that is measured beside it
        for host, name in _hosts(model, kind, weights):
            hooked_spectral_norm(host, name)
    return model


def only(variants: Mapping[str, Variant], *names: str) -> dict[str, Variant]:
    """Some of them."""
    return {name: variants[name] for name in names}


@contextlib.contextmanager
def _cached() -> Iterator[None]:
    with parametrize.cached():
        yield


def _hosts(model: nn.Module, kind: type[nn.Module], weights: tuple[str, ...]) -> list[tuple[nn.Module, str]]:
    return [(host, name) for host in model.modules() if isinstance(host, kind) for name in weights]
