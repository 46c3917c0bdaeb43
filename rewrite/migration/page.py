"""docs/migration.md, from the rules: what each promises, and its examples. ``python -m rewrite.migration.page``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Final

from rewrite.migration.codes import OF_ALL_RULES
from rewrite.migration.contract import Rule, Safety
from rewrite.migration.examples import Example
from rewrite.migration.rules import RULES

PAGE: Final = Path(__file__).parents[2] / "docs" / "migration.md"
HEAD: Final = """# Migration

`computed-surgery rewrite --migrate PATH` writes constraints in the place of old idioms of weights that are computed.
This page is made from the rules themselves (`python -m rewrite.migration.page`); its examples are tests.

**Safe** means: a state dict saved before loads `strict=True` into the migrated model, and values in eval are then
equal, to the tolerance that the rule states. Random draws and iterations in train mode differ where the rule says so.
**Unsafe** edits need `--unsafe-fixes`. What is **diagnosed** is told and never edited. `--target torch` writes
`torch.nn.utils.parametrizations` in the place of hooks, for models that are to run without this package.

What applies a norm and what removes it are rewritten together or not at all, over all files that are given. A place
that reads an attribute of the old norm (`weight_g`) holds back the norms of all of them; with `--unsafe-fixes`, those
of its own file.
Imports that nothing uses any more stay; a linter removes them.
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD, "| code | idiom | |", "| --- | --- | --- |"]
    parts += [f"| {rule.code} | {rule.title} | {rule.safety.value} |" for rule in RULES]
    parts += [f"| {code.name} | {code.title} | |" for code in OF_ALL_RULES]
    for rule in RULES:
        parts += ["", *_section(rule)]
    parts += ["", "## What is told of all"]
    parts += ["\n" + _filled(f"**{code.name}**, {code.title}. {code.explanation}") for code in OF_ALL_RULES]
    return "\n".join(parts) + "\n"


def _filled(text: str) -> str:
    return fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _section(rule: Rule) -> Iterator[str]:
    yield f"## {rule.code}: {rule.title}"
    yield f"\n{_filled(f'*{rule.safety.value.capitalize()}.* {rule.explanation}')}"
    for example in rule.examples:
        yield from _example(example)
    for number, text in enumerate(rule.unchanged):
        told = "Told, and left" if rule.safety is Safety.DIAGNOSED else "Left as it is"
        yield f"\n{told}:\n" if number == 0 else ""
        yield f"```python\n{text}```"


def _example(example: Example) -> Iterator[str]:
    flags = ["--target torch"] if example.target == "torch" else []
    flags += ["--unsafe-fixes"] if example.unsafe else []
    yield f"\nWith `{' '.join(flags)}`:\n" if flags else ""
    rest = f"{example.rest.strip()}\n...\n" if example.rest else ""
    yield f"```python\n{example.imports}\n...\n{rest}{example.before}"
    if example.methods_after:
        yield f"...\n{example.methods}"
    yield "```\n\nbecomes\n"
    added = f"{example.added}\n...\n" if example.added else ""
    yield f"```python\n{added}{example.after}"
    if example.methods_after:
        yield f"...\n{example.methods_after}"
    yield "```"


if __name__ == "__main__":
    PAGE.write_text(page())
