"""Two ranks for each file of tests on several processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.life.distributed import Ranks

WORLD = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    started = Ranks(WORLD, tmp_path_factory.mktemp("ranks"))
    yield started
    started.close()
