"""Reasons that many sites share, told once: by rule, host type and reason."""

from collections.abc import Sequence
from typing import NamedTuple

from computed.site import Site
from surgery.rules.ruleset import written

LISTED = 3


class Trouble(NamedTuple):
    """Why one rule cannot be applied to one site."""

    pattern: str
    spec: object
    site: Site
    reason: str


def grouped(troubles: Sequence[Trouble]) -> tuple[str, ...]:
    """One text for the sites that one rule hits for one reason in one type of host."""
    groups: dict[tuple[str, str, str], list[Trouble]] = {}
    for trouble in troubles:
        reason = trouble.reason.replace(repr(trouble.site.name), "{name}")
        groups.setdefault((trouble.pattern, trouble.site.host_type.__name__, reason), []).append(trouble)
    return tuple(_text(group, reason) for (_, _, reason), group in groups.items())


def _text(group: Sequence[Trouble], reason: str) -> str:
    first = group[0]
    rule = f"rule {first.pattern!r}: {written(first.spec)}"
    site = first.site
    if len(group) == 1:
        return f"{site.name} ({site.host_type.__name__}), {rule}: {reason.replace('{name}', repr(site.name))}"
    names = ", ".join(trouble.site.name for trouble in group[:LISTED])
    more = f" and {len(group) - LISTED} more" if len(group) > LISTED else ""
    exemption = f"*@{site.host_type.__name__}.{site.attribute}"
    text = reason.replace("{name}", repr(exemption))
    return f"{names}{more} ({site.host_type.__name__}), {rule}: {text}"
