"""The arguments and options of ``computed-surgery rewrite``, with the words of its help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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


class Target(StrEnum):
    """The names of ``--target``."""

    SURGERY = "surgery"
    TORCH = "torch"


Paths = Annotated[list[str] | None, typer.Argument(help="Files, folders, or - for standard input.")]
RuleTexts = Annotated[
    list[str] | None,
    typer.Option("--rule", "-r", help="PATTERN=SPEC, such as '*.conv*.weight=spectral'; =none exempts. Repeatable."),
]
RulesFile = Annotated[Path | None, typer.Option("--rules", help="A TOML file of rules.")]
Roots = Annotated[
    list[str] | None, typer.Option("--root", help="The class at whose instances names begin. Repeatable.")
]
StyleName = Annotated[
    Style | None, typer.Option("--style", help="Write at calls, above the root class, or where each is right.")
]
Write = Annotated[bool, typer.Option("--write", help="Write the files; without it, a diff is shown.")]
Check = Annotated[bool, typer.Option("--check", help="Name the files that would change; no diff.")]
FormatName = Annotated[Format, typer.Option("--output-format", help="How diagnostics are written.")]
Select = Annotated[str, typer.Option("--select", help="Only these codes, such as CS1,CS110.")]
Ignore = Annotated[str, typer.Option("--ignore", help="All but these codes.")]
Explain = Annotated[str | None, typer.Option("--explain", help="Say what a code means, and stop.")]
AddNoqa = Annotated[bool, typer.Option("--add-noqa", help="Write '# noqa: CODE' to each place that was left.")]
Migrate = Annotated[
    bool, typer.Option("--migrate", help="Instead of rules: torch's norms and parametrizations become constraints.")
]
UnsafeFixes = Annotated[
    bool, typer.Option("--unsafe-fixes", help="With --migrate: also what may change names or behaviour.")
]
TargetName = Annotated[
    Target | None, typer.Option("--target", help="With --migrate: write constraints, or torch's parametrizations.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="MODULE:CALLABLE is run and builds the model; PATH is the folder of its files."),
]
RootOnly = Annotated[bool, typer.Option("--root-only", help="With --model: it is the only one built of its classes.")]
Emit = Annotated[
    Path | None, typer.Option("--emit", help="With --model: write a codemod of LibCST that stands alone to this file.")
]
Verify = Annotated[
    str | None, typer.Option("--verify", help="MODULE:CALLABLE is run, before and after, and the models are compared.")
]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")]
Statistics = Annotated[bool, typer.Option("--statistics", help="Count codes.")]
Config = Annotated[Path | None, typer.Option("--config", help="A TOML file instead of pyproject.toml.")]
Isolated = Annotated[bool, typer.Option("--isolated", help="Read no configuration.")]
ExtendExclude = Annotated[
    list[str] | None, typer.Option("--extend-exclude", help="A pattern as in .gitignore. Repeatable.")
]
StdinFilename = Annotated[str, typer.Option("--stdin-filename", help="How standard input is called.")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Processes; as many as cores.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, and the diff.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Notes, and what was skipped.")]
