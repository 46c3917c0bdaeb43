"""``computed-surgery rewrite``: rules written into source files. Nothing here imports torch."""

# typer reads the annotations, so they are no texts here
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

import rewrite.options as options
from rewrite.complaints import refuse
from rewrite.invocation import Invocation
from rewrite.reporting import Show

STANDARD_INPUT = "-"


def rewrite_files(
    paths: options.Paths = None,
    rule: options.RuleTexts = None,
    rules: options.RulesFile = None,
    root: options.Roots = None,
    style: options.StyleName = None,
    write: options.Write = False,
    check: options.Check = False,
    output_format: options.FormatName = options.Format.TEXT,
    select: options.Select = "",
    ignore: options.Ignore = "",
    explain: options.Explain = None,
    add_noqa: options.AddNoqa = False,
    migrate: options.Migrate = False,
    unsafe_fixes: options.UnsafeFixes = False,
    target: options.TargetName = None,
    model: options.Model = None,
    root_only: options.RootOnly = False,
    emit: options.Emit = None,
    verify: options.Verify = None,
    exit_zero: options.ExitZero = False,
    statistics: options.Statistics = False,
    config: options.Config = None,
    isolated: options.Isolated = False,
    extend_exclude: options.ExtendExclude = None,
    stdin_filename: options.StdinFilename = "<stdin>",
    jobs: options.Jobs = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write rules into source files: constrain(nn.Conv2d(...), weight="spectral").

    Shows a diff; --write writes. Code that is not understood is left as it is, with the place and the reason. Exits
    with 0 where nothing is to do, 1 where files would change or places were left, 2 for wrong usage, 3 where a file
    could not be read as Python. Only --model and --verify run code of yours.
    """
    if explain is not None:
        _explain(explain)
    named = _checked(paths or (["."] if model else []), write=write, check=check)
    _check_migration(migrate, rules=bool(rule or rules or root or style), options=unsafe_fixes or target is not None)
    _check_live(model, named, options=root_only or emit is not None, others=bool(migrate or root or style or add_noqa))
    show = Show(output_format.value, write, check, statistics, quiet, verbose)
    invocation = Invocation(
        show, tuple(rule or ()), rules, tuple(root or ()), style, _codes(select), _codes(ignore),
        config, isolated, tuple(extend_exclude or ()), jobs, add_noqa,
        migrate, unsafe_fixes, target, verify,
    )  # fmt: skip
    code = invocation.on_model(model, named, root_only, emit) if model else _run(invocation, named, stdin_filename)
    raise typer.Exit(0 if exit_zero else code)


def _checked(paths: list[str], *, write: bool, check: bool) -> list[str]:
    if not paths:
        refuse("no paths: name files or folders, or - for standard input")
    if write and check:
        refuse("--write and --check exclude each other")
    if STANDARD_INPUT in paths and len(paths) > 1:
        refuse("- stands alone: standard input is one file")
    return paths


def _check_live(model: str | None, paths: Sequence[str], *, options: bool, others: bool) -> None:
    if options and model is None:
        refuse("--root-only and --emit are for --model")
    if model is not None and (others or len(paths) != 1 or not Path(paths[0]).is_dir()):
        refuse("--model takes rules and one folder, where the files of the model are, and no other way of rewriting")


def _check_migration(migrate: bool, *, rules: bool, options: bool) -> None:
    if migrate and rules:
        refuse("--migrate takes no rules, roots or style: run it first, and then with rules")
    if options and not migrate:
        refuse("--unsafe-fixes and --target are for --migrate")


def _run(invocation: Invocation, paths: Sequence[str], stdin_filename: str) -> int:
    if paths[0] == STANDARD_INPUT:
        return invocation.on_standard_input(sys.stdin.buffer.read(), stdin_filename)
    return invocation.on_files([Path(path) for path in paths])


def _codes(text: str) -> tuple[str, ...]:
    from rewrite.codes import CODES

    codes = tuple(code.strip().upper() for code in text.split(",") if code.strip())
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
