"""Modules in eval mode for a while, each as it was afterwards."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn


@contextlib.contextmanager
def as_in_eval(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let ``modules``, each by itself, compute what eval uses; random numbers that they draw are drawn by nobody."""
    modes = [(module, module.training) for module in modules]
    try:
        # not Module.eval(), which settles what is iterated, and reaches what is below
        for module, _ in modes:
            module.training = False
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
