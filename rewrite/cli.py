"""The command line: ``computed-surgery rewrite``, ``constraints``, ``match``, ``spec``. Nothing here imports torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from computed.registry import WHOLE_SPECS, catalogue, check_call
from computed.spec import parse_spec, spec_text
from rewrite.command import rewrite_files
from rewrite.complaints import complaining, refuse
from rewrite.listing import as_json, print_table
from surgery.rules.pattern import Pattern

DISTRIBUTION = "computed-surgery"
NO_MATCH = 1

app = typer.Typer(
    name=DISTRIBUTION,
    help="Rules that say which weights of a PyTorch model are computed from other ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if not asked:
        return
    try:
        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
    except PackageNotFoundError:
        typer.echo(f"{DISTRIBUTION}, run from its source: no version is installed")
    raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("rewrite")(rewrite_files)


@app.command("constraints")
def list_constraints(
    json: Annotated[
        bool, typer.Option("--json", help="One JSON array; defaults are Python literals, as text.")
    ] = False,
) -> None:
    """List the constraints that a rule can name, and how each is called."""
    with complaining():
        entries = catalogue().values()
    if json:
        typer.echo(as_json(entries))
    else:
        print_table(entries)


@app.command("match")
def match_names(
    pattern: Annotated[str, typer.Argument(help="The left side of a rule, such as '*.conv*.weight'.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Parameter names; read from standard input if there are none.")
    ] = None,
) -> None:
    """Print the names that a pattern matches; exit with 1 if there are none.

    Quote the pattern, or the shell may take its stars.
    """
    with complaining():
        parsed = Pattern.parse(pattern)
    for what, asked in (("an operation", parsed.operation), ("the class of a host", parsed.host_type)):
        if asked is not None:
            cure = "try it on a model with surgery.plan"
            refuse(f"pattern {pattern!r} asks for {what}, which names do not tell; {cure}")
    matched = False
    for name in names or _names_from_stdin():
        if parsed.matches(name):
            matched = True
            typer.echo(name)
    if not matched:
        raise typer.Exit(NO_MATCH)


@app.command("spec")
def check_spec(
    text: Annotated[str, typer.Argument(help="The right side of a rule: 'symmetric | spectral(bound=2)'.")],
) -> None:
    """Check a spec, and print it in its canonical form."""
    with complaining():
        calls = parse_spec(text)
        if spec_text(calls) not in WHOLE_SPECS:
            for call in calls:
                check_call(call)
    typer.echo(spec_text(calls))


def _names_from_stdin() -> Iterable[str]:
    if sys.stdin.isatty():
        refuse("no names: write them after the pattern, or send them to standard input, one a line")
    return filter(None, map(str.strip, sys.stdin))


def main() -> None:
    """Run the command line; exits with 1 where nothing was found, and with 2 where the input is wrong."""
    app()
