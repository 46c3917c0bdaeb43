"""docs/catalogue.md, from the constraints themselves: one section an entry. ``python -m computed.page`` writes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from computed.entry import Entry
from computed.table import BUILT_IN
from computed.tables.adapters import ENTRIES as ADAPTERS
from computed.tables.costs import COSTS
from computed.tables.elementwise import ENTRIES as ELEMENTWISE
from computed.tables.matrices import ENTRIES as MATRICES
from computed.tables.norms import ENTRIES as NORMS
from computed.tables.peers import COLUMNS, PEERS
from computed.tables.sparse import ENTRIES as SPARSE
from computed.tables.structure import ENTRIES as STRUCTURE

PAGE: Final = Path(__file__).parents[1] / "docs" / "catalogue.md"
HEAD: Final = """# The catalogue

{count} constraints, each with its formula, what becomes of a pretrained weight, and what weight decay does. A rule
names one by its spec, `{{"*.conv*.weight": "spectral(bound=2.0)"}}`; several are chained by `|`, the left one first.
`computed.catalogue()` lists them in a program. This page is made from the classes (`python -m computed.page`); its
examples are tests.

All promise what one suite tests over all of them (`tests/computed/constraints/test_contract.py`): every weight is taken
into the set, in float16, bfloat16, float32 and float64; a weight that is inside is kept; first and second derivatives
are right, under `torch.func` transforms too; any raws give a value inside, so no step of an optimizer leaves the set.

Costs are those of one evaluation, for a weight (m, n) of N numbers with the smaller side k: a *pass* reads or writes it
once, a *product* is one of matrices, (m, n) by (k, k). The derivative takes about as much again, where nothing else is
said; a value that is held takes nothing. [benchmarks-peers.md](benchmarks-peers.md) has figures.

Beside these a rule takes a `torch.distributions` Transform, a parametrization of torch, any Module or function
(`computed.function`), and what packages offer by the entry point group `computed_surgery.constraints`.
"""
FAMILIES: Final = (
    ("Entries", ELEMENTWISE),
    ("Lengths and means", NORMS),
    ("Singular values and rank", MATRICES),
    ("Structure", STRUCTURE),
    ("Zeros and grids", SPARSE),
    ("Adapters", ADAPTERS),
)
SECTION: Final = re.compile(r"^(Errors|Args|Example|Reference):(.*)$")


def page() -> str:
    """The text of the page."""
    parts = [HEAD.format(count=len(BUILT_IN)), *_contents(), *_peers()]
    for family, entries in FAMILIES:
        parts += [f"\n## {family}\n"]
        for entry in entries:
            parts += _section(entry)
    return "\n".join(parts) + "\n"


def _contents() -> Iterator[str]:
    for family, entries in FAMILIES:
        named = ", ".join(f"[{entry.name}](#{entry.name})" for entry in entries)
        yield f"* **{family}**: {named}"


def _peers() -> Iterator[str]:
    yield "\n## Who else has them\n"
    yield f"| constraint | {' | '.join(COLUMNS)} |"
    yield f"| --- |{' --- |' * len(COLUMNS)}"
    for entry in BUILT_IN:
        cells = [PEERS[entry.name].get(column, "") for column in COLUMNS]
        yield f"| [{entry.name}](#{entry.name}) | {' | '.join(cells)} |"


def _section(entry: Entry) -> Iterator[str]:
    """Name, call and docstring, whose sections become paragraphs."""
    yield f"### {entry.name}\n"
    yield f"`{entry.signature}`: {entry.summary}.\n"
    text, _, example = inspect.cleandoc(entry.load().__doc__ or "").partition("Example:\n")
    # a span of code may go over the end of a line
    told = re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
    section = ""
    for line in f"{told}Example:\n{example}".splitlines():
        found = SECTION.match(line)
        if found:
            section = found[1]
            yield f"**{section}.**{found[2]}" if section != "Example" else "```python"
        else:
            yield _line(section, line)
    yield "```\n" if section == "Example" else ""
    yield f"**Cost.** {COSTS[entry.name][0].upper()}{COSTS[entry.name][1:]}.\n"


def _line(section: str, line: str) -> str:
    if section == "Example":
        return line.removeprefix("    ")
    if section == "Args" and (argument := re.match(r"^    (\w+): (.*)$", line)):
        return f"* `{argument[1]}`: {argument[2]}"
    return line.removeprefix("    ")


if __name__ == "__main__":
    PAGE.write_text(page())
