"""A progress bar for what takes longer than a second, on a terminal only."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

PATIENCE = 1.0

Item = TypeVar("Item")


def tracked(items: Iterable[Item], doing: str, total: int) -> Iterator[Item]:
    """Yield ``items``; after a second without an end, show on stderr how far it has come."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    start = time.monotonic()
    with Progress(console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(doing, total=total, visible=False)
        for item in items:
            yield item
            bar.advance(task)
            if time.monotonic() - start > PATIENCE:
                bar.update(task, visible=True, refresh=True)
