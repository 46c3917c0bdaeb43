"""A pattern followed along names known in part says of all these names what it says of each: tried one by one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from rewrite.following import Verdict, follower
from rewrite.items import INDEX, SOME_NAME, Name, Part, Path, literal, text_of
from surgery.rules.pattern import Pattern

PIECES = ("*", "**", "?", "conv", "fc", "1", "weight", "layers", "{a,b}", "[0-9]", "conv*", "*_proj", "0")
NAMES = ("conv", "conv1", "fc", "0", "12", "weight", "q_proj", "layers", "a", "x")
STAND_FOR = {Part.DIGITS: ("0", "7", "12"), Part.IN_NAME: ("", "x", "conv", "1"), Part.ANYTHING: ("", "x", "a.b", "0.")}
PREFIXES = ("", "x.", "layers.0.", "conv1.", "a.b.c.", "0.", "fc.weight.")


def drawn_pattern(random_: random.Random) -> str:
    return ".".join(random_.choice(PIECES) for _ in range(random_.randint(1, 4)))


def drawn_path(random_: random.Random) -> Path:
    def name() -> Name:
        kind = random_.random()
        if kind < 0.6:
            return literal(random_.choice(NAMES))
        return random_.choice((INDEX, SOME_NAME, ("conv", Part.DIGITS), (Part.IN_NAME, "_proj"), ("l", Part.IN_NAME)))

    return tuple(name() for _ in range(random_.randint(1, 3)))


def instances(path: Path) -> list[str]:
    """Some of the texts that a path stands for."""
    every = [
        [
            "".join(parts)
            for parts in itertools.product(*((part,) if isinstance(part, str) else STAND_FOR[part] for part in name))
        ]
        for name in path
    ]
    return [".".join(names) for names in itertools.product(*every) if all(names)]


def contradiction(text: str, path: Path, *, anywhere: bool) -> str | None:
    pattern = Pattern.parse(text)
    follow = follower(pattern)
    begin = follow.anywhere if anywhere else follow.start
    verdict = follow.verdict(follow.along(begin, path, inside=False))
    names = [before + name for before in (PREFIXES if anywhere else ("",)) for name in instances(path)]
    matched = {pattern.matches(name) for name in names}
    if verdict is Verdict.ALL and matched != {True}:
        return f"{text} ALL of {text_of(path)}"
    if verdict is Verdict.NONE and matched != {False}:
        return f"{text} NONE of {text_of(path)}"
    return None


def test_no_verdict_contradicts_a_name(size: str, evidence: Callable[[str, str], None]):
    random_ = random.Random(5)
    pairs = 40_000 if size == "full" else 3_000
    wrong, decided = [], 0
    for _ in range(pairs):
        text, path, anywhere = drawn_pattern(random_), drawn_path(random_), random_.random() < 0.5
        found = contradiction(text, path, anywhere=anywhere)
        wrong += [found] if found else []
        follow = follower(Pattern.parse(text))
        decided += follow.verdict(follow.along(follow.anywhere, path, inside=False)) is not Verdict.SOME
    assert wrong == []
    assert 0.1 < decided / pairs < 0.9
    evidence("verdicts about names known in part, tried on names", f"{pairs} pairs of pattern and path, 0 wrong")


def test_where_some_match_a_verdict_says_so():
    """SOME is no excuse: each way is found among the names."""
    for text, path in (("*.0.weight", (INDEX, literal("weight"))), ("conv?.weight", (SOME_NAME, literal("weight")))):
        follow = follower(Pattern.parse(text))
        assert follow.verdict(follow.along(follow.start, path, inside=False)) is Verdict.SOME


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("re:fc\\.weight", (literal("fc"), literal("weight")), Verdict.ALL),
        ("re:.*bias", (literal("fc"), literal("weight")), Verdict.NONE),
        ("re:\\d+\\.weight", (INDEX, literal("weight")), Verdict.SOME),
    ],
)
def test_a_regular_expression_is_decided_where_the_names_are_known(text: str, path: Path, expected: Verdict):
    follow = follower(Pattern.parse(text))
    assert follow.verdict(follow.along(follow.start, path, inside=False)) is expected
    assert follow.verdict(follow.along(follow.anywhere, path, inside=False)) is Verdict.SOME


def test_a_wrong_verdict_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rewrite.following.ByStates.verdict", lambda self, reached: Verdict.ALL)
    assert contradiction("*.fc.weight", (literal("conv"), literal("weight")), anywhere=False)
