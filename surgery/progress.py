"""A progress bar for what takes longer than a second, on a terminal only."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

PATIENCE = 1.0
BETWEEN = 0.1  # seconds from one picture of the bar to the next: to draw one takes as long as to plan for a parameter

Item = TypeVar("Item")


def tracked(items: Iterable[Item], doing: str, total: int) -> Iterator[Item]:
    """Yield ``items``; after a second without an end, show on stderr how far it has come."""
    start = time.monotonic()
    rest = iter(items)
    for done, item in enumerate(rest, 1):
        yield item
        if time.monotonic() - start > PATIENCE:
            yield from _shown(rest, doing, done, total)


def _shown(rest: Iterator[Item], doing: str, done: int, total: int) -> Iterator[Item]:
    """Yield what is left with a bar."""
    # loaded here, since most plans never need it
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from rest
        return
    with Progress(console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(doing, total=total, completed=done)
        drawn = 0.0
        for item in rest:
            yield item
            now = time.monotonic()
            bar.update(task, advance=1, refresh=now - drawn > BETWEEN)
            drawn = now if now - drawn > BETWEEN else drawn
