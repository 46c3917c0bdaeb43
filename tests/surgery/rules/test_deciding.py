"""Which rule decides: against a plain loop over all rules and names; and what is said of rules that change nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import pytest

from surgery.rules.deciding import Candidate, Decision, decide
from surgery.rules.pattern import Pattern
from surgery.rules.ruleset import RuleSet
from tests.surgery.rules.translation import pattern_for, random_name

CONV, LINEAR, NORM = ("Conv2d", "_ConvNd", "Module"), ("Linear", "Module"), ("BatchNorm2d", "_BatchNorm", "Module")


def candidate(*names: str, types: tuple[str, ...] = LINEAR, buffer: bool = False) -> Candidate:
    return Candidate(names, (types,) * len(names), buffer)


def by_a_loop(ruleset: RuleSet, candidates: Sequence[Candidate]) -> list[list[int]]:
    """For each candidate the rules that match it, one name and one rule after the other."""
    return [
        [
            index
            for index, rule in enumerate(ruleset.rules)
            if (rule.pattern.names_leaf or not each.buffer)
            and any(rule.pattern.matches(*pair) for pair in zip(each.names, each.host_types, strict=True))
        ]
        for each in candidates
    ]


def decided(rules: object, *candidates: Candidate) -> Decision:
    return decide(RuleSet.parse(rules), candidates)  # type: ignore[arg-type]


def test_the_last_rule_that_matches_decides():
    weights = [candidate("body.weight"), candidate("head.weight"), candidate("head.bias")]
    assert decided({"*.weight": "skew", "head.*": "frozen"}, *weights).winner == (0, 1, 1)
    assert decided({"head.*": "frozen", "*.weight": "skew"}, *weights).winner == (1, 1, 0)
    assert decided({"*.weight": "skew", "head.*": None}, *weights).winner == (0, 1, 1)
    assert decided({}, *weights) == Decision((None,) * 3, (), (), ())
    assert decided({"*": "skew"}).winner == ()


def test_the_last_rule_that_matches_any_name_of_a_tie_decides():
    tied = candidate("embed.weight", "head.weight")
    decision = decided({"head.*": "skew", "embed.*": "frozen", "body.*": None, "*.weight": "symmetric"}, tied)
    assert decision.winner == (3,)
    assert decided({"head.*": "skew", "embed.*": "frozen"}, tied).winner == (1,)
    assert decided({"embed.*": "skew", "head.*": "frozen"}, tied).winner == (1,)
    assert decided({"*": "skew"}, tied).matched == (1,), "one candidate, whatever the number of its names"


def test_each_name_of_a_tie_has_its_own_host():
    tied = Candidate(("embed.weight", "head.weight"), (("Embedding", "Module"), LINEAR))
    assert decided({"*@Linear.weight": "skew"}, tied).winner == (0,)
    assert decided({"embed@Linear.weight": "skew"}, tied).winner == (None,)
    assert decided({"embed@Embedding.weight": "skew"}, tied).winner == (0,)


def test_a_buffer_is_decided_only_where_its_last_name_is_written_out():
    buffer = candidate("bn.running_mean", types=NORM, buffer=True)
    for text in ("*.running_mean", "bn.running_mean", "*@BatchNorm2d.running_mean", "*.{weight,running_mean}"):
        assert decided({text: "positive"}, buffer).winner == (0,), text
    for text in ("*", "bn.*", "*.running_*", "*@BatchNorm2d.*", "re:.*running_mean"):
        decision = decided({text: "positive"}, buffer)
        assert decision.winner == (None,), text
        assert decision.hints == (
            f"rule {text!r}: 'positive' matches only buffers (bn.running_mean); a buffer is meant only where its last "
            "name is written, '*.running_mean'",
        )


def test_a_rule_about_an_operation_decides_nothing_here():
    decision = decided({"*.weight@F.linear": "skew"}, candidate("a.weight"))
    assert decision.winner == (None,)
    assert decision.hints == ()  # it is refused by name: `refused_operations`


def test_a_rule_that_later_ones_win_over_is_shadowed():
    decision = decided(
        {"a.*": "skew", "*.bias": "frozen", "*.weight": "symmetric", "b.*": "positive"},
        candidate("a.weight"),
        candidate("a.bias"),
        candidate("b.weight"),
    )
    assert (decision.matched, decision.won) == ((2, 1, 2, 1), (0, 1, 1, 1))
    assert decision.shadowed == (0,)
    assert decision.unmatched == ()
    assert decision.hints == (
        "rule 'a.*': 'skew' is shadowed entirely by later rules ('*.bias', '*.weight'); put it behind them, or remove "
        "it",
    )


def test_an_exemption_of_what_no_earlier_rule_takes_changes_nothing():
    weights = [candidate("a.weight"), candidate("head.weight")]
    told = "exempts what no earlier rule takes; put it behind the rule it is an exception of"
    for rules in ({"head.*": None}, {"head.*": "none", "a.*": "skew"}, {"a.*": "skew", "head.*": None}):
        assert decided(rules, *weights).hints == (f"rule 'head.*': {rules['head.*']!r} {told}",)
    assert decided({"head.*": None, "*": "skew"}, *weights).shadowed == (0,)
    assert decided({"*": "skew", "head.*": None}, *weights).hints == ()
    assert decided({"*": "frozen", "head.*": None}, *weights).hints == ()
    (hint,) = decided({"*": "skew", "head.*": None, "head.weight": None}, *weights).hints
    assert "rule 'head.*': None is shadowed entirely by later rules ('head.weight')" in hint


def test_random_rules_decide_as_a_loop_does(size: str):
    draw = random.Random(5)
    exempting = 0
    for _ in range(60 if size == "small" else 1_000):
        candidates = [
            Candidate(
                names := tuple(random_name(draw) for _ in range(draw.choice((1, 1, 1, 2, 3)))),
                tuple(draw.choice((CONV, LINEAR, NORM)) for _ in names),
                draw.random() < 0.2,
            )
            for _ in range(30)
        ]
        texts = [pattern_for(draw, draw.choice(candidates).names[0]) for _ in range(6)]
        texts += [
            draw.choice(("*@Conv2d.*", "*@Linear.weight", "re:.*weight", "*@{_BatchNorm,Conv2d}.bias", "*", "*.weight"))
        ]
        ruleset = RuleSet.parse(
            (text, draw.choice(("skew", "frozen", None))) for text in draw.sample(texts, len(texts))
        )
        decision, rows = decide(ruleset, candidates), by_a_loop(ruleset, candidates)
        every = range(len(texts))
        assert decision.winner == tuple(row[-1] if row else None for row in rows)
        assert decision.matched == tuple(sum(index in row for row in rows) for index in every)
        assert decision.won == tuple(sum(row[-1:] == [index] for row in rows) for index in every)
        idle = [index for index in every if changes_nothing(index, ruleset, rows)]
        assert [
            hint.partition(" ")[2].startswith(str(ruleset.rules[index]))
            for index, hint in zip(idle, decision.hints, strict=True)
        ] == [True] * len(idle)
        exempting += sum(ruleset.rules[index].exempts and decision.won[index] > 0 for index in idle)
    assert exempting


def changes_nothing(index: int, ruleset: RuleSet, rows: Sequence[Sequence[int]]) -> bool:
    """Whether every candidate ends as it would without the rule, or as it did before the rules behind it."""
    won = [row for row in rows if row[-1:] == [index]]
    if not ruleset.rules[index].exempts:
        return not won
    return not any(not ruleset.rules[earlier].exempts for row in won for earlier in row[:-1])


def test_twenty_rules_over_a_large_model(size: str, evidence: Callable[[str, str], None]):
    blocks = 60 if size == "small" else 1_250
    kinds = {"self_attn.q_proj": LINEAR, "self_attn.k_proj": LINEAR, "self_attn.v_proj": LINEAR, "out_proj": LINEAR}
    kinds |= {"mlp.fc1": LINEAR, "mlp.fc2": LINEAR, "norm1": NORM, "conv": CONV}
    candidates = [
        candidate(f"model.encoder.layers.{block}.{name}.{leaf}", types=types)
        for block in range(blocks)
        for name, types in kinds.items()
        for leaf in ("weight", "bias")
    ]
    rules = [("*", "frozen"), *((f"*.layers.{block}.*.weight", "skew") for block in range(8))]
    rules += [("*.fc?.weight", "skew"), ("*.{q,v}_proj.weight", "lora(8)"), ("*@Conv2d.weight", "skew")]
    rules += [
        ("re:.*norm\\d\\.weight", "positive"),
        ("*.self_attn.*.bias", None),
        ("model.encoder.*.out_proj.*", "skew"),
    ]
    rules += [("*@{Conv1d,BatchNorm*}.bias", "none"), ("*.layers.1?.*.weight", "skew"), ("m**bias", "frozen")]
    rules += [("*.self_atn.*", "skew"), ("encoder.*", "skew")]
    assert len(rules) == 20
    ruleset = RuleSet.parse(rules)
    begin = time.perf_counter()
    decision = decide(ruleset, candidates)
    seconds = time.perf_counter() - begin
    assert decision.winner == tuple(row[-1] if row else None for row in by_a_loop(ruleset, candidates))
    assert decision.unmatched == (18, 19)
    evidence(
        f"20 rules, two of them with near misses, are decided over {len(candidates)} parameters", f"{seconds:.2f} s"
    )


def test_names_and_types_must_agree_in_number():
    with pytest.raises(ValueError, match="zip"):
        decided({"*": "skew"}, Candidate(("a", "b"), (LINEAR,)))


def test_names_that_no_model_has_are_no_trouble():
    odd = [
        candidate("."),
        candidate(".x"),
        candidate(""),
        candidate("a..b"),
        candidate("x." * 5_000 + "weight"),
        candidate("ä.\n"),
    ]
    ruleset = RuleSet.parse(dict.fromkeys(("**", "*", "*.weight", "a.*", "?.*", "re:x?", "x"), "skew"))
    rows = by_a_loop(ruleset, odd)
    assert decide(ruleset, odd).winner == tuple(row[-1] if row else None for row in rows)
    assert Pattern.parse("*.weight").matches("x." * 5_000 + "weight")
