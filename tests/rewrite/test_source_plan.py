"""A live plan in source text: edited where the model was made, never in an installed package, the same model after."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import surgery
from rewrite.live_plan import SourcePlan, source_plan
from rewrite.source import Source
from surgery.errors import PlanError
from surgery.rules.errors import RuleError
from tests.rewrite.architectures import ARCHITECTURES, build, modeling_file, outputs
from tests.rewrite.test_equality import differences, same_tensors
from tests.rewrite.test_live import TRAPS, executed

Rules = Mapping[str, str | None]
Build = Callable[[], nn.Module]

SPEC = "interval(-3, 3)"
SEVENTH = 7  # in a small run one architecture of so many, with a rule that follows from its place
STYLES = {"CS100": "call", "CS101": "statement", "CS102": "class"}
HEAD = "import copy\nimport functools\nimport torch\nfrom torch import nn\n\n"
NUMBERS = itertools.count()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import a text as a file of the user's, below ``tmp_path``."""
    names = []

    def load(text: str) -> ModuleType:
        names.append(f"own_{next(NUMBERS)}")
        file = tmp_path / f"{names[-1]}.py"
        file.write_text(text, encoding="utf-8")
        return executed(names[-1], text, file)

    yield load
    for name in names:
        del sys.modules[name]


def after_of(plan: SourcePlan) -> str:
    """The text of the one file that is changed."""
    [outcome] = [each for each in plan.outcomes if each.changed]
    assert not outcome.failed, outcome.diagnostics
    return outcome.after


def codes(plan: SourcePlan) -> Counter[str]:
    return Counter(each.code for outcome in plan.outcomes for each in outcome.diagnostics)


def seeded(build: Build) -> nn.Module:
    torch.manual_seed(0)
    return build()


def check_same(
    own: Callable[[str], ModuleType], text: str, rules: Rules, *, root_only: bool = False, name: str = "Net"
) -> SourcePlan:
    """The plan of ``rules`` for the class ``Net`` of a text, whose result builds what apply_constraints makes."""
    module = own(text)
    root = Path(str(module.__file__)).parent
    found = source_plan(vars(module)[name], rules, source_root=root, root_only=root_only)
    applied = surgery.apply_constraints(seeded(vars(module)[name]), rules)
    rewritten = own(after_of(found))
    assert differences(seeded(vars(rewritten)[name]), applied) == []
    again = source_plan(vars(rewritten)[name], rules, source_root=root, root_only=root_only)
    assert [each for each in again.outcomes if each.changed] == []
    assert again.places == ()
    assert pickle.loads(pickle.dumps(found)) == found
    return found


def styles(plan: SourcePlan) -> list[str]:
    return [each.style for each in plan.places]


def net(body: str, before: str = "", head: str = HEAD) -> str:
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    return f"{head}{before}\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{lines}"


