"""Near misses, and the end of a message that offers them."""

from __future__ import annotations

from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from computed.nearmiss import CLOSE_ENOUGH, did_you_mean, near_misses

NAMES = ["spectral", "symmetric", "skew", "orthogonal", "positive", "weight_norm", "unit_norm"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("spectrall", ("spectral",)),
        ("Spectral", ("spectral",)),
        ("spetral", ("spectral",)),
        ("ortogonal", ("orthogonal",)),
        ("weightnorm", ("weight_norm",)),
        ("norm", ("unit_norm",)),
        ("skew", ()),  # what is right has no near misses of its own spelling
        ("qqq", ()),
        ("", ()),
        ("x" * 10_000, ()),
    ],
)
def test_near_misses_of_names(word: str, expected: tuple[str, ...]):
    assert near_misses(word, NAMES)[: len(expected) or None] == expected


def test_what_others_call_it_comes_first():
    others = {"sn": "spectral", "softplus": "positive", "gone": "not there", "symmetrical": "skew"}
    assert near_misses("sn", NAMES, others) == ("spectral",)
    assert near_misses("Softplus", NAMES, others) == ("positive",)
    assert near_misses("gone", NAMES, others) == (), "a name that is no candidate is not offered"
    assert near_misses("symmetrical", NAMES, others)[:2] == ("skew", "symmetric")
    assert near_misses("R", ["radius", "rank"], {"R": "radius", "r": "rank"}) == ("radius",)


def test_case_comes_before_spelling_and_ties_keep_their_order():
    assert near_misses("SKEW", ["skewer", "Skew", "skew"]) == ("Skew", "skew", "skewer")
    assert near_misses("conv", ["conv2", "conv1", "conv3", "conv4"]) == ("conv2", "conv1", "conv3")
    assert near_misses("conv", ["conv1", "conv2"], limit=1) == ("conv1",)
    assert near_misses("conv", ["conv1", "conv1"]) == ("conv1",)


@given(st.text("abcAB_", max_size=6), st.lists(st.text("abcAB_", max_size=6), max_size=8), st.integers(0, 5))
def test_near_misses_are_close_and_in_order(word: str, candidates: list[str], limit: int):
    found = near_misses(word, candidates, limit=limit)
    assert len(found) == len(set(found)) <= limit
    assert set(found) <= set(candidates) - {word}
    ratios = [SequenceMatcher(None, candidate.lower(), word.lower()).ratio() for candidate in found]
    assert ratios == sorted(ratios, reverse=True)
    assert all(ratio >= CLOSE_ENOUGH for ratio in ratios)
    left = {candidate for candidate in candidates if candidate not in found and candidate != word}
    if len(found) < limit:
        assert all(SequenceMatcher(None, other.lower(), word.lower()).ratio() < CLOSE_ENOUGH for other in left)


def test_a_message_offers_what_there_is():
    assert did_you_mean([]) == ""
    assert did_you_mean(["a"]) == ", did you mean 'a'?"
    assert did_you_mean(["a", "b"]) == ", did you mean 'a' or 'b'?"
    assert did_you_mean(iter(["a", "b", "c"])) == ", did you mean 'a', 'b' or 'c'?"
