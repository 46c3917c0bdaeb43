"""Near misses: what a mistyped word was probably meant to be."""

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

CLOSE_ENOUGH = 0.6


def near_misses(
    word: str,
    candidates: Iterable[str],
    aliases: Mapping[str, str] | None = None,
    *,
    limit: int = 3,
) -> tuple[str, ...]:
    """The candidates closest to ``word``, the best one first; none where nothing is close.

    A word that ``aliases`` knows under another name gives that name first (where it is a candidate), then
    come the candidates that differ only in case, then the close spellings, at most ``limit`` in all; what is
    equally close keeps its order.

    >>> near_misses("spectrall", ["spectral", "symmetric", "skew"])
    ('spectral',)
    >>> near_misses("r", ["rank", "alpha"], {"r": "rank"})
    ('rank',)
    """
    spellings: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(candidates):
        spellings.setdefault(candidate.lower(), []).append(candidate)
    lowered = word.lower()
    found: list[str] = []
    others = dict(aliases or {})
    meant = others.get(word) or {alias.lower(): name for alias, name in others.items()}.get(lowered)
    if meant is not None and meant in spellings.get(meant.lower(), ()):
        found.append(meant)
    for close in _close(lowered, spellings):
        found.extend(spellings[close])
    return tuple(name for name in dict.fromkeys(found) if name != word)[:limit]


def _close(word: str, spellings: Iterable[str]) -> list[str]:
    """The closest first; those that are as close as each other in the order that they have."""
    matcher = SequenceMatcher(b=word)
    ratios: dict[str, float] = {}
    for spelling in spellings:
        matcher.set_seq1(spelling)
        bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)  # each a tighter one
        if all(bound() >= CLOSE_ENOUGH for bound in bounds):
            ratios[spelling] = matcher.ratio()
    return sorted(ratios, key=lambda spelling: -ratios[spelling])


def did_you_mean(misses: Iterable[str]) -> str:
    """The end of a message: ``, did you mean 'a' or 'b'?``, or nothing where there are no near misses.

    >>> did_you_mean(["rank"])
    ", did you mean 'rank'?"
    """
    quoted = [repr(miss) for miss in misses]
    if not quoted:
        return ""
    choice = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
    return f", did you mean {choice}?"
