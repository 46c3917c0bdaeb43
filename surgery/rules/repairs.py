"""What is commonly wrong with a pattern that matches nothing, each as a small change of its text."""

import re
from collections.abc import Iterator

from surgery.rules.pattern import EXPRESSION
from surgery.rules.vocabulary import Vocabulary, words

REGULAR = re.compile(r"\.[*+]|[|^$+()]")
REPEATED_GROUP = re.compile(r"\)[*+{]")  # it may take forever to fail
FEW_REPEATS = 3
LONE_STAR = re.compile(r"(?<!\*)\*(?!\*)")


def repaired(text: str, known: Vocabulary) -> Iterator[str]:
    """Patterns that are one change away from ``text``, the likeliest change first."""
    if text.startswith(EXPRESSION):
        return
    yield from _by_type(text, known)
    yield from _respelt(text, known)
    yield from _with_leaf(text, known)
    yield from _from_anywhere(text)
    yield from _with_names_between(text)
    yield from _without_root(text)
    yield from _across_dots(text)


def as_expressions(text: str) -> Iterator[str]:
    """``layer(1|2).weight``, or ``re:query``: a regular expression, or one that was meant to be searched for."""
    if REPEATED_GROUP.search(text):
        return
    if text.startswith(EXPRESSION):
        yield from _wider(text.removeprefix(EXPRESSION))
    elif REGULAR.search(text) and len(re.findall("[*+]", text)) <= FEW_REPEATS:
        yield EXPRESSION + text


def is_hopeless(text: str, known: Vocabulary) -> bool:
    """Whether ``text`` has a word that no name and no class has; a choice in braces may have some."""
    if text.startswith(EXPRESSION) or "{" in text:
        return False
    return not all(map(known.knows, words(text)))


def _wider(expression: str) -> Iterator[str]:
    before, after = ("" if expression.startswith(".*") else ".*"), ("" if expression.endswith(".*") else ".*")
    inner = expression.removeprefix("^").removesuffix("$")
    yield f"{EXPRESSION}{before}{expression.removeprefix('^')}"
    yield f"{EXPRESSION}{expression.removesuffix('$')}{after}"
    yield f"{EXPRESSION}{before}{inner}{after}"


def _respelt(text: str, known: Vocabulary) -> Iterator[str]:
    """``*.atention.*``, ``*.conv.weight``: all that is unknown corrected at once, then a word at a time."""
    unknown = [(word, near) for word in words(text) if not known.knows(word) and (near := known.meant(word))]
    whole = text
    for word, near in reversed(unknown):
        whole = whole[: word.begin] + near[0] + whole[word.end :]
    if unknown:
        yield whole
    for word, near in unknown:
        yield from (text[: word.begin] + other + text[word.end :] for other in near)


def _by_type(text: str, known: Vocabulary) -> Iterator[str]:
    """``*.Conv2d.weight``, where Conv2d is a class and no name."""
    if "@" in text:
        return
    parts = text.split(".")
    for position, part in list(enumerate(parts))[-2:]:
        kind = part.lstrip("*")
        if not (kind[:1].isupper() or kind.strip("*") in known.lowered_types):
            continue
        leaves = parts[position + 1 :] or known.leaves
        path = ".".join(parts[:position]) or "*"
        paths = (path,) if path.endswith("*") else (path, f"{path}.*")
        for other in dict.fromkeys((kind, part, *known.near(kind, known.types))):
            yield from (f"{begin}@{other}.{leaf}" for begin in paths for leaf in leaves)


def _with_leaf(text: str, known: Vocabulary) -> Iterator[str]:
    """``*.conv*``, which stands for modules."""
    if text.rpartition(".")[2] not in known.leaves:
        yield from (f"{text}.{leaf}" for leaf in known.leaves)
        yield f"{text}.*"


def _from_anywhere(text: str) -> Iterator[str]:
    """``weight``, where names have something before it."""
    if not text.startswith("*"):
        yield f"*.{text}"


def _without_root(text: str) -> Iterator[str]:
    """``model.conv1.weight``, where names begin with ``conv1``; what is left must still say which module."""
    _, _, rest = text.partition(".")
    if "." in rest and re.search(r"\w", rest.partition(".")[0]):
        yield rest


def _with_names_between(text: str) -> Iterator[str]:
    """``encoder.0.weight``, where names say ``encoder.layers.0.weight``."""
    for dot in re.finditer(r"[.@]", text):
        before, mark, after = text[: dot.start()], dot.group(), text[dot.end() :]
        if not (before.endswith("*") or (after.startswith("*") and mark == ".")):
            yield f"{before}.*{mark}{after}"


def _across_dots(text: str) -> Iterator[str]:
    """``encoder*weight``: in a shell's patterns a star takes dots."""
    parts = text.split(".")
    changed = [part if part == "*" or "@" in part else LONE_STAR.sub("**", part) for part in parts]
    if changed != parts:
        yield ".".join(changed)
