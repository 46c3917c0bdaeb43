"""What an author probably meant by a pattern that matches nothing: every proposal is tried before it is made."""

from collections.abc import Collection, Iterator, Sequence

from computed.nearmiss import near_misses
from surgery.rules.errors import PatternError
from surgery.rules.pattern import EXPRESSION, Pattern

Named = tuple[str, tuple[str, ...]]

PROPOSALS = 3
WILD = frozenset("*?[]{}")
REGULAR = (".*", "\\", "^", "$", "|", "(", "+")


def unmatched_text(pattern: Pattern, names: Sequence[Named], buffers: Sequence[str]) -> str:
    """The end of the message about a pattern that matches none of ``names``."""
    if buffers:
        leaf = buffers[0].rpartition(".")[2]
        return f"matches only buffers ({buffers[0]}); a buffer is meant only where its last name is written, '*.{leaf}'"
    proposed = proposals(pattern, names)
    if proposed:
        texts = " or ".join(f"{text!r} ({count} name{'' if count == 1 else 's'})" for text, count in proposed)
        return f"matches none of {len(names)} names; did you mean {texts}?"
    examples = ", ".join(name for name, _ in names[:3]) or "none at all"
    return f"matches none of {len(names)} names; there are {examples}{', ...' if len(names) > 3 else ''}"


def proposals(pattern: Pattern, names: Sequence[Named]) -> list[tuple[str, int]]:
    """Patterns near to ``pattern`` that match some of ``names``, with the number of matches, the likeliest first."""
    found: dict[str, int] = {}
    for text in _attempts(pattern.text, names):
        if text not in found and text != pattern.text and len(found) < PROPOSALS:
            count = _count(text, names)
            if count:
                found[text] = count
    return list(found.items())


def _count(text: str, names: Sequence[Named]) -> int:
    try:
        pattern = Pattern.parse(text)
    except PatternError:
        return 0
    return sum(pattern.matches(name, types) for name, types in names)


def _attempts(text: str, names: Sequence[Named]) -> Iterator[str]:
    if text.startswith(EXPRESSION):
        yield f"{EXPRESSION}.*{text.removeprefix(EXPRESSION)}"
        yield f"{EXPRESSION}{text.removeprefix(EXPRESSION)}.*"
        return
    if any(mark in text for mark in REGULAR):
        yield EXPRESSION + text
    leaves = _leaves(names)
    yield from _by_type(text, names, leaves)
    for respelt in (text, *_respelt(text, names)):
        yield respelt
        yield from (f"{respelt}.{leaf}" for leaf in leaves)
        if not respelt.startswith("*"):
            yield f"*.{respelt}"
            yield from (f"*.{respelt}.{leaf}" for leaf in leaves)
    yield from _without_root(text)
    if "*" in text and "@" not in text:
        yield text.replace("**", "*").replace("*", "**")


def _leaves(names: Sequence[Named]) -> list[str]:
    """The last names that occur, weights first, then by how often they occur."""
    counted: dict[str, int] = {}
    for name, _ in names:
        leaf = name.rpartition(".")[2]
        counted[leaf] = counted.get(leaf, 0) + 1
    return sorted(counted, key=lambda leaf: (leaf != "weight", -counted[leaf], leaf))[:4]


def _respelt(text: str, names: Sequence[Named]) -> Iterator[str]:
    """``text`` with each name, and each class after an ``@``, that does not occur replaced by one that does."""
    parts = text.split(".")
    known_names = {part for name, _ in names for part in name.split(".")}
    known_types = {kind for _, types in names for kind in types}
    for position, part in enumerate(parts):
        name, at, kind = part.partition("@")
        for better in _corrected(kind, known_types) if at else _corrected(name, known_names):
            yield ".".join((*parts[:position], f"{name}@{better}" if at else better, *parts[position + 1 :]))
    both = [_first(_corrected(part, known_names), part) for part in parts if "@" not in part]
    if len(both) == len(parts):
        yield ".".join(both)


def _corrected(word: str, known: Collection[str]) -> tuple[str, ...]:
    stars = word.strip("*")
    if not stars or WILD & set(stars) or stars in known or (stars != word and any(stars in name for name in known)):
        return ()
    return tuple(word.replace(stars, miss) for miss in near_misses(stars, known, limit=2))


def _first(options: tuple[str, ...], otherwise: str) -> str:
    return options[0] if options else otherwise


def _without_root(text: str) -> Iterator[str]:
    """``model.conv1.weight`` where the model's own names begin with ``conv1``."""
    rest = text
    while "." in rest:
        rest = rest.split(".", 1)[1]
        yield rest
        if not rest.startswith("*"):
            yield f"*.{rest}"


def _by_type(text: str, names: Sequence[Named], leaves: Sequence[str]) -> Iterator[str]:
    """``*.Conv2d.weight``, where Conv2d is a class and not a name."""
    known = {kind for _, types in names for kind in types}
    *path, leaf = text.split(".")
    for part in (*path, leaf):
        kind = part.strip("*")
        if kind in known:
            yield from (f"*@{kind}.{last}" for last in ([leaf] if part is not leaf else leaves))