HELPER = "def conv3x3(a, b):\n    return nn.Conv2d(a, b, 3)\n"
LOGGED = """
def logged(init):
    @functools.wraps(init)
    def wrapper(*args, **kwargs):
        return init(*args, **kwargs)
    return wrapper

class Block(nn.Module):
    @logged
    def __init__(self, size):
        super().__init__()
        self.first = nn.Linear(size, size)
"""
# body, what stands before, rules, the style of the edits, and whether other models are left out of sight
FORMS: dict[str, tuple[str, str, Rules, list[str], bool]] = {
    "two on one line": (
        "self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 4); self.c = nn.Linear(2, 3)", "",
        {"b.weight": SPEC, "c.*": "positive"}, ["call", "call"], True,
    ),
    "every type": ("self.a = nn.Linear(2, 3)\nself.b = nn.Conv2d(2, 2, 1)", "", {"*@Linear.*": SPEC}, ["call"], False),
    "decorated constructor": ("self.block = Block(3)", LOGGED, {"*.first.weight": SPEC}, ["call"], False),
    "partial": ("layer = functools.partial(nn.Linear, 3)\nself.a = layer(4)", "", {"*.weight": SPEC}, ["call"], True),
    "partial for any model": (
        "layer = functools.partial(nn.Linear, 3)\nself.a = layer(4)", "", {"*.weight": SPEC}, ["class"], False,
    ),
    "dictionary of classes": (
        "kinds = {'conv': nn.Conv1d, 'dense': nn.Linear}\nself.a = kinds['conv'](3, 4, 1)", "",
        {"a.weight": SPEC}, ["call"], True,
    ),
    "setattr": (
        "for name in ('a', 'b'):\n    setattr(self, 'set_' + name, nn.Linear(2, 2))", "",
        {"set_*.weight": SPEC}, ["call"], True,
    ),
    "setattr, one of two": (
        "for name in ('a', 'b'):\n    setattr(self, 'set_' + name, nn.Linear(2, 2))", "",
        {"set_a.weight": SPEC}, ["class"], True,
    ),
    "loop": ("for i in range(3):\n    self.add_module(f'l{i}', nn.Linear(2, 2 + i))", "",
             {"*@Linear.weight": SPEC}, ["call"], False),
    "helper": ("self.a = conv3x3(2, 3)\nself.b = conv3x3(3, 4)", HELPER, {"*.weight": SPEC}, ["call"], False),
    "helper, one of two": (
        "self.a = conv3x3(2, 3)\nself.b = conv3x3(3, 4)", HELPER, {"b.weight": SPEC}, ["class"], True,
    ),
    "copies": (
        "block = nn.Linear(2, 2)\nself.l = nn.ModuleList([copy.deepcopy(block) for _ in range(2)])", "",
        {"*.weight": SPEC}, ["class"], True,
    ),
    "copied later": (
        "self.a = nn.Linear(2, 2)\nself.b = copy.deepcopy(self.a)", "", {"a.weight": SPEC}, ["class"], True,
    ),
    "attention": ("self.a = nn.MultiheadAttention(4, 2)", "", {"*.out_proj.weight": SPEC}, ["call"], False),
    "encoder": (
        "self.e = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)", "",
        {"*.linear1.weight": SPEC}, ["class"], True,
    ),
    "recurrent": (
        "self.a = nn.LSTM(3, 4, num_layers=2)", "", {"*.weight_hh_l?": SPEC, "*.bias_ih_l0": "positive"},
        ["call"], True,
    ),
    "own parameters": (
        "self.scale = nn.Parameter(torch.ones(3))\nself.register_parameter('shift', nn.Parameter(torch.ones(2)))", "",
        {"*.scale": "positive", "*.shift": SPEC}, ["statement", "statement"], False,
    ),
    "parameter by a local name": (
        "scale = nn.Parameter(torch.ones(3))\nself.scale = scale", "", {"*scale": "positive"}, ["statement"], True,
    ),
    "parameter among others": (
        "self.a, self.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))", "", {"a": "positive"},
        ["class"], True,
    ),
    "padding": (
        "self.a = nn.Embedding(4, 3, padding_idx=0)\nself.b = nn.Linear(2, 2)", "",
        {"a.weight": SPEC, "b.weight": SPEC}, ["class", "call"], True,
    ),
    "padding out of sight": (
        "kinds = [nn.Embedding]\nself.a = kinds[0](4, 3, padding_idx=0)", "", {"a.weight": SPEC}, ["class"], True,
    ),
    "converted while it is made": ("self.a = nn.Linear(2, 2)\nself.half()", "", {"*.weight": SPEC}, ["class"], False),
    "tie": (
        "self.a = nn.Embedding(4, 3)\nself.b = nn.Linear(3, 4, bias=False)\nself.b.weight = self.a.weight", "",
        {"*.weight": SPEC}, ["class"], True,
    ),
    "buffer": ("self.n = nn.BatchNorm1d(3)\nself.l = nn.Linear(2, 2)", "",
               {"*.running_var": "positive", "*@Linear.weight": SPEC}, ["class", "call"], False),
    "moved": ("self.weight = nn.Linear(2, 2).weight", "", {"weight": SPEC}, ["class"], True),
    "replaced": (
        "self.a = nn.Linear(2, 3)\nself.a.weight = nn.Parameter(torch.zeros(3, 2))", "", {"a.weight": SPEC},
        ["statement"], True,
    ),
    "by a name of this model": (
        "self.a = nn.Linear(2, 2)\nself.b = nn.Linear(2, 2)", "", {"a.*": SPEC}, ["class"], False,
    ),
    "shared rules": (
        "self.a = nn.Linear(2, 2)\nself.b = conv3x3(2, 2)\nself.c = conv3x3(2, 2)", HELPER,
        {"*.weight": SPEC, "c.weight": None}, ["class"], True,
    ),
    "exempted": ("self.a = nn.Linear(2, 2)\nself.b = nn.Linear(2, 2)", "", {"*.weight": SPEC, "*.b.weight": None},
                 ["call"], False),
    "frozen": ("self.a = nn.Linear(2, 2)", "", {"*.weight": "frozen"}, ["call"], False),
    "the name is taken": ("constrain = 3\nself.a = nn.Linear(2, constrain)", "", {"*.weight": SPEC}, ["call"], False),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_edited_where_it_is_made(form: str, own: Callable[[str], ModuleType]) -> None:
    body, before, rules, expected, root_only = FORMS[form]
    found = check_same(own, net(body, before), rules, root_only=root_only)
    assert styles(found) == expected


def test_the_traps_are_constrained_as_a_whole(own: Callable[[str], ModuleType]) -> None:
    module = own(TRAPS)
    root = Path(str(module.__file__)).parent
    for cls, only in itertools.product(("Builders", "Copies", "Changed", "Stubborn"), (False, True)):
        build = vars(module)[cls]
        found = source_plan(build, {"*": SPEC}, source_root=root, root_only=only)
        rewritten = own(after_of(found))
        applied = surgery.apply_constraints(seeded(build), {"*": SPEC})
        assert differences(seeded(vars(rewritten)[cls]), applied) == []


def test_several_files(own: Callable[[str], ModuleType], tmp_path: Path) -> None:
    layers = own(f"{HEAD}{HELPER}")
    text = net("self.a = conv3x3(2, 3)\nself.b = nn.Linear(2, 2)", f"from {layers.__name__} import conv3x3")
    module = own(text)
    found = source_plan(module.Net, {"*.weight": SPEC}, source_root=tmp_path)
    assert [Path(each.file).stem for each in found.places] == [layers.__name__, module.__name__]
    assert [each.changed for each in found.outcomes] == [True, True]
    applied = surgery.apply_constraints(seeded(module.Net), {"*.weight": SPEC})
    first = own(found.outcomes[0].after)
    second = own(found.outcomes[1].after.replace(layers.__name__, first.__name__))
    assert differences(seeded(second.Net), applied) == []
    alone = tmp_path / "alone"
    alone.mkdir()
    Path(str(layers.__file__)).rename(alone / "layers.py")
    found = source_plan(module.Net, {"*@Conv2d.weight": SPEC, "b.bias": SPEC}, source_root=tmp_path)
    assert styles(found) == ["class"]


def test_the_evidence_of_each_place(own: Callable[[str], ModuleType]) -> None:
    text = net("self.a = nn.Linear(2, 2)\nself.b = nn.Linear(2, 2)\nself.c = nn.Parameter(torch.ones(2))")
    module = own(text)
    root = Path(str(module.__file__)).parent
    found = source_plan(module.Net, {"*.weight": SPEC, "*.c": "positive"}, source_root=root)
    first, second, third = found.places
    assert {each.sha256 for each in found.places} == {hashlib.sha256(text.encode()).hexdigest()}
    assert (first.text, first.number, first.scope, first.specs) == (
        "nn.Linear(2, 2)", 0, "Net.__init__", (("weight", SPEC),)
    )  # fmt: skip
    assert second == replace(first, number=1, line=first.line + 1, end_line=first.line + 1)
    assert (third.text, third.style, third.arguments) == (
        "self.c = nn.Parameter(torch.ones(2))", "statement", 'self, c="positive"'
    )  # fmt: skip
    source = Source.read(first.file, Path(first.file).read_bytes())
    begin = source.offset(first.line, first.column)
    assert source.text[begin : source.offset(first.end_line, first.end_column)] == first.text


def test_installed_files_and_those_outside_are_not_edited(own: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module = own(net("self.a = nn.Linear(2, 2)"))
    installed = tmp_path / "site-packages" / "installed.py"
    installed.parent.mkdir()
    installed.write_text(net("self.a = nn.Linear(2, 2)"), encoding="utf-8")
    other = executed("installed", installed.read_text(encoding="utf-8"), installed)
    try:
        for build, root in ((module.Net, tmp_path / "site-packages"), (other.Net, tmp_path)):
            found = source_plan(build, {"*.weight": SPEC}, source_root=root)
            assert not any(each.changed for each in found.outcomes)
            assert codes(found) == {"CS118": 1}
            [proposal] = found.proposals
            namespace: dict[str, type[nn.Module]] = {}
            exec(proposal, namespace)
            made = seeded(namespace["ConstrainedNet"])
            assert differences(made, surgery.apply_constraints(seeded(build), {"*.weight": SPEC})) == []
    finally:
        del sys.modules["installed"]


def test_what_comes_after_the_constructor_is_proposed(own: Callable[[str], ModuleType], tmp_path: Path) -> None:
    text = net("self.a = nn.Linear(2, 2)", head=HEAD) + (
        "\n\ndef build():\n    net = Net()\n    net.b = nn.Linear(2, 2)\n    return net\n"
    )
    module = own(text)
    found = source_plan(module.build, {"*": SPEC}, source_root=tmp_path)
    assert styles(found) == ["call", "call"]
    assert "net.b = constrain(nn.Linear(2, 2), weight=" in after_of(found)
    found = source_plan(module.build, {"b.*": SPEC, "a.bias": SPEC}, source_root=tmp_path)
    assert not any(each.changed for each in found.outcomes)
    [told] = [each for outcome in found.outcomes for each in outcome.left]
    assert "b.weight comes into the model when the constructor of Net has returned" in told.message
    assert found.proposals == (
        "from surgery import apply_constraints\n\nmodel = apply_constraints(model, "
        f'{{"b.*": "{SPEC}", "a.bias": "{SPEC}"}})\n',
    )


def test_a_model_within_one_of_its_class_is_not_decorated(own: Callable[[str], ModuleType], tmp_path: Path) -> None:
    text = HEAD + (
        "class Net(nn.Module):\n    def __init__(self, deep=1):\n        super().__init__()\n"
        "        self.fc = nn.Linear(2, 2)\n        self.inner = Net(deep - 1) if deep else None\n"
    )
    found = source_plan(own(text).Net, {"fc.weight": SPEC}, source_root=tmp_path)
    assert not any(each.changed for each in found.outcomes)
    assert "a Net stands within another one" in str(found.outcomes[0].left[0])


def test_what_stands_constrained_already_is_left(own: Callable[[str], ModuleType], tmp_path: Path) -> None:
    head = "from surgery import constrain\n" + HEAD
    body = f"self.a = conv3x3(2, 2)\nconstrain(self.a, weight='{SPEC}')\nself.b = conv3x3(2, 2)"
    found = check_same(own, net(body, HELPER, head), {"*.weight": SPEC}, root_only=True)
    assert styles(found) == ["class"]
    body = f"self.a = constrain(nn.Linear(2, 2), weight='{SPEC}')\nself.b = nn.Linear(2, 3)"
    found = check_same(own, net(body, "", head), {"*.weight": SPEC})
    assert styles(found) == ["call"]


def test_notes(own: Callable[[str], ModuleType], tmp_path: Path) -> None:
    text = net("self.a = nn.Linear(2, 2)") + (
        "\n    @classmethod\n    def from_pretrained(cls, name):\n        return cls()\n\nclass Other(Net):\n    pass\n"
    )
    module = own(text)
    assert codes(source_plan(module.Net, {"a.*": SPEC}, source_root=tmp_path)) == {"CS102": 1, "CS121": 1, "CS122": 1}
    alone = source_plan(module.Net, {"a.*": SPEC}, source_root=tmp_path, root_only=True)
    assert codes(alone) == {"CS100": 1, "CS122": 1, "CS123": 1}


def test_comments_forbid_edits(own: Callable[[str], ModuleType], tmp_path: Path) -> None:
    text = net("self.a = nn.Linear(2, 2)  # noqa: CS100\nself.b = nn.Linear(2, 2)")
    found = source_plan(own(text).Net, {"*.weight": SPEC}, source_root=tmp_path)
    assert len(found.places) == 1
    assert "self.b = constrain(" in after_of(found)
    skipped = source_plan(own("# computed-surgery: skip-file\n" + text).Net, {"*.weight": SPEC}, source_root=tmp_path)
    assert codes(skipped) == {"CS133": 1}
    assert skipped.places == ()


def test_errors_pass(own: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module = own(net("self.a = nn.Linear(2, 2)\nself.b = nn.LazyLinear(3)"))
    with pytest.raises(PlanError, match="matches none"):
        source_plan(module.Net, {"nothing.weight": SPEC}, source_root=tmp_path)
    with pytest.raises(PlanError, match="has no shape yet"):
        source_plan(module.Net, {"b.weight": SPEC}, source_root=tmp_path)
    with pytest.raises(RuleError, match="spectrall"):
        source_plan(module.Net, {"a.weight": "spectrall"}, source_root=tmp_path)
    with pytest.raises(TypeError, match="must return"):
        source_plan(lambda: None, {"a.weight": SPEC}, source_root=tmp_path)  # type: ignore[arg-type, return-value]


PATTERNS = (
    "*@Linear.weight", "*.bias", "*.weight", "*.0.*", "encoder.*.weight", "*.{q,k,v}_proj.weight", "*norm*.weight",
)  # fmt: skip


def asked(size: str) -> list[tuple[str, str, bool]]:
    """Architectures, patterns and whether other models are left out of sight."""
    if size == "small":
        some = enumerate(list(ARCHITECTURES)[::SEVENTH])
        return [(name, PATTERNS[row % len(PATTERNS)], row % 2 == 0) for row, name in some]
    return [
        (name, PATTERNS[(row + 3 * root_only) % len(PATTERNS)], bool(root_only))
        for row, name in enumerate(ARCHITECTURES)
        for root_only in (0, 1)
    ]


def copied(name: str, text: str, folder: Path) -> tuple[str, type[nn.Module]]:
    """The class of an architecture from a file of the user's: imported beside the original, in the same package."""
    cls = ARCHITECTURES[name].model_class
    file = folder / f"{cls.__module__.rpartition('.')[2]}_{next(NUMBERS)}.py"
    file.write_text(text, encoding="utf-8")
    module = f"{cls.__module__.rpartition('.')[0]}.{file.stem}"
    return module, vars(executed(module, text, file))[cls.__name__]


def differing(name: str, pattern: str, folder: Path, *, root_only: bool) -> tuple[list[str], str]:
    """In what the rewritten copy differs from apply_constraints on the original, and the style of the edits."""
    rules = {pattern: SPEC}
    applied = surgery.apply_constraints(build(name), rules)
    modules = []
    try:
        module, cls = copied(name, modeling_file(name).read_text(encoding="utf-8"), folder)
        modules.append(module)
        made = partial(ARCHITECTURES[name].build, model_class=cls)
        found = source_plan(made, rules, source_root=folder, root_only=root_only)
        module, cls = copied(name, after_of(found), folder)
        modules.append(module)
        again = source_plan(partial(ARCHITECTURES[name].build, model_class=cls), rules, source_root=folder)
        rewritten = ARCHITECTURES[name].build(model_class=cls)
    finally:
        for module in modules:
            del sys.modules[module]
    wrong = differences(rewritten, applied)
    wrong += ["the text changes in a second run" for each in again.outcomes if each.changed]
    one, other = outputs(name, rewritten), outputs(name, applied)
    if one is not None and other is not None and not same_tensors(one, other):
        wrong.append("outputs")
    return wrong, " and ".join(sorted(set(styles(found))))


def test_published_architectures(size: str, tmp_path: Path, evidence: Callable[[str, str], None]) -> None:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for name, pattern, root_only in asked(size):
        try:
            surgery.plan(build(name), {pattern: SPEC}).apply(keep_undo=False)
        except PlanError:
            continue
        found, style = differing(name, pattern, tmp_path, root_only=root_only)
        counts[style] += 1
        wrong += [f"{name} {pattern} {root_only}: {each}" for each in found]
    assert wrong == []
    assert sum(counts.values()) >= 12
    told = ", ".join(f"{count} by {style}" for style, count in sorted(counts.items()))
    evidence(
        f"a live plan written into copies of the files of {len(ARCHITECTURES)} published architectures: names, order "
        "and bits of the state dict and of outputs as apply_constraints gives them, and a second run changes nothing",
        f"{sum(counts.values())} of {sum(counts.values())}: {told}",
    )
