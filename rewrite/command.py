"""``computed-surgery rewrite``: rules written into source files. Nothing here imports torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rewrite.complaints import refuse
from rewrite.session import Session, Show

STANDARD_INPUT = "-"


class Format(StrEnum):
    """The names of ``--output-format``."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


class Style(StrEnum):
    """The names of ``--style``."""

    AUTO = "auto"
    INLINE = "inline"
    CLASS = "class"


def rewrite_files(
    paths: Annotated[list[str] | None, typer.Argument(help="Files, folders, or - for standard input.")] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule", "-r", help="PATTERN=SPEC, such as '*.conv*.weight=spectral'; =none exempts. Repeatable."
        ),
    ] = None,
    rules: Annotated[Path | None, typer.Option("--rules", help="A TOML file of rules.")] = None,
    root: Annotated[
        list[str] | None, typer.Option("--root", help="The class at whose instances names begin. Repeatable.")
    ] = None,
    style: Annotated[
        Style | None, typer.Option("--style", help="Write at calls, above the root class, or where each is right.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the files; without it, a diff is shown.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Name the files that would change; no diff.")] = False,
    output_format: Annotated[
        Format, typer.Option("--output-format", help="How diagnostics are written.")
    ] = Format.TEXT,
    select: Annotated[str | None, typer.Option("--select", help="Only these codes, such as CS1,CS110.")] = None,
    ignore: Annotated[str | None, typer.Option("--ignore", help="All but these codes.")] = None,
    explain: Annotated[str | None, typer.Option("--explain", help="Say what a code means, and stop.")] = None,
    add_noqa: Annotated[
        bool, typer.Option("--add-noqa", help="Write '# noqa: CODE' to each place that was left.")
    ] = False,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
    statistics: Annotated[bool, typer.Option("--statistics", help="Count codes.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file instead of pyproject.toml.")] = None,
    isolated: Annotated[bool, typer.Option("--isolated", help="Read no configuration.")] = False,
    extend_exclude: Annotated[
        list[str] | None, typer.Option("--extend-exclude", help="A pattern as in .gitignore. Repeatable.")
    ] = None,
    stdin_filename: Annotated[str, typer.Option("--stdin-filename", help="How standard input is called.")] = "<stdin>",
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Processes; as many as cores.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, and the diff.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Notes, and what was skipped.")] = False,
) -> None:
    """Write rules into source files: constrain(nn.Conv2d(...), weight="spectral").

    Shows a diff; --write writes. Code that is not understood is left as it is, with the place and the reason.
    Exits with 0 where nothing is to do, 1 where files would change or places were left, 2 for wrong usage, 3 where a
    file could not be read as Python. No code of yours is run.
    """
    if explain is not None:
        _explain(explain)
    if not paths:
        refuse("no paths: name files or folders, or - for standard input")
    if write and check:
        refuse("--write and --check exclude each other")
    if STANDARD_INPUT in paths and len(paths) > 1:
        refuse("- stands alone: standard input is one file")
    session = Session(
        show=Show(output_format.value, write, check, statistics, quiet, verbose),
        texts=tuple(rule or ()),
        rules_file=rules,
        roots=tuple(root or ()),
        style=style.value if style else None,
        select=_codes(select),
        ignore=_codes(ignore),
        config=config,
        isolated=isolated,
        extend_exclude=tuple(extend_exclude or ()),
        jobs=jobs,
        add_noqa=add_noqa,
    )
    code = _run(session, paths, stdin_filename)
    raise typer.Exit(0 if exit_zero else code)


def _run(session: Session, paths: Sequence[str], stdin_filename: str) -> int:
    if paths[0] == STANDARD_INPUT:
        return session.on_standard_input(sys.stdin.buffer.read(), stdin_filename)
    return session.on_files([Path(path) for path in paths])


def _codes(text: str | None) -> tuple[str, ...]:
    from rewrite.codes import CODES

    codes = tuple(code.strip().upper() for code in (text or "").split(",") if code.strip())
    for code in codes:
        if not any(known.startswith(code) for known in CODES):
            refuse(f"no code begins with {code!r}; known are {', '.join(CODES)}")
    return codes


def _explain(code: str) -> None:
    from rewrite.codes import CODES
    from rewrite.showing import explanation

    if code.upper() not in CODES:
        refuse(f"unknown code {code!r}; known are {', '.join(CODES)}")
    typer.echo(explanation(code.upper()))
    raise typer.Exit
