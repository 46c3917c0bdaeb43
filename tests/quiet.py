"""Libraries without what they say: hooks of torch that warn of a newer one, reports and bars of transformers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

from torch import nn


def quiet(norm: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """``norm``, which says nothing of what will take its place."""

    def apply(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(module)

    return apply


@contextlib.contextmanager
def quiet_transformers(level: int) -> Iterator[None]:
    """No bars, and no reports below ``level`` of what was loaded and saved: tests read what the calls return."""
    from transformers.utils import logging  # an extra

    verbosity = logging.get_verbosity()
    logging.set_verbosity(level)
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(verbosity)
