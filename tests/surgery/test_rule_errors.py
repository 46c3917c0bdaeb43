"""All that is wrong with a set of rules is told at once, before anything changes: who, what it got, what to do."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint, Preimage
from computed.constraints.spectral import Spectral
from computed.errors import ConstraintRefusedError
from computed.site import Site
from tests.surgery.models import Listed, ResNet, TiedLM
from tests.surgery.picture import differences, picture

Rules = dict[object, object]


def problems_of(model: nn.Module, rules: object, **options: object) -> tuple[str, ...]:
    """The problems, told by the plan and by the error of an apply, which leaves the model as it was."""
    before = picture(model)
    plan = surgery.plan(model, rules, **options)
    for attempt in (plan.apply, lambda: surgery.apply_constraints(model, rules, **options)):
        with pytest.raises(surgery.PlanError, match=r"^\d+ problems?, nothing was changed:") as raised:
            attempt()
        assert raised.value.problems == plan.problems
    assert differences(before, picture(model)) == []
    return plan.problems


class Mixed(nn.Module):
    """Weights of many kinds, one of them an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.codes = nn.Parameter(torch.arange(6), requires_grad=False)
        self.fc = nn.Linear(4, 2)
        self.head = nn.Linear(2, 2)


ALL_WRONG: Rules = {
    "*.conv1*": "spectral",  # a module, not a parameter
    "norm.weight": "spectral",  # one dimension
    "codes": "positive",  # integers
    "fc.weight": "spectrall",  # a word
    "fc.bias": "interval(low=1)",  # an argument is missing
    "head.bias": "greater_than(bound='x')",  # an argument of a wrong kind
    "head.w*": "orthogonal",  # entirely shadowed
    "head.weight": "symmetric",
    "*.weight@F.linear": "spectral",  # needs a graph
    "fc..weight": "spectral",  # no pattern
}


def test_one_error_tells_everything_that_is_wrong():
    problems = problems_of(Mixed(), ALL_WRONG)
    expected = [
        r"^rule 'fc\.weight': 'spectrall': unknown constraint 'spectrall', did you mean 'spectral'\? \(computed\.",
        r"^rule 'fc\.bias': 'interval\(low=1\)': .*interval needs high; it is called as interval\(low, high\)",
        r"^rule 'fc\.\.weight': 'spectral': column 4 of the pattern: a name is empty; write a name or",
        r"^rule '\*\.weight@F\.linear': 'spectral': @F\.linear is an operation, which only a graph knows, and",
        r"^rule 'head\.bias': \"greater_than\(bound='x'\)\": must be real number, not str",
        r"^norm\.weight \(LayerNorm\), rule 'norm\.weight': 'spectral': spectral needs 2 or more dimensions, got shape",
        r"^codes \(Mixed\), rule 'codes': 'positive': has dtype int64; only float tensors of 16 bits or more can be",
        r"^rule '\*\.conv1\*': 'spectral' matches none of \d+ names; did you mean '\*\.conv1\*\.weight' \(1 name\)",
        r"^rule 'head\.w\*': 'orthogonal' is shadowed entirely by later rules \('head\.weight'\); put it behind them",
    ]
    for pattern in expected:
        assert [text for text in problems if re.search(pattern, text)], (pattern, problems)
    assert len(problems) == len(expected)


def test_the_error_lists_and_counts_and_is_pickled():
    with pytest.raises(surgery.PlanError, match=r"^1 problem, nothing was changed:\n  - rule 'nope'") as raised:
        surgery.apply_constraints(nn.Linear(2, 2), {"nope": "spectral"})
    error = raised.value
    assert isinstance(error, surgery.SurgeryError)
    assert isinstance(error, ValueError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems) == (str(error), error.problems)
    assert str(surgery.PlanError(["a", "b"])) == "2 problems, nothing was changed:\n  - a\n  - b"


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("stem", r"did you mean 'stem\.weight' \(1 name\)"),
        ("*.conv1", r"did you mean '\*\.conv1\.weight' \(2 names\)"),
        ("*.Conv2d.weight", r"did you mean '\*@Conv2d\.weight' \(5 names\)"),
        ("model.stem.weight", r"did you mean 'stem\.weight' \(1 name\)"),
        ("haed.weight", r"did you mean 'head\.weight' \(1 name\)"),
        (
            "*.running_*",
            r"matches only buffers \(blocks\.0\.bn1\.running_mean\); a buffer is meant only where its last",
        ),
        ("zzz", r"rule 'zzz': 'spectral' matches none of \d+ names"),
    ],
)
def test_a_rule_that_matches_nothing_proposes_what_was_meant(rule: str, hint: str):
    (problem,) = problems_of(ResNet(), {rule: "spectral"})
    assert re.search(hint, problem), problem
    assert problem.startswith(f"rule {rule!r}: 'spectral' matches")
    for text in re.findall(r"'([^']+)' \(\d+ names?\)", problem):
        assert surgery.plan(ResNet(), {text: "positive"}).ok, text


