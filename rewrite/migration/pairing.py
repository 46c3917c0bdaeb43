"""Which findings are changed: what applies a norm and what removes or reads it go together, or stay together."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rewrite.migration.codes import LEFT, PARTNER, UNSAFE
from rewrite.migration.contract import Finding, Part, Safety
from rewrite.migration.known import PARAMETRIZED

MISMATCH = "this removes the hook of {family}, and the given files apply torch.nn.utils.parametrizations: it raises"
NOTHING = "nothing in the given files applies the norm that this removes"


@dataclass(frozen=True)
class Asked:
    """What a migration may do: also what is ``unsafe``; only what ``allowed`` says, by comments and by codes."""

    unsafe: bool
    allowed: Callable[[Finding], bool]


def settled(findings: Iterable[Finding], asked: Asked) -> list[Finding]:
    """The findings, those without a change that may not have one now."""
    found = [_as_asked(each, asked) for each in findings]
    found = _apart(found)
    found = _once_each(found)
    found = _read_elsewhere(found, asked)
    while True:
        after = _together(found)
        if after == found:
            return found
        found = after


def _as_asked(each: Finding, asked: Asked) -> Finding:
    if each.change is None:
        return each
    if not asked.allowed(each):
        return each.left("", "")
    if each.safety is Safety.UNSAFE and not asked.unsafe:
        return each.left(f"{each.message}: this needs --unsafe-fixes", UNSAFE)
    return each


def _apart(found: Sequence[Finding]) -> list[Finding]:
    """Without changes in whose removed text other changes stand."""
    touched = [_touched(each) for each in found]
    by_file: dict[object, list[tuple[int, int, int]]] = {}
    for index, (each, places) in enumerate(zip(found, touched, strict=True)):
        by_file.setdefault(each.file, []).extend((begin, end, index) for begin, end in places)
    kept = []
    for index, (each, places) in enumerate(zip(found, touched, strict=True)):
        others = by_file[each.file] if places else []
        if any(
            begin < their_end and their_begin < end
            for begin, end in places
            for their_begin, their_end, other in others
            if other != index
        ):
            each = each.left("another old idiom stands among its arguments", LEFT)
        kept.append(each)
    return kept


def _touched(each: Finding) -> list[tuple[int, int]]:
    if each.change is None:
        return []
    made = each.change.make(dict.fromkeys(each.change.functions, "_"))
    return [(one.offset, one.offset + one.removed) for one in made if one.removed]


def _once_each(found: Sequence[Finding]) -> list[Finding]:
    """Without norms whose module goes to another one, or that are taken away again in the same function."""
    targets = {part: {_target(each) for each in found if each.part is part} for part in Part}
    both = (targets[Part.APPLIES] & targets[Part.REMOVES]) - {None}
    taken = {call for each in found for call in each.takes}
    kept = []
    for each in found:
        if each.change is not None and _target(each) in both:
            each = each.left("a norm is applied and removed here on one module in one function", LEFT)
        if each.change is not None and each.node in taken:
            each = each.left("another norm takes its module", LEFT)
        kept.append(each)
    return kept


def _target(each: Finding) -> tuple[object, str] | None:
    """The function that a finding is in, and the module it is about."""
    match each.node:
        case ast.Call(args=[module, *_]) if each.part in (Part.APPLIES, Part.REMOVES):
            return each.file.function_of(each.node), ast.dump(module)
    return None


def _read_elsewhere(found: Sequence[Finding], asked: Asked) -> list[Finding]:
    """Without norms whose old attributes are read: in the same file, or, where only safe edits are asked, anywhere."""
    reads = [each for each in found if each.part is Part.READS]
    kept = []
    for each in found:
        if each.change is not None and each.part is Part.APPLIES:
            near = [one for one in reads if one.families & each.families and one.file is each.file]
            far = [one for one in reads if one.families & each.families and one.file is not each.file]
            if near:
                each = each.left(f"{near[0].message} ({near[0].place})", PARTNER)
            elif far and not asked.unsafe:
                each = each.left(f"{far[0].message} ({far[0].place}): this needs --unsafe-fixes", UNSAFE)
        kept.append(each)
    return kept


def _together(found: Sequence[Finding]) -> list[Finding]:
    """One round: no removal is changed without all applications, none of these where a removal is left."""
    kept = []
    for each in found:
        if each.change is not None and each.part in (Part.APPLIES, Part.REMOVES):
            reason = _held_back(each, found)
            if reason is not None:
                each = each.left(reason, PARTNER)
        kept.append(each)
    return kept


def _held_back(each: Finding, found: Sequence[Finding]) -> str | None:
    related = [one for one in found if one.families & each.families]
    applied = [one for one in related if one.part is Part.APPLIES]
    removed = [one for one in related if one.part is Part.REMOVES]
    if each.part is Part.REMOVES and not applied:
        newer = any(one.part is Part.APPLIES and PARAMETRIZED in one.families for one in found)
        return MISMATCH.format(family=", ".join(sorted(each.families))) if newer else NOTHING
    waiting = [one for one in (*removed, *(applied if removed else ())) if one.change is None]
    if not waiting:
        return None
    what = "applies" if waiting[0].part is Part.APPLIES else "removes"
    return f"the place that {what} the norm at {waiting[0].place} is left, so that this is too"
