"""Old idioms become constraints: by every rule's own examples, run before and after, and in hostile forms."""

from __future__ import annotations

import ast
import copy
import warnings
from dataclasses import dataclass
from textwrap import dedent
from types import ModuleType

import pytest
import torch
from torch import nn

from rewrite.code import Weight
from rewrite.migration.contract import Rule, Safety
from rewrite.migration.examples import Example
from rewrite.migration.migrating import migrate_sources
from rewrite.migration.page import PAGE, page
from rewrite.migration.rules import MIGRATION_CODES, RULES
from rewrite.outcome import Outcome
from rewrite.source import Source

EXAMPLES = [
    pytest.param(rule, example, id=f"{rule.code}-{number}")
    for rule in RULES
    for number, example in enumerate(rule.examples)
]
UNCHANGED = [
    pytest.param(rule, text, id=f"{rule.code}-{number}") for rule in RULES for number, text in enumerate(rule.unchanged)
]
WEIGHTS = {code.name: code.weight for code in MIGRATION_CODES}
STEPS = 300  # of a power iteration, after which its vectors have converged
TOLERANCE = 1e-5


def migrate(text: str, **options: object) -> Outcome:
    return migrate_all({"model.py": text}, **options)["model.py"]


def migrate_all(texts: dict[str, str], **options: object) -> dict[str, Outcome]:
    sources = [(Source.checked(path, text), path.removesuffix(".py")) for path, text in texts.items()]
    return {each.path: each for each in migrate_sources(sources, **options)}


def told(outcome: Outcome) -> list[tuple[int, str]]:
    return [(each.line, each.code) for each in outcome.diagnostics]


def after(text: str, **options: object) -> str:
    return migrate(dedent(text), **options).after


def left(text: str, code: str, words: str, **options: object) -> None:
    outcome = migrate(dedent(text), **options)
    assert outcome.after == outcome.before
    assert [each for each in outcome.diagnostics if each.code == code and words in each.message], outcome.diagnostics


