"""What still trains beside adapters, where no rule says anything about it: most people forget that."""

from collections.abc import Iterable, Sequence

from surgery.finding import Found
from surgery.proposal import PlannedSite
from surgery.storing import numbers


def training_advice(rows: Sequence[PlannedSite], untouched: Iterable[Found]) -> str | None:
    """How many numbers train that no rule is about, where ``rows`` make adapters; None where there are none."""
    if not any(row.changes and _adapts(row) for row in rows):
        return None
    counted = [numbers(found.subject) for found in untouched]
    still = sum(trained for _, trained in counted)
    if not still:
        return None
    total = sum(count for count, _ in counted) + sum(row.parameters_after for row in rows)
    return (
        f"{still:,} of {total:,} parameters, which no rule is about, still train beside the adapters; to train these "
        f"alone begin the rules with '*': 'frozen'"
    )


def _adapts(row: PlannedSite) -> bool:
    """Whether trained numbers are added to a fixed weight."""
    links = row.prepared.links if row.prepared is not None else ()
    return any(role.added for link in links for role in link.roles)
