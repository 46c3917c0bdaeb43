"""How a plan's numbers are written in its table."""

from collections.abc import Sequence

from surgery.proposal import Action, PlannedSite

LONGEST_LINE = 30
LISTED = 3
QUIET = (Action.FREEZE, Action.EXEMPT, Action.ALREADY)
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def heads() -> tuple[str, ...]:
    """The heads of a plan's table."""
    return "parameter", "constraint", "numbers", "moved", "sigma"


def cells(row: PlannedSite) -> tuple[str, ...]:
    """The cells of a row: the name stands over host and shape."""
    shape = "shape unknown" if row.site.shape is None else sizes(row.site.shape)
    if row.prepared is not None and row.prepared.reshapes:
        shape += f" -> {sizes(row.prepared.shape)}"
    ties = "".join(f"\n= {folded(alias)}" for alias in row.site.aliases)
    host = "\n".join(cut(f"  {row.site.host_type.__name__} {shape}"))
    name = f"{folded(row.name)}{ties}\n{host}"
    return name, constraint_text(row), numbers_text(row), moved_text(row), sigma_text(row)


def sizes(shape: Sequence[int]) -> str:
    """A shape as tables write it."""
    return "x".join(map(str, shape)) or "scalar"


def rows_text(rows: Sequence[PlannedSite]) -> list[tuple[str, ...]]:
    """The cells of all rows; what one rule freezes, exempts or finds done already in many places is one line."""
    groups: dict[tuple[object, ...], list[PlannedSite]] = {}
    for position, row in enumerate(rows):
        quiet = row.action in QUIET
        groups.setdefault((row.action, row.rule, row.constraint) if quiet else (position,), []).append(row)
    lines: list[tuple[str, ...]] = []
    for group in groups.values():
        lines += [summary(group)] if len(group) > LISTED else [cells(row) for row in group]
    return lines


def summary(group: Sequence[PlannedSite]) -> tuple[str, ...]:
    """One line for the rows of one rule that change no value."""
    first = group[0]
    total = sum(row.parameters_before for row in group)
    return f"{len(group)} parameters", f"{constraint_text(first)}\nby {first.rule!r}", f"{total:,}", "", ""


def folded(name: str) -> str:
    """A dotted name on lines that fit the first column of 80, broken behind dots."""
    lines = [""]
    for part in name.split("."):
        more = part if not lines[-1] else f".{part}"
        if lines[-1] and len(lines[-1]) + len(more) > LONGEST_LINE:
            lines[-1] += "."
            lines.append(f"    {part}")
        else:
            lines[-1] += more
    return "\n".join(piece for line in lines for piece in cut(line))


def cut(line: str) -> list[str]:
    """Pieces of what has no dot to be broken behind; one character may hang over, which is such a dot."""
    pieces = []
    while len(line) > LONGEST_LINE + 1:
        pieces.append(line[:LONGEST_LINE])
        line = f"    {line[LONGEST_LINE:]}"
    return [*pieces, line]


def constraint_text(row: PlannedSite) -> str:
    """What stands in the column of constraints: the spec, and what is done where that is not plain."""
    match row.action:
        case Action.CONSTRAIN | Action.FREEZE:
            return row.constraint
        case Action.EXEMPT:
            return "exempt"
        case Action.ALREADY:
            return f"{row.constraint}\n(already)"
        case Action.UNKNOWN:
            return f"{row.constraint}\n(lazy: not yet)"
        case _:
            return f"{row.constraint}\n({row.action.value})"


def numbers_text(row: PlannedSite) -> str:
    """How many numbers are stored, before and after where that differs."""
    if row.parameters_before == row.parameters_after:
        return f"{row.parameters_before:,}"
    return f"{row.parameters_before:,}\n-> {row.parameters_after:,}"


def moved_text(row: PlannedSite) -> str:
    """The relative distance that the projection moves the weight."""
    moved = row.measures.moved
    if moved is None:
        return ""
    return "0" if moved == 0 else f"{moved:.1e}" if moved < 1e-3 else f"{moved:.3f}"


def sigma_text(row: PlannedSite) -> str:
    """The largest singular value, before and after where that differs."""
    before, after = row.measures.sigma_before, row.measures.sigma_after
    if before is None or after is None:
        return ""
    first, second = f"{before:.3g}", f"{after:.3g}"
    mark = " ^" if row.measures.scaled_up else ""
    return first + mark if first == second else f"{first}\n-> {second}{mark}"


def trainable_text(trainable: int, total: int) -> str:
    """Trainable against total, with the share."""
    share = f" ({100 * trainable / total:.2f} %)" if total else ""
    return f"{trainable:,} of {total:,}{share}"


def bytes_text(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    size, unit = float(count), 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{size:.1f} {UNITS[unit]}"
