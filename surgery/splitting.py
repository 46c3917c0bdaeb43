"""Splitting a tie: each attribute of it is decided on its own, and what becomes computed gets a tensor of its own."""

from collections.abc import Sequence
from dataclasses import replace

from computed.site import Site
from surgery.finding import Found, Place
from surgery.proposal import Action, PlannedSite


def parts_of(found: Found) -> list[Found]:
    """One find for each attribute of a tie; a computed parameter stays one."""
    if found.computed is not None or len(found.slots) == 1:
        return [found]
    parts = []
    for slot in found.slots:
        places = tuple(p for p in found.places if p.host is slot.host and p.attribute == slot.attribute)
        parts.append(Found(_renamed(found, places), places, found.subject))
    return parts


def given_copies(rows: Sequence[PlannedSite], parts: Sequence[Found]) -> tuple[PlannedSite, ...]:
    """``rows`` with a mark on those that must leave the tied tensor itself to another part.

    A part that stays plain keeps it; where all parts become computed, the first does.
    """
    computed: dict[int, list[int]] = {}
    for position, row in enumerate(rows):
        if row.action is Action.CONSTRAIN:
            computed.setdefault(id(row.subject), []).append(position)
    sizes = _parts_by_tensor(parts)
    marked = list(rows)
    for key, positions in computed.items():
        stays_plain = len(positions) < sizes[key]
        for position in positions if stays_plain else positions[1:]:
            marked[position] = replace(rows[position], copies=True, parameters_before=0, trainable_before=0)
    return tuple(marked)


def frozen_together(rows: Sequence[PlannedSite], parts: Sequence[Found]) -> list[str]:
    """What is wrong where one part of a tie would be frozen and another one stay plain: they are one tensor."""
    decided = {id(row.found): row.action for row in rows}
    problems = []
    for row in rows:
        if row.action is Action.FREEZE:
            others = [part for part in parts if part.subject is row.subject and part is not row.found]
            plain = [part.site.name for part in others if decided.get(id(part)) in (None, Action.EXEMPT)]
            if plain:
                problems.append(
                    f"{row.name}, rule {row.rule!r}: is tied to {', '.join(plain)}, which would be frozen with it; "
                    f"freeze all names of the tie, or constrain the others"
                )
    return problems


def _parts_by_tensor(parts: Sequence[Found]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for part in parts:
        sizes[id(part.subject)] = sizes.get(id(part.subject), 0) + 1
    return sizes


def _renamed(found: Found, places: tuple[Place, ...]) -> Site:
    whole = found.site
    names = tuple(place.name for place in places)
    positions = [whole.names.index(name) for name in names]
    return replace(
        whole,
        names=names,
        host_type=type(places[0].host),
        host_types=tuple(whole.host_types[position] for position in positions),
        usages=tuple(whole.usages[position] for position in positions),
    )
