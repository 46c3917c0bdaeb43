"""Which files a rule can be about: what a model has that is built from a file is never filtered away."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable

import pytest

from rewrite.occurrences import Occurrences
from rewrite.prefilter import Prefilter
from rewrite.rewriting import ruleset
from rewrite.running import Asked, Read, read_files, run, together
from rewrite.source import Source
from surgery.rules.pattern import Pattern
from tests.rewrite.forms import FORMS
from tests.rewrite.fuzzed_forms import fuzzed
from tests.rewrite.running_forms import build, near
from tests.rewrite.test_trees import timm_files, transformers_files

SPEC = "interval(-2, 2)"
PATTERNS = (
    *("*.conv*.weight", "*.query.weight", "*@Linear.weight", "*.{q,v}_proj.weight", "*@{Conv1d,Conv2d}.weight"),
    *("*@_ConvNd.weight", "*.out_proj.weight", "*.norm?.weight", "*.{dense,fc1,fc2}.bias", "*.embed*@Embedding.weight"),
    *("*@*Norm.weight", "*.layer[0-9].weight", "*.head.weight", "*.proj@Conv2d.weight", "*@LSTM.*", "*.gate.weight"),
)
# what torch's parametrizations, and computed parameters, make of a layer and of a weight
MADE_OVER = re.compile(r"\bparametrizations\b|\.raw$|^Parametrized")


def passes(text: str, pattern: str) -> bool:
    """Whether a file passes both steps."""
    prefilter = Prefilter.of([Pattern.parse(pattern)])
    return prefilter.passes(text.encode()) and prefilter.passes_as_python(Source.checked("a.py", text))


def matched(text: str) -> list[str]:
    """Patterns that match something of the model that a source builds, each seen to do so."""
    model = build(text)
    hosts = {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}
    found = []
    for name, _ in model.named_parameters(remove_duplicate=False):
        host, _, leaf = name.rpartition(".")
        types = [each.__name__ for each in hosts[host].__mro__ if not MADE_OVER.search(each.__name__)]
        own = host.rpartition(".")[2]
        about = [*near([name]), *(f"*@{each}.{leaf}" for each in types if each != "object")]
        about += [f"*.{own}@{types[0]}.{leaf}", f"*.{own[:1]}*.{leaf}", f"*{own[1:]}.{leaf}", f"*.{'?' * len(own)}.*"]
        if host and not MADE_OVER.search(name):
            found += [each for each in about if Pattern.parse(each).matches(name, types)]
    return list(dict.fromkeys(found))


# what another file names or makes is found there
@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if "elsewhere" not in form.source])
def test_what_the_model_of_a_form_has_passes(name: str):
    source = FORMS[name].source
    assert [each for each in matched(source) if not passes(source, each)] == []


def test_what_the_models_of_compositions_have_passes(size: str, evidence: Callable[[str, str], None]):
    count, seeds = 0, 40 if size == "small" else 2000
    for seed in range(seeds):
        source = fuzzed(seed)
        patterns = matched(source)
        count += len(patterns)
        assert [each for each in patterns if not passes(source, each)] == [], f"seed {seed}"
    assert count > seeds
    evidence("files filtered away that a rule is about", f"0 of {count} pairs of rule and file")


LAYER = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("self.attention = nn.MultiheadAttention(4, 2)", "*.out_proj.weight"),
        ("self.layer = nn.TransformerEncoderLayer(4, 2)", "*.linear1.weight"),
        ("self.layer = nn.TransformerEncoderLayer(4, 2)", "*@Linear.weight"),
        ("self.layer = nn.Transformer(4, 2)", "*.self_attn.*.bias"),
        ("self.layer = nn.Transformer(4, 2)", "*@MultiheadAttention.in_proj_weight"),
        ("self.end = nn.AdaptiveLogSoftmaxWithLoss(4, 9, [3])", "*.head.weight"),
        ("self.first = nn.Conv2d(1, 1, 1)", "*@_ConvNd.weight"),
        ("self.first = nn.Conv2d(1, 1, 1)", "*@{_ConvNd,Linear}.weight"),
        ("self.first = nn.BatchNorm1d(3)", "*@_*Norm.weight"),
        ("self.first = nn.Linear(1, 1)", "*@Module.weight"),
        ("self.first = nn.Linear(1, 1)", "*.outside.*"),
        ("self.first = nn.Linear(1, 1)", "outside**.weight"),
        ("self.first = nn.Linear(1, 1)", "*.{first,second}.weight"),
        ("self.first = nn.Linear(1, 1)", "*.fir[a-z]t.weight"),
        ("self.first = nn.Linear(1, 1)", "*first.weight"),
        ("self.first = nn.Linear(1, 1)", "re:.*"),
        ("self.first.weight = nn.Parameter(x)", "*.first.weight"),
        ("(self.  # here\n            first) = nn.Linear(1, 1)", "*.first.weight"),
        ("self. \\\n            first = nn.Linear(1, 1)", "*.first.weight"),
        ("self.a, self.first = nn.ReLU(), nn.Linear(1, 1)", "*.first.weight"),
        ("for self.first in [nn.Linear(1, 1)]: pass", "*.first.weight"),
        ("self.é = nn.Linear(1, 1)", "*.?.weight"),
        ("self.convé = nn.Linear(1, 1)", "*.conv?.weight"),
        ("self.layers = nn.ModuleDict(dict(first=nn.Linear(1, 1)))", "*.first.weight"),
        ("self.layers = nn.Sequential(OrderedDict(first=nn.Linear(1, 1)))", "*.first.weight"),
        ("self._modules['first'] = nn.Linear(1, 1)", "*.first.weight"),
        ("self.add_module(f'fi{x}st', nn.Linear(1, 1))", "*.first.weight"),
        ("setattr(self, f'first{1}', nn.Linear(1, 1))", "*.first1.weight"),
        ("setattr(self, f'{x}_first', nn.Linear(1, 1))", "*.a_first.weight"),
        ("setattr(self, name, nn.Linear(1, 1))", "*.first.weight"),
        ("self.__dict__.update(locals())", "*.first.weight"),
        ("x = ''; self.first=nn.Linear(1, 1)", "*.first.weight"),
        ("x = '';self.first=x.first", "*.first.weight"),
        ("self.first = getattr(nn, 'Linear')(1, 1)", "*@Linear.weight"),
        ("from torch.nn import Linear as L; self.first = L(1, 1)", "*@Linear.weight"),
        ("class Linear(nn.Module): pass", "*@Linear.weight"),
        ("kinds = {nn.Linear: 1}", "*@Linear.weight"),
    ],
)
def test_what_may_be_meant_passes(line: str, pattern: str):
    text = LAYER + f"        {line}\n"
    ast.parse(text)
    assert passes(text, pattern)


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("y = self.conv1(x) + self.conv1.weight", "*.conv1.weight"),
        ("del self.conv1", "*.conv2.weight"),
        ("self.other = x  # self.conv1 = x", "*.conv1.weight"),
        ("'''self.conv1 = nn.Linear(1, 1)'''", "*.conv1.weight"),
        ("raise ValueError('conv1 is none')", "*.conv1.weight"),
        ("conv1 = self.other(conv1=x)", "*.conv1.weight"),
        ("def conv1(self, conv2: int): pass", "*.conv*.weight"),
        ("setattr(self, 'other', x)", "*.conv1.weight"),
        ("setattr(self, f'{x}_scale', x)", "*.conv1.weight"),
        ("setattr(self, f'{x}', nn.Parameter(x))", "*.conv1.weight"),
        ("self.add_module('other', x)", "*.conv1.weight"),
        ("isinstance(x, (nn.Linear, nn.Conv2d))", "*@Linear.weight"),
        ("type(x) is nn.Linear", "*@Linear.weight"),
        ("def f(x: nn.Linear) -> nn.Linear: pass", "*@Linear.weight"),
        ("def f(x: 'nn.Linear'): '''A Linear.'''", "*@Linear.weight"),
        ("self.first: nn.Linear = x", "*@Linear.weight"),
        ("from torch.nn import Linear", "*@Linear.weight"),
        ("doc(intro='with Linear layers')", "*@Linear.weight"),
        ("match x:\n            case nn.Linear(): pass", "*@Linear.weight"),
        ("self.conv1 = nn.Linear(1, 1)", "*.conv1@Conv2d.weight"),
        ("self.other = nn.Conv2d(1, 1, 1)", "*.conv1@Conv2d.weight"),
    ],
)
def test_what_is_not_meant_does_not(line: str, pattern: str):
    text = LAYER + f"        {line}\n"
    ast.parse(text)
    assert not passes(text, pattern)


def test_a_word_is_found_where_it_stands_after_letters_of_several_bytes():
    text = "from torch import nn\r\nx = 'é'; self.conv1 = nn.Linear(1, 1)  # ü\r\n\ff'{é}é'; y.conv2 = x\r\n"
    found = Occurrences(Source.checked("a.py", text))
    assert [found.give(name) for each in ("conv1", "conv2", "conv3") if (name := wanted(f"*.{each}.weight"))] == [
        True,
        True,
        False,
    ]


def wanted(pattern: str):
    return Prefilter.of([Pattern.parse(pattern)]).wanted[0].name


def test_a_rule_is_written_into_what_torch_names(tmp_path):
    """More files than are read together: each stands alone, and is filtered."""
    for index in range(40):
        (tmp_path / f"m{index}.py").write_text(LAYER + "        self.a = nn.MultiheadAttention(4, 2)\n")
    files = read_files(sorted(tmp_path.glob("*.py")))
    outcomes = list(run(Asked(ruleset({"*.out_proj.weight": SPEC})), files))
    assert [each.path for each in outcomes if not each.matched] == []


@pytest.mark.parametrize("tree", [transformers_files, timm_files], ids=["transformers", "timm"])
def test_files_of_a_tree_that_are_filtered_away_would_not_be_changed(
    tree: Callable, size: str, evidence: Callable[[str, str], None]
):
    every = tree()
    files = [each for each in read_files(every if size == "full" else every[::40]) if isinstance(each, Read)]
    counts: Counter[str] = Counter()
    for pattern in PATTERNS:
        asked = Asked(ruleset({pattern: "spectral"}), again=False)
        prefilter = Prefilter.of([Pattern.parse(pattern)])
        for file in files:
            if not prefilter.passes(file.data):
                counts["by their bytes"] += 1
            elif prefilter.passes_as_python(Source.read(file.path, file.data)):
                counts["read whole"] += 1
                continue
            else:
                counts["by their tree"] += 1
            [outcome] = together(asked, [file], find_root=False)
            assert not outcome.changed, f"{file.path}: {pattern}"
    assert min(counts.values()) > 0
    told = ", ".join(f"{count} {how}" for how, count in sorted(counts.items()))
    evidence(f"files of {tree.__name__.partition('_')[0]} that {len(PATTERNS)} rules are not about", told)
