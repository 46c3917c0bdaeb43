"""What the command line says of wrong input: a message on standard error with a caret, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from computed.registry import PluginError
from computed.spec_error import SpecError
from surgery.rules.errors import PatternError

WRONG_INPUT = 2


@contextmanager
def complaining() -> Iterator[None]:
    """Turn the errors of specs, patterns and plugins into a message and an exit; let all others pass.

    Raises `typer.Exit` with code 2 in their place.
    """
    try:
        yield
    except PatternError as error:
        refuse(str(error), error.pattern, error.position)
    except SpecError as error:
        refuse(str(error), error.text, error.position)
    except PluginError as error:
        refuse(str(error))


def refuse(message: str, text: str | None = None, position: int | None = None) -> NoReturn:
    """Print ``message`` on standard error, then ``text`` with a caret at ``position``, and exit with 2."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), message))
    if text is not None and position is not None and text.isprintable():
        console.print(Text(f"  {text}\n  {' ' * cell_len(text[:position])}^"))
    raise typer.Exit(WRONG_INPUT)