def executed(text: str, name: str = "written") -> ModuleType:
    module = ModuleType(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        exec(compile(text, name, "exec"), module.__dict__)
    return module


def built(text: str) -> nn.Module:
    module = executed(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return module.Net()


def train(model: nn.Module, x: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_an_example_is_rewritten_as_it_says(rule: Rule, example: Example):
    outcome = migrate(example.text_before, target=example.target, unsafe=example.unsafe)
    assert outcome.after == example.text_after
    assert rule.code in {each.code for each in outcome.diagnostics}
    again = migrate(outcome.after, target=example.target, unsafe=example.unsafe)
    assert again.after == outcome.after


@pytest.mark.parametrize(("rule", "example"), [each for each in EXAMPLES if each.values[1].runs])
def test_an_example_runs_before_and_after_with_equal_values(rule: Rule, example: Example):
    before, made = built(example.text_before), built(example.text_after)
    x = torch.randn(*example.takes)
    train(before, x)
    with torch.no_grad():
        for _ in range(STEPS):  # in train mode
            before(x)
        state = before.eval().state_dict()
        if example.target == "surgery" or rule.code != "CS201":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "a checkpoint of torch's orthogonal parametrization does not say")
                made.load_state_dict(copy.deepcopy(state), strict=True)
            made.eval()
            torch.testing.assert_close(made(x), before(x), atol=TOLERANCE, rtol=TOLERANCE)
        if "finish" in example.methods:
            expected = before(x)
            before.finish()
            made.finish()
            assert sorted(made.state_dict()) == sorted(before.state_dict())  # torch moves a weight behind a bias
            torch.testing.assert_close(made(x), expected, atol=TOLERANCE, rtol=TOLERANCE)
            torch.testing.assert_close(before(x), expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(("rule", "text"), UNCHANGED)
def test_what_is_left_is_left_to_the_byte(rule: Rule, text: str):
    ast.parse(text)
    for options in ({}, {"target": "torch"}, {"unsafe": True}):
        assert migrate(text, **options).after == text
    if rule.safety is Safety.DIAGNOSED:
        assert rule.code in {each.code for each in migrate(text).diagnostics}


def test_codes_are_distinct_and_told():
    names = [code.name for code in MIGRATION_CODES]
    assert len(set(names)) == len(names)
    assert all(name.startswith("CS2") for name in names)
    assert all(code.title and code.explanation for code in MIGRATION_CODES)
    assert {rule.code for rule in RULES if rule.safety is not Safety.DIAGNOSED} == {
        name for name, weight in WEIGHTS.items() if weight is Weight.EDIT
    }


def test_every_rule_that_edits_has_examples():
    assert all(rule.examples for rule in RULES if rule.safety is not Safety.DIAGNOSED)
    assert all(rule.unchanged for rule in RULES if rule.safety is Safety.DIAGNOSED)


def test_every_explanation_speaks_of_random_numbers_and_of_training():
    for rule in RULES:
        assert "andom" in rule.explanation, rule.code
    for rule in RULES:
        if rule.code not in ("CS207", "CS208", "CS209"):
            assert "rain" in rule.explanation, rule.code


def test_the_page_is_what_the_rules_say():
    assert PAGE.read_text() == page()


def test_another_target_is_an_error():
    with pytest.raises(ValueError, match="surgery, torch, got 'jax'"):
        migrate("", target="jax")


@dataclass(frozen=True)
class Form:
    """Lines that stand in a function, and what they become."""

    before: str
    after: str
    head: str = "from torch.nn.utils import spectral_norm, weight_norm"


FORMS = {
    "a parenthesised module": Form("return weight_norm((conv))", 'return constrain((conv), weight="weight_norm")'),
    "a parenthesised module with options": Form(
        "return weight_norm((conv), dim=(1))", 'return constrain((conv), weight="weight_norm(dim=1)")'
    ),
    "a trailing comma": Form("return weight_norm(conv,)", 'return constrain(conv, weight="weight_norm",)'),
    "a comment behind the module": Form(
        "return weight_norm(  # a\n        conv  # b )\n        # c\n    )",
        'return constrain(  # a\n        conv, weight="weight_norm"  # b )\n        # c\n    )',
    ),
    "a comment behind the options": Form(
        "return weight_norm(\n        conv,\n        dim=0,  # rows\n    )",
        'return constrain(\n        conv, weight="weight_norm",  # rows\n    )',
    ),
    "module by keyword": Form(
        "return weight_norm(module=conv, dim=None)", 'return constrain(conv, weight="weight_norm(dim=None)")'
    ),
    "another name": Form(
        "return weight_norm(conv, 'weight_hh_l0')", 'return constrain(conv, weight_hh_l0="weight_norm")'
    ),
    "all options by position": Form(
        "return spectral_norm(conv, 'own', 2, 1e-6, 1)",
        'return constrain(conv, own="spectral(n_power_iterations=2, eps=1e-06, dim=1)")',
    ),
    "dim=-1 means the whole tensor": Form(
        "return weight_norm(conv, dim=-1)", 'return constrain(conv, weight="weight_norm(dim=None)")'
    ),
    "dim=0 of an unknown module stays": Form(
        "return spectral_norm(conv, dim=0)", 'return constrain(conv, weight="spectral(dim=0)")'
    ),
    "dim=0 of a known module goes": Form(
        "return spectral_norm(torch.nn.Conv2d(1, 1, 1), dim=0)",
        'return constrain(torch.nn.Conv2d(1, 1, 1), weight="spectral")',
        "import torch\nfrom torch.nn.utils import spectral_norm",
    ),
    "dim=0 of a transposed convolution stays": Form(
        "return spectral_norm(torch.nn.ConvTranspose2d(1, 1, 1), dim=0)",
        'return constrain(torch.nn.ConvTranspose2d(1, 1, 1), weight="spectral(dim=0)")',
        "import torch\nfrom torch.nn.utils import spectral_norm",
    ),
    "a condition inside": Form(
        "return weight_norm(conv if conv else None)", 'return constrain(conv if conv else None, weight="weight_norm")'
    ),
    "a bare statement": Form("weight_norm(conv.inner[0])", 'constrain(conv.inner[0], weight="weight_norm")'),
    "setattr": Form(
        'setattr(conv, "lin" + str(1), weight_norm(conv))',
        'setattr(conv, "lin" + str(1), constrain(conv, weight="weight_norm"))',
    ),
    "a lambda": Form(
        "wn = lambda x: weight_norm(x)\n    return wn",
        'wn = lambda x: constrain(x, weight="weight_norm")\n    return wn',
    ),
    "an alias of an alias": Form(
        "a = weight_norm\n    b = a\n    return b(conv)",
        'a = weight_norm\n    b = a\n    return constrain(conv, weight="weight_norm")',
    ),
    "both branches alike": Form(
        "if conv:\n        norm = weight_norm\n    else:\n        norm = torch.nn.utils.parametrizations.weight_norm\n"
        "    return norm(conv)",
        "if conv:\n        norm = weight_norm\n    else:\n        norm = torch.nn.utils.parametrizations.weight_norm\n"
        '    return constrain(conv, weight="weight_norm")',
        "import torch\nfrom torch.nn.utils import weight_norm",
    ),
    "a choice with another function": Form(
        "norm = weight_norm if conv else (lambda x: x)\n    return [norm(conv) for _ in range(2)]",
        'norm = (lambda module: constrain(module, weight="weight_norm")) if conv else (lambda x: x)\n'
        "    return [norm(conv) for _ in range(2)]",
    ),
    "a choice by statements": Form(
        "norm = spectral_norm\n    if conv:\n        norm = weight_norm\n    return norm(conv)",
        'norm = (lambda module: constrain(module, weight="spectral"))\n    if conv:\n'
        '        norm = (lambda module: constrain(module, weight="weight_norm"))\n    return norm(conv)',
    ),
    "a flag named like the function": Form(
        "weight_norm = conv.flag\n    return torch.nn.utils.weight_norm(conv) if weight_norm else conv",
        'weight_norm = conv.flag\n    return constrain(conv, weight="weight_norm") if weight_norm else conv',
        "import torch",
    ),
    "tabs and semicolons": Form(
        "x = weight_norm(conv); return x", 'x = constrain(conv, weight="weight_norm"); return x'
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_form_is_rewritten(form: Form, newline: str):
    def whole(head: str, body: str) -> str:
        return f"{head}\n\n\ndef build(conv):\n    {body}\n".replace("\n", newline)

    outcome = migrate(whole(form.head, form.before))
    assert outcome.after == whole(f"{form.head}\nfrom surgery import constrain", form.after), outcome.diagnostics
    assert migrate(outcome.after).after == outcome.after


UNDERSTOOD_NOT = {
    "starred": ("weight_norm(*conv)", "CS250", "star"),
    "starred options": ("weight_norm(conv, **conv)", "CS250", "star"),
    "a dim that is no literal": ("spectral_norm(conv, dim=conv.dim)", "CS250", "no"),
    "a name that is no literal": ("weight_norm(conv, name=conv)", "CS250", "literal"),
    "a name that is none": ("weight_norm(conv, name='a b')", "CS250", "no name"),
    "a comment among the arguments": ("weight_norm(\n        conv,  # a\n        dim=1,\n    )", "CS250", "comment"),
    "the module comes later": ("weight_norm(dim=1, module=conv)", "CS250", "first"),
    "two norms": ("weight_norm(spectral_norm(conv))", "CS250", "norm"),
    "two norms, one after another": ("x = weight_norm(conv); spectral_norm(x)", "CS250", "another norm"),
    "an f-string": ("f'{weight_norm(conv)}'", "CS250", "f-string"),
    "partial": ("partial(weight_norm, dim=1)", "CS252", "passed on"),
    "a dictionary": ("return {'wn': weight_norm}[conv]", "CS252", "passed on"),
    "an attribute": ("conv.norm = weight_norm if conv else None", "CS252", "passed on"),
    "returned": ("return weight_norm", "CS252", "passed on"),
    "a choice with options": (
        "norm = weight_norm if conv else spectral_norm; norm(conv, 'weight')",
        "CS250",
        "more than called",
    ),
    "a choice passed on": ("norm = weight_norm if conv else spectral_norm; use(norm)", "CS250", "more than called"),
    "no argument": ("weight_norm()", "CS250", "without a module"),
    "too many": ("weight_norm(conv, 'weight', 0, 1)", "CS250", "arguments"),
    "a negative dim": ("weight_norm(conv, dim=-2)", "CS250", "from the end"),
    "a vector": ("spectral_norm(conv, 'bias_hh_l0')", "CS250", "vector"),
    "a boolean": ("spectral_norm(conv, n_power_iterations=True)", "CS250", "positive"),
}


@pytest.mark.parametrize(("body", "code", "words"), UNDERSTOOD_NOT.values(), ids=UNDERSTOOD_NOT)
def test_what_is_not_understood_is_left_with_a_reason(body: str, code: str, words: str):
    left(f"from torch.nn.utils import spectral_norm, weight_norm\n\n\ndef build(conv):\n    {body}\n", code, words)


WEIGHT_NET = """
from torch.nn.utils import remove_weight_norm, weight_norm


def add(conv):
    return weight_norm(conv)


def finish(conv):
    {body}
"""
HELD_BACK = {
    "a removal that is not understood": ("remove_weight_norm(*conv)", "CS251", "removes the norm"),
    "an application that is not understood": ("weight_norm(*conv); remove_weight_norm(conv.inner)", "CS251", "applies"),
    "a removal that is passed on": ("conv.apply(remove_weight_norm)", "CS251", "removes the norm"),
    "a handler for more": (
        "try:\n        remove_weight_norm(conv)\n        conv.go()\n    except ValueError:\n        pass",
        "CS250",
        "more than this call",
    ),
    "a handler of something unclear": (
        "try:\n        remove_weight_norm(conv)\n    except conv.Error:\n        pass",
        "CS250",
        "unclear",
    ),
    "an attribute that is read": ("print(conv.weight_g)", "CS251", "attribute weight_g"),
    "an attribute that is written": ("conv.weight_g.data.fill_(1)", "CS251", "attribute weight_g"),
    "an attribute by its name": ("getattr(conv, 'weight_v')", "CS251", "'weight_v'"),
    "a tensor by its name": ("del conv._parameters['weight_g']", "CS251", "'weight_g'"),
    "classes of the hook": ("from torch.nn.utils.weight_norm import WeightNorm", "CS251", "hooks"),
    "applied and removed again": ("weight_norm(conv); remove_weight_norm(conv)", "CS251", "norm"),
}


@pytest.mark.parametrize(("body", "code", "words"), HELD_BACK.values(), ids=HELD_BACK)
def test_one_place_holds_the_others_back(body: str, code: str, words: str):
    left(WEIGHT_NET.format(body=body), code, words)
    left(WEIGHT_NET.format(body=body), code, words, unsafe=True)


@pytest.mark.parametrize(
    "handler", ["except:", "except Exception:", "except (RuntimeError, ValueError):", "except KeyError:"]
)
def test_a_handler_that_need_not_change_stays(handler: str):
    body = f"try:\n        remove_weight_norm(conv)\n    {handler}\n        pass"
    outcome = migrate(WEIGHT_NET.format(body=body))
    assert f'bake(conv, "weight")\n    {handler}' in outcome.after


def test_what_bake_raises_is_caught_where_it_was():
    body = "try:\n        remove_weight_norm(conv)\n    except ValueError:\n        return 'none'"
    text = WEIGHT_NET.format(body=body)
    assert executed(text).finish(nn.Linear(2, 2)) == executed(migrate(text).after).finish(nn.Linear(2, 2)) == "none"


NORMS = {
    "layers.py": "from torch.nn.utils import weight_norm as wn\n",
    "net.py": "from layers import wn\n\n\ndef build(conv):\n    return wn(conv)\n",
    "tools.py": "import torch\n\n\ndef finish(conv):\n    torch.nn.utils.remove_weight_norm(conv)\n",
}


def test_application_and_removal_may_stand_in_different_files():
    outcomes = migrate_all(NORMS)
    assert not outcomes["layers.py"].changed
    assert 'return constrain(conv, weight="weight_norm")' in outcomes["net.py"].after
    assert 'bake(conv, "weight")' in outcomes["tools.py"].after


def test_a_removal_alone_is_left():
    left(NORMS["tools.py"], "CS251", "nothing in the given files applies")
    newer = (
        "from torch.nn.utils.parametrizations import weight_norm\n\n\ndef build(conv):\n    return weight_norm(conv)\n"
    )
    outcome = migrate_all({**NORMS, "layers.py": "", "net.py": newer})["tools.py"]
    assert not outcome.changed
    assert "it raises" in outcome.diagnostics[0].message


def test_a_comment_holds_back_both_sides():
    noted = NORMS["tools.py"].replace("remove_weight_norm(conv)", "remove_weight_norm(conv)  # noqa: CS207")
    assert not any(each.changed for each in migrate_all({**NORMS, "tools.py": noted}).values())
    skipped = {**NORMS, "net.py": "# computed-surgery: skip-file\n" + NORMS["net.py"]}
    assert not any(each.changed for each in migrate_all(skipped).values())


def test_only_selected_codes_are_edited_and_told():
    outcomes = migrate_all(NORMS, selected=lambda code: code != "CS202")
    assert not any(each.changed for each in outcomes.values())
    assert not any(each.code == "CS202" for outcome in outcomes.values() for each in outcome.diagnostics)


def test_a_file_without_a_place_for_an_import_holds_back_the_others():
    texts = {**NORMS, "net.py": NORMS["net.py"].replace("import wn\n", "import wn; x = 1\n")}
    outcomes = migrate_all(texts)
    assert not any(each.changed for each in outcomes.values())
    assert (5, "CS250") in told(outcomes["net.py"])


def test_an_old_attribute_in_another_file_needs_unsafe_fixes():
    reader = "def length(conv):\n    return conv.weight_g\n"
    texts = {"net.py": WEIGHT_NET.format(body="remove_weight_norm(conv)"), "tools.py": reader}
    outcomes = migrate_all(texts)
    assert not outcomes["net.py"].changed
    assert "tools.py:2" in next(each.message for each in outcomes["net.py"].diagnostics if each.code == "CS253")
    assert migrate_all(texts, unsafe=True)["net.py"].changed


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = {'a.weight_g': 1}", [1]),
        ("x = 'parametrizations.weight.original0'", [1]),
        ("x = f'{1}.weight_g'", [1]),
        ("x = 'pos_bias_v'; y = 'weight_group'; z = x.weight_view", []),
        ('def f():\n    """weight_g"""\n    return "weight_orig", "conv.weight_u"', [3, 3]),
        ("x = m.parametrizations.weight.original", [1]),
        ("import torch\nx = torch.nn.utils.parametrizations", []),
    ],
)
def test_old_names_are_told(text: str, lines: list[int]):
    assert [line for line, code in told(migrate(text + "\n")) if code == "CS230"] == lines


def test_star_imports_are_told():
    left("from torch.nn.utils import *\n\n\ndef f(m):\n    return weight_norm(m)\n", "CS250", "star import")
    assert not told(migrate("from mine import *\n\n\ndef f(m):\n    return weight_norm(m)\n"))


def test_an_own_class_gets_the_dimension_that_torch_takes():
    text = """
        import torch
        from torch import nn
        from torch.nn.utils import spectral_norm


        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(3, 4, 5))


        class Kind(nn.Conv1d):
            pass


        def build():
            return spectral_norm(Own()), spectral_norm(Kind(1, 1, 1))
    """
    changed = after(text)
    assert 'constrain(Own(), weight="spectral(dim=0)"), constrain(Kind(1, 1, 1), weight="spectral")' in changed
    executed(changed).build()


@pytest.mark.parametrize(
    ("body", "is_told"),
    [
        ("torch.exp(self.scale)", True),
        ("self.scale.exp()", True),
        ("-torch.exp(self.scale.float())", True),
        ("F.softplus(self.scale)", True),
        ("torch.sigmoid(self.other)", True),
        ("torch.exp(x)", False),
        ("torch.exp(self.fc(x))", False),
        ("torch.exp(self.unknown)", False),
    ],
)
def test_transforms_of_own_parameters_are_told(body: str, is_told: bool):
    text = f"""
        import torch
        import torch.nn.functional as F


        class Net(torch.nn.Module):
            def __init__(self):
                self.scale = torch.nn.Parameter(torch.zeros(1))
                self.register_parameter("other", torch.nn.Parameter(torch.zeros(1)))

            def forward(self, x):
                return {body}
    """
    assert [code for _, code in told(migrate(dedent(text)))] == ["CS220"] * is_told


@pytest.mark.parametrize(
    ("body", "is_told"),
    [
        ("for p in m.parameters(): p.data.clamp_(-1, 1)", True),
        ("for n, p in m.named_parameters():\n        if n: p.clamp_(min=0)", True),
        ("m.weight.data.clamp_(0, 1)", True),
        ("for x in m: x.clamp_(0, 1)", False),
        ("m.clamp_(0, 1)", False),
    ],
)
def test_clipped_weights_are_told(body: str, is_told: bool):
    assert [code for _, code in told(migrate(f"def f(m):\n    {body}\n"))] == ["CS221"] * is_told


REGISTERING = """
from torch import nn
from torch.nn.utils import parametrize


class Twice(nn.Module):
    def forward(self, X):
        return 2 * X

    def right_inverse(self, A):
        return A / 2


class Plus(nn.Module):
    def forward(self, X):
        return X + 1

    def right_inverse(self, A):
        return A - 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        parametrize.register_parametrization(self.fc, "weight", Twice())
        parametrize.register_parametrization(self.fc, "weight", Plus())

    def forward(self, x):
        return self.fc(x)
"""


def test_several_parametrizations_follow_each_other():
    changed = migrate(REGISTERING).after
    assert changed.count("constrain(self.fc, weight=") == 2
    before, made = built(REGISTERING), built(changed)
    train(before, torch.randn(4, 3))
    made.load_state_dict(before.state_dict(), strict=True)
    x = torch.randn(2, 3)
    torch.testing.assert_close(made.eval()(x), before.eval()(x))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Plus())", "Plus(), unsafe=True)", "unsafe=True"),
        ("Plus())", "self.plus)", "made here"),
        ('"weight", Plus', "self.name, Plus", "literal"),
    ],
)
def test_a_parametrization_that_is_not_understood_is_left(old: str, new: str, words: str):
    outcome = migrate(REGISTERING.replace(old, new))
    assert any(each.code == "CS250" and words in each.message for each in outcome.diagnostics)
    assert "Plus" not in "".join(line for line in outcome.after.splitlines() if "constrain(" in line)


def test_a_file_that_cannot_name_its_successor_is_left():
    text = "from torch.nn.utils import weight_norm\n\n\ndef f(m):\n    return weight_norm(m)\n"
    left(text, "CS250", "imported", target="torch")


def test_an_idiom_among_the_arguments_of_another_is_left():
    old = "Plus())"
    text = REGISTERING.replace(old, "Plus(parametrize.register_parametrization(self.fc, 'bias', Twice())))")
    outcome = migrate(text)
    assert any("stands among" in each.message for each in outcome.diagnostics)
    assert migrate(outcome.after).after == outcome.after
