"""Near misses: what a mistyped word was probably meant to be."""

import difflib
from collections.abc import Iterable, Mapping

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
    come the candidates that differ only in case, then the close spellings, at most ``limit`` in all.

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
    meant = (aliases or {}).get(word)
    if meant is not None and meant in spellings.get(meant.lower(), ()):
        found.append(meant)
    for close in difflib.get_close_matches(lowered, spellings, n=limit + 1, cutoff=CLOSE_ENOUGH):
        found.extend(spellings[close])
    return tuple(name for name in dict.fromkeys(found) if name != word)[:limit]


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
