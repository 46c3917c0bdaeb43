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


def spectral_variants(plain: nn.Module, kind: type[nn.Module], weights: tuple[str, ...]) -> dict[str, Variant]:
    """``plain`` with the largest singular value of ``weights`` of each host of ``kind`` set to one, by each library."""
    rules = {f"*@{kind.__name__}.{name}": "spectral" for name in weights}
    ours = surgery.apply_constraints(copy.deepcopy(plain), rules, keep_undo=False)
    theirs = copy.deepcopy(plain)
    for host, name in _hosts(theirs, kind, weights):
        parametrizations.spectral_norm(host, name)
    hooked = copy.deepcopy(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it tells of the way that is measured beside it
        for host, name in _hosts(hooked, kind, weights):
            hooked_spectral_norm(host, name)
    return {
        PLAIN: Variant(plain),
        OURS: Variant(ours),
        TORCH: Variant(theirs),
        CACHED: Variant(copy.deepcopy(theirs), _cached),
        HOOKS: Variant(hooked),
    }


def only(variants: Mapping[str, Variant], *names: str) -> dict[str, Variant]:
    """Some of them."""
    return {name: variants[name] for name in names}


@contextlib.contextmanager
def _cached() -> Iterator[None]:
    with parametrize.cached():
        yield


def _hosts(model: nn.Module, kind: type[nn.Module], weights: tuple[str, ...]) -> list[tuple[nn.Module, str]]:
    return [(host, name) for host in model.modules() if isinstance(host, kind) for name in weights]
