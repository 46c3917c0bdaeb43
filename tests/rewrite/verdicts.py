"""Verdicts that a static analysis gives places in source text, held against a live model that these places made."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from rewrite.live import Made, Traced
from rewrite.source import Source

Verdict = Literal["ALL", "NONE", "SOME"]
Position = tuple[int, int]  # line and column as in ``ast``
Key = tuple[str, int, int, str]  # file, line, column and the name below, as in `Made`


@dataclass(frozen=True)
class Comparison:
    """What became of the places that made a model's parameters, for one rule.

    ``wrong`` says in a line each what a verdict claims and which live name says otherwise. ``decided`` and
    ``undecided`` count places with a verdict, ``undecided`` those with SOME; ``needless`` of these, whose live names
    do agree. ``missing`` are places without a verdict, ``untold`` the names whose place is not known.
    """

    wrong: tuple[str, ...]
    decided: int
    undecided: int
    needless: int
    missing: tuple[Key, ...]
    untold: tuple[str, ...]


def key_of(made: Made) -> Key:
    """The place under which verdicts are given: a call where there is one.

    For ``self.w = nn.Parameter(x)``, and ``self.register_parameter("w", nn.Parameter(x))``, that is the inner call.
    """
    position = made.line, made.column
    if made.kind == "parameter":
        position = _values(made.file).get((made.end_line, made.end_column), position)
    return made.file, *position, made.name_below


@cache
def _values(file: str) -> dict[Position, Position]:
    """By where targets of assignments and registering calls end: where the call begins that gives the tensor."""
    found = {}
    for node in ast.walk(Source.read(file, Path(file).read_bytes()).tree):
        for around, value in _given(node):
            if isinstance(value, ast.Call):
                found[around.end_lineno, around.end_col_offset] = value.lineno, value.col_offset
    return found


def _given(node: ast.AST) -> list[tuple[ast.expr, ast.expr | None]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            pairs: list[tuple[ast.expr, ast.expr | None]] = []
            for target in targets:
                match target, value:
                    case ast.Tuple(elts=ones), ast.Tuple(elts=others) if len(ones) == len(others):
                        pairs += zip(ones, others, strict=True)
                    case _:
                        pairs.append((target, value))
            return pairs
        case ast.AnnAssign(target=target, value=value):
            return [(target, value)]
        case ast.Call(func=ast.Name(id="setattr"), args=[_, _, value]):
            return [(node, value)]
        case ast.Call(func=ast.Attribute(attr="register_parameter"), args=[_, value]):
            return [(node, value)]
    return []


def places(traced: Traced, *, buffers: bool = False) -> dict[Key, list[str]]:
    """The live names that each place made."""
    found: dict[Key, list[str]] = {}
    for name, made in {**traced.parameters, **(traced.buffers if buffers else {})}.items():
        if isinstance(made, Made):
            found.setdefault(key_of(made), []).append(name)
    return found


def compare(
    traced: Traced, truth: Mapping[str, bool], verdicts: Mapping[Key, Verdict], *, buffers: bool = False
) -> Comparison:
    """Hold the verdicts on one rule against ``truth``: whether the rule matches each live name.

    ALL is wrong where a name from that place does not match, NONE where one does. A place that made nothing in this
    model is not looked at.
    """
    wrong, counts, missing = [], dict.fromkeys(("decided", "undecided", "needless"), 0), []
    for place, names in places(traced, buffers=buffers).items():
        verdict = verdicts.get(place)
        matched = {name: truth[name] for name in names}
        if verdict is None:
            missing.append(place)
        elif verdict == "SOME":
            counts["undecided"] += 1
            counts["needless"] += len(set(matched.values())) == 1
        else:
            counts["decided"] += 1
            others = [name for name, matches in matched.items() if matches != (verdict == "ALL")]
            if others:
                file, line, column, below = place
                wrong.append(f"{file}:{line}:{column} {below}: {verdict}, but not so {', '.join(others)}")
    told = {**traced.parameters, **(traced.buffers if buffers else {})}
    untold = tuple(name for name, made in told.items() if not isinstance(made, Made))
    return Comparison(tuple(wrong), **counts, missing=tuple(missing), untold=untold)