@pytest.mark.parametrize(
    ("rules", "hint"),
    [
        (
            {"head.weight": "spectral", "head.*": "frozen"},
            r"rule 'head\.weight': 'spectral' is shadowed entirely by later rules \('head\.\*'\)",
        ),
        (
            {"head.weight": "spectral", "*.weight": "positive", "*": None},
            r"rule 'head\.weight': .* by later rules \('\*'\); put it behind",
        ),
        (
            {"head.weight": None},
            r"rule 'head\.weight': None exempts what no earlier rule takes; put it behind the rule it is",
        ),
        ({"head.weight": "none"}, r"rule 'head\.weight': 'none' exempts what no earlier rule takes"),
        ({"head.weight": None, "*.weight": "frozen"}, r"rule 'head\.weight': None is shadowed entirely"),
    ],
)
def test_a_rule_that_decides_nothing_is_told(rules: Rules, hint: str):
    problems = problems_of(ResNet(), rules)
    assert any(re.search(hint, problem) for problem in problems), problems


def test_a_rule_that_is_shadowed_on_a_tied_name_only_is_told():
    (problem,) = problems_of(TiedLM(), {"embedding.weight": "spectral", "head.weight": "orthogonal"})
    assert re.search(
        r"rule 'embedding\.weight': 'spectral' is shadowed entirely by later rules \('head\.weight'\)", problem
    )


def test_strict_false_makes_notes_of_what_changes_nothing_and_of_nothing_else():
    plan = surgery.plan(Mixed(), ALL_WRONG, strict=False)
    assert len(plan.notes) == 2
    assert any("'*.conv1*'" in note for note in plan.notes)
    assert any("'head.w*'" in note for note in plan.notes)
    assert len(plan.problems) == 7
    assert "note: rule '*.conv1*'" in str(plan)
    harmless = {"*.conv1*": "spectral", "head.w*": "orthogonal", "head.weight": "symmetric", "fc.bias": None}
    model = surgery.apply_constraints(Mixed(), harmless, strict=False)
    assert list(surgery.computed_parameters(model)) == ["head.weight"]
    assert len(problems_of(Mixed(), harmless)) == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "spectral(bound=-1)",
            r"rule '\*\.weight': 'spectral\(bound=-1\)': spectral needs a positive finite bound, got -1",
        ),
        ("spectral(norm=1, bound=2)", r"spectral takes norm or bound, got norm=1 and bound=2"),
        ("lora(0)", r"lora needs a rank of 1 or more, got 0"),
        ("lora(rank=2.5)", r"lora: rank must be a whole number, got 2\.5"),
        ("lora", r"lora needs rank; it is called as lora\(rank"),
        ("lora(r=8)", r"lora has no argument 'r', did you mean 'rank'\?"),
        ("interval(2, 1)", r"rule '\*\.weight': 'interval\(2, 1\)': .*low"),
        ("spectral(1, 2)", r"spectral takes 1 argument by position, got 2"),
        ("symmetric | nope", r"unknown constraint 'nope'"),
        ("symmetric |", r"nothing follows the last '\|'"),
        ("spectral_norm", r"unknown constraint 'spectral_norm', did you mean 'spectral'"),
        ("", r"it is empty; a spec is a name"),
        ("__import__('os')", r"unknown constraint '__import__'"),
        ("frozen | spectral", r"'frozen' is a spec of its own"),
    ],
)
def test_a_bad_spec_is_told_once_whatever_it_matches(spec: str, message: str):
    (problem,) = problems_of(ResNet(), {"*.weight": spec})
    assert re.search(message, problem), problem
    assert problem.startswith("rule '*.weight': ")
    problems = problems_of(ResNet(), {"*.weight": spec, "stem.weight": "spectral(eps=-2)"})
    assert len([text for text in problems if "eps, got -2" in text]) == 1


