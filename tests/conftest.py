"""What every test runs under: its size, its seed, its threads, and where its figures go."""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
import torch.testing._internal.common_utils  # it loads a hypothesis profile of its own: here, before ours

from tests.evidence import Evidence

SIZES = ("small", "full")
SIZE_VARIABLE = "COMPUTED_SURGERY_SIZE"
WORKER = "PYTEST_XDIST_WORKER"  # set in a process that runs tests for another, which gets the figures
EXAMPLES = {"small": 30, "full": 500}


class _TorchRandom:
    """torch's generator as hypothesis wants one: an example draws the same numbers each time it is tried."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = _TorchRandom()  # hypothesis keeps a weak reference


def pytest_configure(config: pytest.Config) -> None:
    asked = os.environ.get(SIZE_VARIABLE, "small")
    if asked not in SIZES:
        raise pytest.UsageError(f"{SIZE_VARIABLE} is {asked!r}; write one of {', '.join(SIZES)}")
    torch.set_num_threads(1 if asked == "small" else os.cpu_count() or 1)
    hypothesis.register_random(TORCH_RANDOM)
    for name, examples in EXAMPLES.items():
        hypothesis.settings.register_profile(
            name, derandomize=True, database=None, deadline=None, max_examples=examples, print_blob=True
        )
    hypothesis.settings.load_profile(asked)
    if asked == "full" and WORKER not in os.environ:
        config.pluginmanager.register(Evidence(Path(config.rootpath, "docs", "evidence.md")), "evidence")


@pytest.fixture(scope="session")
def size() -> str:
    """``"small"``, or ``"full"`` in `make test-full`: the sizes at which figures are stated."""
    return os.environ.get(SIZE_VARIABLE, "small")


@pytest.fixture(autouse=True, scope="module")
def _nothing_compiled_elsewhere() -> Iterator[None]:
    """What one file has compiled counts against no other: torch compiles a function a few times, and then no more."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture
def evidence(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """``evidence(claim, figure)``: a line of docs/evidence.md, if the test passes in a full run."""

    def record(claim: str, figure: str) -> None:
        record_property("evidence", [claim, figure])

    return record


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same random numbers for a test whatever ran before it; the default dtype as torch has it."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    yield
    torch.set_default_dtype(torch.float32)
