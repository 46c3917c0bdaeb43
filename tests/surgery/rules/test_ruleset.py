"""Sets of rules: what is read, what is refused, and that all problems come at once."""

from __future__ import annotations

import copy
import pickle
import re
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.rules.errors import RuleError
from surgery.rules.pattern import Pattern
from surgery.rules.ruleset import Rule, RuleSet


def a_factory(site: object) -> None:
    """Any callable is a factory."""


class AClass:
    """Any class is a constraint that is called without arguments."""


@pytest.mark.parametrize("spec", [None, "none", " none "])
def test_none_exempts(spec: object):
    (rule,) = RuleSet.parse({"*": spec}).rules
    assert rule.exempts
    assert not rule.freezes


@pytest.mark.parametrize("spec", ["frozen", " frozen\n"])
def test_frozen_freezes(spec: str):
    (rule,) = RuleSet.parse({"*": spec}).rules
    assert rule.freezes
    assert not rule.exempts


@pytest.mark.parametrize(
    "spec", ["spectral", "skew | spectral(bound=2.0)", "lora(8)", a_factory, AClass, AClass.__init__]
)
def test_other_specs_constrain(spec: object):
    (rule,) = RuleSet.parse({"*": spec}).rules
    assert rule.spec is spec
    assert not rule.exempts
    assert not rule.freezes


def test_rules_keep_their_order_whatever_form_they_come_in():
    pairs = [("*.weight", "spectral"), ("head.*", None), ("*.bias", "frozen")]
    expected = tuple(Rule(Pattern.parse(text), spec) for text, spec in pairs)
    for rules in (
        dict(pairs),
        OrderedDict(pairs),
        pairs,
        tuple(pairs),
        iter(pairs),
        map(list, pairs),
        dict(pairs).items(),
    ):
        assert RuleSet.parse(rules).rules == expected
    assert RuleSet.parse({}).rules == ()


def test_a_pattern_may_come_twice_in_pairs():
    assert [rule.spec for rule in RuleSet.parse([("*", "skew"), ("a", None), ("*", "frozen")]).rules] == [
        "skew",
        None,
        "frozen",
    ]


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ({"a..b": "skew"}, "rule 'a..b': 'skew': column 3 of the pattern: a name is empty; write a name or '*' there"),
        ({"": None}, "rule '': None: column 1 of the pattern: it is empty; write '*' for every parameter"),
        ({3: "skew"}, "rule 3: 'skew': a pattern is a text, got int; write a dotted name such as '*.weight'"),
        (
            {"*": "spectrall"},
            "rule '*': 'spectrall': unknown constraint 'spectrall', did you mean 'spectral'? (computed.catalogue()",
        ),
        ({"*": "weight_normalization"}, "unknown constraint 'weight_normalization', did you mean 'weight_norm'"),
        (
            {"*": "spectral(boundd=2)"},
            "rule '*': 'spectral(boundd=2)': spectral has no argument 'boundd', did you mean 'bound'?",
        ),
        ({"*": "lora"}, "rule '*': 'lora': lora needs rank; it is called as lora(rank"),
        ({"*": "symmetric(1)"}, "symmetric takes no arguments by position, got 1; it is called as symmetric()"),
        ({"*": "skew |"}, "rule '*': 'skew |': column 7 of the spec: nothing follows the last '|'"),
        ({"*": ""}, "rule '*': '': it is empty; a spec is a name"),
        ({"*": "None"}, "None is no name; to exempt a parameter write 'none'"),
        ({"*": "skew | none"}, "'none' is a spec of its own, not a constraint: it stands alone and without arguments"),
        (
            {"*": "frozen | skew"},
            "'frozen' is a spec of its own, not a constraint: it stands alone and without arguments",
        ),
        ({"*": "frozen()"}, "'frozen' is a spec of its own"),
        ({"*": 3}, "rule '*': 3: a value of type int is no spec; give a name such as 'spectral', a constraint class"),
        ({"*": False}, "rule '*': False: a value of type bool is no spec"),
        ({"*": ("skew", "spectral")}, "a value of type tuple is no spec"),
        (
            "*.weight",
            "rules are a mapping of patterns to specs, such as {'*.weight': 'spectral'}, or pairs of them, got '*",
        ),
        (None, "or pairs of them, got None"),
        ([("*", "skew", 3)], "or pairs of them, got ('*', 'skew', 3)"),
        (["*"], "or pairs of them, got '*'"),
    ],
)
def test_a_problem_says_which_rule_what_and_what_to_write(rules: object, problem: str):
    with pytest.raises(RuleError, match=re.escape(problem)) as caught:
        RuleSet.parse(rules)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 1


def test_all_problems_come_at_once_and_good_rules_are_read():
    rules = {"a..b": "spectrall | spectral(boundd=2)", "*.weight": "spectral", "[": "skew |", "*.bias": None}
    found, problems = RuleSet.read(rules)
    assert [rule.text for rule in found.rules] == ["*.weight", "*.bias"]
    assert len(problems) == 5
    for wanted in ("a name is empty", "'spectrall'", "'boundd'", "'[' is not closed", "nothing follows"):
        assert sum(wanted in problem for problem in problems) == 1
    with pytest.raises(RuleError, match=r"^5 problems in the rules:\n  rule 'a\.\.b': ") as caught:
        RuleSet.parse(rules)
    assert caught.value.problems == problems
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (str(caught.value), problems)


@given(
    st.dictionaries(
        st.text("*?[]{},.@ab\\"), st.one_of(st.text("spectral()|=, 2.'\"#\\\n"), st.none(), st.integers()), max_size=4
    )
)
def test_any_rules_are_read_or_have_problems(rules: dict[str, object]):
    found, problems = RuleSet.read(rules)
    assert len(found.rules) == len(rules) or problems
    assert {rule.text for rule in found.rules} <= set(rules)
    assert all(problem.startswith("rule ") for problem in problems)


def test_operations_are_refused_by_name():
    rules = RuleSet.parse({"*.weight@F.linear": "spectral", "*.weight": "skew", "*@aten.mm": None})
    first, second = rules.refused_operations("tree")
    assert first == (
        "rule '*.weight@F.linear': 'spectral': @F.linear is an operation, which only a graph knows, and the tree route "
        "has none; filter by the host's class, '*@Linear.weight', or pass via='fx'"
    )
    assert "@aten.mm is an operation" in second
    assert "the source route" in rules.refused_operations("source")[0]
    assert RuleSet.parse({"*@Linear.weight": "skew"}).refused_operations("tree") == ()


def test_messages_quote_rules_shortly():
    texts = [
        str(rule) for rule in RuleSet.parse({"a": "skew", "b": None, "c": AClass, "d": a_factory, "e": callable}).rules
    ]
    assert texts == ["'a': 'skew'", "'b': None", "'c': AClass", "'d': a_factory", "'e': callable"]


def test_rules_are_values():
    rules = RuleSet.parse({"*.weight": "spectral(bound=2)", "*.bias": None, "x": AClass})
    for other in (
        RuleSet.parse({"*.weight": "spectral(bound=2)", "*.bias": None, "x": AClass}),
        copy.deepcopy(rules),
        pickle.loads(pickle.dumps(rules)),
    ):
        assert other == rules
        assert hash(other) == hash(rules)
        assert other.rules[0].pattern.matches("a.weight")
    assert rules != RuleSet.parse({"*.weight": "spectral", "*.bias": None, "x": AClass})