def weight(value: Tensor) -> nn.Module:
    """A module that has nothing but a weight."""
    return nn.ParameterDict({"weight": value})


CANNOT_TAKE = [
    ((3, 2), "symmetric", r"symmetric needs square matrices, got shape \(3, 2\); exempt it with 'weight': None"),
    ((2,), "orthogonal", r"orthogonal needs 2 or more dimensions, got shape \(2,\); exempt it with 'weight': None"),
    (
        (4, 2, 3),
        "spectral",
        r"does not know how ParameterDict uses .* give dim=0 to read it as a matrix \(4, 6\), dim=1",
    ),
    ((3, 2), "spectral(dim=5)", r"spectral was given dim=5, but shape \(3, 2\) has dimensions 0 to 1"),
    ((0, 3), "spectral", r"spectral needs a weight with entries, got shape \(0, 3\)"),
    ((3, 2), 3, r"rule 'weight': 3: a value of type int is no spec; give a name such as 'spectral', a constraint"),
    ((3, 2), ("spectral",), r"rule 'weight': tuple: a value of type tuple is no spec"),
    ((3, 2), nn.Linear, r"Linear cannot be made without arguments"),
]


@pytest.mark.parametrize(("shape", "spec", "message"), CANNOT_TAKE)
def test_what_a_constraint_cannot_take_is_told(shape: tuple[int, ...], spec: object, message: str):
    (problem,) = problems_of(weight(torch.randn(shape)), {"weight": spec})
    assert re.search(message, problem), problem


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.int32, torch.bool])
def test_dtypes_that_cannot_be_computed_are_told(dtype: torch.dtype):
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(3, 2).to(dtype), requires_grad=False)
    (problem,) = problems_of(model, {"weight": "positive"})
    written = str(dtype).removeprefix("torch.")
    assert problem.endswith(f"has dtype {written}; only float tensors of 16 bits or more can be computed")


def test_a_pattern_is_a_text():
    (problem,) = problems_of(nn.Linear(3, 2), {3: "spectral"})
    assert problem.startswith("rule 3: 'spectral': a pattern is a text, got int; write a dotted name")


@pytest.mark.parametrize("rules", ["spectral", 3, None, ["spectral"], {"weight"}])
def test_rules_are_a_mapping_or_pairs(rules: object):
    with pytest.raises((surgery.SurgeryError, ValueError, TypeError), match=r"rules|pattern|unpack|iterable"):
        surgery.apply_constraints(nn.Linear(2, 2), rules)


def test_pairs_are_read_in_their_order():
    model = nn.Linear(2, 2)
    surgery.apply_constraints(model, [("*", "frozen"), ("weight", "symmetric")])
    assert (model.bias.requires_grad, model.weight.spec) == (False, "symmetric")
    surgery.undo(model)
    surgery.apply_constraints(model, iter([("weight", "symmetric")]))
    assert model.weight.spec == "symmetric"


def test_the_same_trouble_at_many_sites_is_one_text_with_an_exemption_that_works():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(3) for _ in range(9)])
            self.fc = nn.Linear(3, 3)
            self.batch = nn.BatchNorm1d(3)

    problems = problems_of(Net(), {"*.weight": "spectral"})
    assert len(problems) == 2
    assert problems[0] == (
        "norms.0.weight, norms.1.weight, norms.2.weight and 6 more (LayerNorm), rule '*.weight': 'spectral': "
        "spectral needs 2 or more dimensions, got shape (3,); exempt it with '*@LayerNorm.weight': None"
    )
    exemptions = re.findall(r"exempt it with '([^']+)': None", "".join(problems))
    assert exemptions == ["*@LayerNorm.weight", "batch.weight"]
    assert surgery.plan(Net(), {"*.weight": "spectral", **dict.fromkeys(exemptions)}).ok


