"""Hooks of torch that warn that there is a newer one, without the warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import nn


def quiet(norm: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """``norm``, which says nothing of what will take its place."""

    def apply(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(module)

    return apply
