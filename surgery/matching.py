"""Which finds a call is about: those that patterns match by any of their names."""

from collections.abc import Iterable, Sequence

from torch import nn

from surgery.errors import SurgeryError
from surgery.finding import Found
from surgery.rules.errors import RuleError
from surgery.rules.pattern import Pattern


def chosen_by(
    patterns: str | Iterable[str], found: Sequence[Found], model: nn.Module, doing: str, what: str
) -> list[Found]:
    """The finds that one of ``patterns`` matches; ``what`` says in messages what is looked for.

    Errors: RuleError for patterns that cannot be read, SurgeryError for one that matches nothing.
    """
    read = [Pattern.parse(text) for text in ([patterns] if isinstance(patterns, str) else patterns)]
    unmatched = [pattern.text for pattern in read if not any(_matches(pattern, one) for one in found)]
    if unmatched:
        names = ", ".join(one.site.name for one in found[:5]) or "none"
        raise SurgeryError(
            f"{doing}: no {what} matches {', '.join(map(repr, unmatched))}; this {type(model).__name__} has "
            f"{len(found)}: {names}{', ...' if len(found) > 5 else ''}"
        )
    operations = [pattern.text for pattern in read if pattern.operation is not None]
    if operations:
        raise RuleError([f"{text!r}: an operation needs a graph; {doing} takes names" for text in operations])
    return [one for one in found if any(_matches(pattern, one) for pattern in read)]


def _matches(pattern: Pattern, found: Found) -> bool:
    site = found.site
    return any(pattern.matches(name, types) for name, types in zip(site.names, site.host_types, strict=True))