def test_every_reason_of_one_site_is_told():
    model = nn.Embedding(4, 4, max_norm=1.0, sparse=True)
    problems = problems_of(model, {"weight": "interval(0, 1)"})
    assert len(problems) == 2
    assert any("max_norm=1.0" in text for text in problems)
    assert any("sparse=True" in text for text in problems)


class Refusing(Constraint):
    """Refuses in `why_not` what has an even number of rows, and raises in `right_inverse` for five."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw

    def right_inverse(self, value: Tensor) -> Preimage:
        if value.shape[0] == 5:
            raise ConstraintRefusedError("five rows are too many")
        if value.shape[0] == 7:
            raise ZeroDivisionError("a bug")
        return Preimage((value,))

    def violation(self, value: Tensor, raws: object) -> float:
        return 0.0

    def why_not(self, site: Site) -> str | None:
        return None if site.shape is None or site.shape[0] % 2 else "has an even number of rows"


def test_a_constraint_of_ones_own_tells_its_reasons():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5), nn.Linear(5, 3))
    problems = problems_of(model, {"*.weight": Refusing})
    assert problems == (
        "0.weight (Linear), rule '*.weight': Refusing: has an even number of rows",
        "1.weight (Linear), rule '*.weight': Refusing: five rows are too many",
    )


def test_a_bug_in_a_constraint_keeps_its_traceback_and_names_the_site():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 7))
    before = picture(model)
    with pytest.raises(ZeroDivisionError, match=r"^a bug") as raised:
        surgery.apply_constraints(model, {"*.weight": Refusing})
    assert raised.value.__notes__ == ["while preparing 1.weight for rule '*.weight'; the model is unchanged"]
    assert raised.traceback[-1].name == "right_inverse"
    assert differences(before, picture(model)) == []


class Reshaping(nn.Module):
    """A torch parametrization that gives another shape."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.reshape(-1)


class Wrong(nn.Module):
    """A torch parametrization whose right inverse gives no tensor."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw

    def right_inverse(self, value: Tensor) -> str:
        return "raw"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Reshaping, r"the constraint changes the shape, \(3, 3\) to \(9,\)"),
        (Wrong, r"Wrong\.right_inverse returned str; it must return a tensor or a sequence of tensors"),
        (lambda site: torch.exp, r"returned a function; .* For a function of the weight use computed\.function\("),
        (lambda site: 3, r"3 is no spec"),
        (torch.distributions.StickBreakingTransform(), r"changes the shape|cannot take shape"),
    ],
)
def test_foreign_specs_that_do_not_fit_are_told(spec: object, message: str):
    (problem,) = problems_of(nn.Linear(3, 3), {"weight": spec})
    assert re.search(message, problem), problem
    assert problem.startswith("weight (Linear), rule 'weight': ")


def test_a_chain_tells_which_link_refuses():
    problems = problems_of(nn.Linear(3, 2), {"weight": "spectral | symmetric | skew"})
    assert [text.split("'spectral | symmetric | skew': ")[1].split(",")[0] for text in problems] == [
        "symmetric needs square matrices",
        "skew needs square matrices",
    ]


def test_problems_of_ties_name_the_tie():
    (problem,) = problems_of(TiedLM(), {"head.weight": "symmetric"})
    assert problem.startswith("embedding.weight (Embedding), rule 'head.weight': 'symmetric': symmetric needs square")


def test_problems_at_constrained_sites_are_told_with_the_others():
    model = surgery.apply_constraints(Listed(), {"scale": "positive", "named.a": "skew"})
    problems = problems_of(model, {"scale": "interval(0, 1)", "named.*": "symmetric", "nope": "spectral"})
    assert len(problems) == 4
    assert any(
        "scale (Listed), rule 'scale': 'interval(0, 1)': is constrained already by 'positive'" in text
        for text in problems
    )
    assert any("named.a (ParameterDict)" in text and "constrained already by 'skew'" in text for text in problems)


@pytest.mark.parametrize("call", [surgery.plan, surgery.apply_constraints])
def test_an_instance_is_not_spoiled_by_a_plan(call: Callable[..., object]):
    spec = Spectral(bound=0.5)
    settings, buffers = repr(spec), len(list(spec.buffers()))
    call(nn.Conv2d(3, 3, 3), {"weight": spec})
    assert (repr(spec), len(list(spec.buffers()))) == (settings, buffers)
