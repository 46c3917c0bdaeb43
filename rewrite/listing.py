"""The catalogue as a table, fitted to a terminal or plain for a pipe, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import typer

from computed.entry import REQUIRED, Entry, Parameter

if TYPE_CHECKING:
    from rich.console import Console


def print_table(entries: Collection[Entry]) -> None:
    """Print how each entry is called and what its value is.

    In a terminal a table as wide as that; elsewhere plain lines, one an entry, that are never broken.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        _print_fitted(console, entries)
        return
    width = max(len(entry.signature) for entry in entries)
    for entry in entries:
        typer.echo(f"{entry.signature:<{width}}  {entry.summary}")


def as_json(entries: Iterable[Entry]) -> str:
    """The entries as a JSON array.

    ``parameters`` is null where only the class knows them; ``default`` is null where an argument is required,
    else a Python literal as text.
    """
    return json.dumps([_fields(entry) for entry in entries], indent=2, ensure_ascii=False)


def _print_fitted(console: Console, entries: Iterable[Entry]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("a rule says", "and the value is", box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in entries:
        name, arguments = entry.signature[: len(entry.name)], entry.signature[len(entry.name) :]
        table.add_row(Text.assemble((name, "bold"), arguments), Text(entry.summary))
    console.print(table)


def _fields(entry: Entry) -> dict[str, object]:
    parameters = entry.parameters
    return {
        "name": entry.name,
        "signature": entry.signature,
        "summary": entry.summary,
        "class": entry.target,
        "also_called": list(entry.also_called),
        "parameters": None if parameters is None else [_parameter_fields(each) for each in parameters],
    }


def _parameter_fields(parameter: Parameter) -> dict[str, object]:
    return {
        "name": parameter.name,
        "default": None if parameter.default is REQUIRED else repr(parameter.default),
        "keyword_only": parameter.keyword_only,
    }
