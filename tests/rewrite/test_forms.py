"""The forms that real code takes: what is written into them makes the model that applying the rules makes."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import pytest

from rewrite.rewriting import rewrite_source
from tests.rewrite.forms import FORMS
from tests.rewrite.fuzzed_forms import fuzzed
from tests.rewrite.running_forms import Rules, near, problems, true_names

SPEC = "interval(-2, 2)"
PATTERNS = ("*.weight", "*.conv*.weight", "*@Linear.weight", "*.0.weight", "*.bias", "net.*", "*.scale")
SEVERAL: tuple[Rules, ...] = (
    {"*.weight": SPEC, "*.conv*.weight": None},
    {"*": SPEC, "*@Linear.weight": "positive", "*.0.*": None},
)
TRIES = {"small": 1, "full": 60}
SEEDS = {"small": 30, "full": 2000}
PARTS = 10
WAYS: dict[str, list[tuple[tuple[str, ...], str]]] = {"small": [((), "auto"), (("Net",), "auto")]}
WAYS["full"] = [*WAYS["small"], (("Net",), "inline"), (("Net",), "class"), ((), "inline")]


def tried(name: str, size: str) -> Iterator[Rules]:
    """The rules for a form: those for all, its own, and some about the names that its model has."""
    form = FORMS[name]
    others = [*PATTERNS, *near(true_names(form.source))]
    chosen = random.Random(zlib.crc32(name.encode())).sample(others, min(len(others), TRIES[size]))
    for pattern in dict.fromkeys(("*", *form.patterns, *chosen)):
        yield one(pattern)
    yield from SEVERAL if size == "full" else [SEVERAL[len(name) % 2]]


def one(pattern: str) -> Rules:
    """A rule whose spec every tensor can take that the pattern matches."""
    return {pattern: "spectral" if "@Linear" in pattern else SPEC}


# code that is not given adds a module to one that it is given, and nothing in the files says so
UNSEEN = "filled elsewhere"


@pytest.mark.parametrize("name", [name for name in FORMS if name != UNSEEN])
def test_what_is_written_makes_the_model_that_rules_make(name: str, size: str):
    found = []
    for rules in tried(name, size):
        for roots, style in WAYS[size]:
            for problem in problems(FORMS[name].source, rules, roots, style):
                found.append(f"{dict(rules)} roots={roots} {style}: {problem}")
    assert found == []


@pytest.mark.xfail(strict=True, reason="docs/rewrite.md: what code of elsewhere puts into a module is not seen")
def test_what_is_put_into_a_module_elsewhere_is_not_seen():
    assert problems(FORMS[UNSEEN].source, {"*": SPEC}) == []


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_written_into_compositions_of_forms_makes_the_model_that_rules_make(part: int, size: str):
    found = []
    for seed in range(part, SEEDS[size], PARTS):
        source = fuzzed(seed)
        about = [*PATTERNS, *near(true_names(source))]
        for pattern in random.Random(seed).sample(about, min(len(about), 4 if size == "small" else 8)):
            for roots, style in WAYS["small"]:
                for problem in problems(source, one(pattern), roots, style):
                    found.append(f"seed {seed}, {pattern!r} roots={roots} {style}: {problem}")
    assert found == []


def test_a_style_that_can_write_nothing_says_so():
    outcome = rewrite_source(FORMS["two roots"].source, {"*.weight": SPEC}, style="class")
    assert not outcome.changed
    assert outcome.left
