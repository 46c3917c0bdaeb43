"""What an author probably meant by a pattern that matches nothing: every proposal is tried before it is made."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from surgery.rules.errors import PatternError
from surgery.rules.matching import Names
from surgery.rules.pattern import Pattern
from surgery.rules.repairs import as_expressions, is_hopeless, repaired
from surgery.rules.vocabulary import Vocabulary

PROPOSALS = 3
EXAMPLES = 3
LONGEST = 300  # of a text worth repairing
TRIES = 40  # each is matched against all names


def unmatched_text(pattern: Pattern, names: Names) -> str:
    """The end of the message about a pattern that matches none of ``names``."""
    buffers = names.matched(pattern, any_buffer=True)
    if buffers:
        first = names.all[buffers[0]].text
        leaf = first.rpartition(".")[2]
        return f"matches only buffers ({first}); a buffer is meant only where its last name is written, '*.{leaf}'"
    found = proposals(pattern.text, names)
    if found:
        texts = " or ".join(f"{text!r} ({count} name{'' if count == 1 else 's'})" for text, count in found)
        return f"matches none of {len(names)} names; did you mean {texts}?"
    examples = ", ".join(name.text for name in names.all[:EXAMPLES]) or "none at all"
    more = ", ..." if len(names) > EXAMPLES else ""
    return f"matches none of {len(names)} names; there are {examples}{more}"


def proposals(text: str, names: Names) -> list[tuple[str, int]]:
    """Patterns near to ``text`` that match some of ``names``, with the number of matches, the likeliest first.

    Of patterns that match the same names only the first is proposed; what needs two changes is proposed only where
    no one change helps.

    >>> from surgery.rules.matching import Name
    >>> proposals("*.conv*", Names([Name("stem.conv1.weight"), Name("stem.bn.weight")]))
    [('*.conv*.weight', 1)]
    """
    if len(text) > LONGEST:
        return []
    known = Vocabulary(names.all)
    once = list(dict.fromkeys(chain(repaired(text, known), as_expressions(text))))
    twice = chain.from_iterable(repaired(one, known) for one in once)
    return _matching(once, known, names) or _matching(_new(twice, {text, *once}), known, names)


def _new(texts: Iterable[str], seen: set[str]) -> Iterator[str]:
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def _matching(texts: Iterable[str], known: Vocabulary, names: Names) -> list[tuple[str, int]]:
    found: dict[tuple[int, ...], str] = {}
    for pattern in islice(_readable(texts, known), TRIES):
        rows = tuple(names.matched(pattern))
        if rows:
            found.setdefault(rows, pattern.text)
        if len(found) == PROPOSALS:
            break
    return [(text, len(rows)) for rows, text in found.items()]


def _readable(texts: Iterable[str], known: Vocabulary) -> Iterator[Pattern]:
    for text in texts:
        if is_hopeless(text, known):
            continue
        try:
            yield Pattern.parse(text)
        except PatternError:
            continue
