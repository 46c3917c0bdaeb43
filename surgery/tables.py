"""Tables that people read: through rich on a terminal, plain text in a pipe, HTML in a notebook."""

import abc
import html
import io
import shutil
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # loaded where something is printed
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

NARROWEST = 80


class Tabular(abc.ABC):
    """Something that prints as a table with lines below it."""

    @abc.abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""

    @abc.abstractmethod
    def lines(self) -> list[tuple[str, ...]]:
        """The cells of the table."""

    @abc.abstractmethod
    def footer(self) -> list[str]:
        """What stands below the table."""

    def __str__(self) -> str:
        """Plain text as wide as the terminal, 80 columns where there is none."""
        from rich.console import Console

        width = shutil.get_terminal_size((NARROWEST, 24)).columns if sys.stdout.isatty() else NARROWEST
        console = Console(file=io.StringIO(), width=max(width, NARROWEST), color_system=None, legacy_windows=False)
        with console.capture() as capture:
            self._print(console)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def __rich_console__(self, console: "Console", options: object) -> "list[Table | Text]":
        """For `rich.print`."""
        return self._parts()

    def _repr_html_(self) -> str:
        """For notebooks."""
        heads = "".join(f"<th>{html.escape(head)}</th>" for head in self.columns())
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in self.lines()
        )
        below = "".join(f"<p>{html.escape(text)}</p>" for text in self.footer())
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{below}"

    def _print(self, console: "Console") -> None:
        for part in self._parts():
            console.print(part)

    def _parts(self) -> "list[Table | Text]":
        from rich.table import Table
        from rich.text import Text

        lines = self.lines()
        below = [Text(text) for text in self.footer()]
        if not lines:
            return list(below)
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for position, head in enumerate(self.columns()):
            # the first column holds names, folded by whoever wrote them: the others give way
            justify: Literal["left", "right"] = "left" if position < 2 else "right"
            table.add_column(head, overflow="fold", justify=justify, no_wrap=position == 0)
        for line in lines:
            table.add_row(*(Text(cell) for cell in line))
        return [table, *below]
