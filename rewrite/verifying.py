"""``--verify MODULE:CALLABLE``: rewritten files build what the rules make of the original model, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import rewrite.fingerprint
from rewrite.builder import Builder
from rewrite.building import TIMEOUT
from rewrite.child import ask
from rewrite.fingerprint import Digests, Fingerprint, Request
from rewrite.outcome import Outcome
from rewrite.source import Source

SEED = 0
SHOWN = 3
ORIGINAL = "as apply_constraints gives the original"


@dataclass(frozen=True)
class Verification:
    """What was compared: ``lines`` to print, and whether nothing differs."""

    lines: tuple[str, ...]
    ok: bool


def verify(
    builder: Builder,
    outcomes: Iterable[Outcome],
    rules: Sequence[tuple[str, str | None]],
    *,
    seed: int = SEED,
    timeout: float = TIMEOUT,
) -> Verification:
    """Build a model from the original files and from the rewritten ones, in two processes under one seed, and compare.

    The first has the rules applied, on the tree and, where that can be traced, on its FX graph. The files are not
    written: the other process imports their rewritten texts in their place. Rules that match nothing are let pass.

    Raises `ChildError` where the builder fails in one of them.
    """
    texts = tuple((os.path.abspath(each.path), _encoded(each)) for each in outcomes if each.changed)
    applied = _measured(Request(builder, seed, rules=tuple(rules)), f"{builder}, from the original files", timeout)
    rewritten = _measured(Request(builder, seed, texts), f"{builder}, from the rewritten files", timeout)
    found = [*_imported(texts, rewritten), *_compared(rewritten, applied)]
    lines = [line for line, _ in found] + [f"FX: {applied.graph}"]
    return Verification(tuple(lines), all(same for _, same in found) and not applied.graph_differs)


def _measured(request: Request, subject: str, timeout: float) -> Fingerprint:
    found: Fingerprint = ask(rewrite.fingerprint.__name__, request, subject=subject, timeout=timeout)
    return found


def _imported(texts: Sequence[tuple[str, bytes]], rewritten: Fingerprint) -> Iterator[tuple[str, bool]]:
    """Whether the files that are rewritten are those that the builder imports."""
    paths = {os.path.realpath(path) for path, _ in texts}
    if not paths:
        yield "no file is rewritten", True
    elif not paths & rewritten.used:
        yield "the builder imports none of the rewritten files", False
    elif paths - rewritten.used:
        yield f"not imported, and so not compared: {', '.join(sorted(paths - rewritten.used))}", True


def _compared(rewritten: Fingerprint, applied: Fingerprint) -> Iterator[tuple[str, bool]]:
    differing = _differences(rewritten.state, applied.state)
    if differing:
        yield f"state dict: {', '.join(differing)}", False
    else:
        yield f"state dict: {len(applied.state)} entries with the names, order and bits {ORIGINAL}", True
    if applied.outputs is None or rewritten.outputs is None:
        yield f"outputs: not compared ({applied.without or rewritten.without})", True
    elif applied.outputs != rewritten.outputs:
        yield f"outputs: others than {ORIGINAL.removeprefix('as ')}", False
    else:
        yield f"outputs: {len(applied.outputs)} with the bits {ORIGINAL}", True


def _differences(ours: Digests, theirs: Digests) -> list[str]:
    """In what a state dict differs from the one that it should be."""
    found, expected = dict(ours), dict(theirs)
    told = [f"{name} is missing" for name in expected if name not in found]
    told += [f"{name} is new" for name in found if name not in expected]
    told += [f"{name} has other bits" for name, each in found.items() if expected.get(name, each) != each]
    if not told and list(found) != list(expected):
        told.append("the order of names differs")
    return [*told[:SHOWN], f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else told


def _encoded(outcome: Outcome) -> bytes:
    with open(outcome.path, "rb") as file:
        return Source.read(outcome.path, file.read()).encoded(outcome.after)
