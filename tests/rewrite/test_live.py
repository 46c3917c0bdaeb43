"""Every tensor of a live model is told of the expression that made it: in a file of traps, and in transformers."""

from __future__ import annotations

import ast
import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from rewrite.live import Made, Untold, trace
from rewrite.source import Source
from tests.architecture import ROOT
from tests.rewrite.architectures import ARCHITECTURES, modeling_file
from tests.rewrite.verdicts import compare, key_of, places

FOURTH = 4  # in a small run one architecture of so many

TRAPS = """
import copy, functools
from collections import OrderedDict
import torch
from torch import nn

def logged(init):
    @functools.wraps(init)
    def wrapper(*args, **kwargs):
        return init(*args, **kwargs)
    return wrapper

def watched(init):
    def wrapper(this, *args):
        with torch.device("cpu"):
            return init(this, *args)
    return wrapper

def conv3x3(wide, deep):
    return nn.Conv2d(wide, deep, 3)

class Meta(type):
    def __call__(cls, *args, **kwargs):
        made = super().__call__(*args, **kwargs)
        made.ready = True
        return made

class Decorated(nn.Module):
    @logged
    @watched
    @torch.no_grad()
    def __init__(self, size):
        super().__init__()
        self.first = nn.Linear(size, 41)
        self.copied = nn.ModuleList([copy.deepcopy(self.first) for _ in range(2)])
        self.alone = copy.deepcopy(self.first)

class Metered(nn.Linear, metaclass=Meta): pass

class Scaled(nn.Linear):
    def __init__(self, wide, deep):
        super().__init__(wide, deep)
        self.factor = nn.Parameter(torch.ones(deep))

class Norm(nn.Module):
    def __init__(self, size):
        super().__init__()
        weight = torch.ones(size)
        local = nn.Parameter(weight)
        self.local = local
        self.register_parameter("bias", nn.Parameter(torch.zeros(size)))
        self.register_parameter("missing", None)
        self.one, self.other = local, nn.Parameter(weight + 1)
        self.annotated: nn.Parameter = nn.Parameter(weight + 2)

class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stubborn = nn.Parameter(torch.ones(3))

    def __setattr__(self, name, value):
        super().__setattr__(name, value)

    def register_parameter(self, name, value):
        super().register_parameter(name, value)

class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("late", torch.zeros(3))
        self.register_buffer("count", torch.zeros(3), persistent=False)
        self.buffer = nn.Buffer(torch.ones(2))
        self.norm = nn.BatchNorm1d(3)
        self.count = torch.ones(3)
        self.mean = torch.ones(4)
        self.double()

class Builders(nn.Module):
    def __init__(self):
        super().__init__()
        layer = functools.partial(nn.Linear, 31)
        kinds = {"conv": nn.Conv1d, "dense": nn.Linear}
        self.partly = layer(32)
        self.picked = kinds["conv"](33, 34, 1)
        setattr(self, "set_" + "later", nn.Linear(35, 36))
        for index in range(3):
            self.add_module(f"added{index}", nn.Linear(37, 38 + index))
        self.helped = conv3x3(5, 6)
        self.helped_too = conv3x3(6, 5)
        self.a, self.b = nn.Linear(51, 52), nn.Linear(51, 53); self.ab = nn.Linear(51, 54)
        self.listed = nn.ModuleList(nn.Linear(55, each) for each in (56, 57))
        self.listed.insert(0, nn.Linear(58, 59))
        self.named = nn.Sequential(OrderedDict(first=nn.Linear(61, 62), last=nn.ReLU()))
        self.later = nn.Sequential()
        self.later.append(nn.Linear(63, 64))
        self.ünïcode = "ü", nn.Linear(65, 66); self.ünïcode = self.ünïcode[1]
        self.split = (
            nn
            .Linear(67, 68)
        )
        local = nn
        self.split_by_local = (
            local
            .Linear(68, 67)
        )
        self.chained = (
            local.Linear(
                66, 65
            )
            .requires_grad_(
                True
            )
        )
        self.long = nn.Linear(
            in_features=69,
            out_features=70,
        )

class Copies(nn.Module):
    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Linear(71, 72), nn.ReLU())
        self.copies = nn.ModuleList([copy.deepcopy(block) for _ in range(2)])
        self.alone = copy.deepcopy(block)
        self.appended = nn.ModuleList()
        self.appended.append(copy.deepcopy(block))

class Hosts(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)
        self.stolen = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8), 1).layers
        self.memory = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
        self.lazy = nn.LazyLinear(7)
        self.lazy_norm = nn.LazyBatchNorm1d()
        (self
            .on_two_lines) = nn.Parameter(torch.ones(8))
        self.parameters_listed = nn.ParameterList([nn.Parameter(torch.ones(each)) for each in (2, 3)])
        self.parameters_later = nn.ParameterList()
        self.parameters_later.append(nn.Parameter(torch.ones(4)))
        self.parameters_later[0] = nn.Parameter(torch.ones(9))
        self.parameters_named = nn.ParameterDict({"one": nn.Parameter(torch.ones(5))})
        self.normed = nn.Linear(81, 82)
        nn.utils.parametrizations.weight_norm(self.normed)

class Changed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(91, 92)
        self.tied = nn.Linear(92, 91)
        self.tied.weight = self.embedding.weight
        self.replaced = nn.Linear(93, 94)
        self.replaced.weight = nn.Parameter(torch.zeros(94, 93))
        self.shared = self.tied
        self.from_another = nn.Linear(95, 96).weight
        self.taken = nn.MultiheadAttention(6, 2).out_proj.weight
        self.taken_away = nn.MultiheadAttention(8, 2).out_proj
        self.looked_into = nn.MultiheadAttention(10, 2)
        self.shown = self.looked_into.out_proj

class Child(nn.Module):
    def __init__(self, parent):
        super().__init__()
        self.own = nn.Parameter(torch.ones(1))
        parent.lent = copy.deepcopy(self)

class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.child = [Child(self)][0]

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.mapped = nn.ModuleList(map(nn.Linear, [2], [3]))
        self.listed = list(map(nn.Linear, [2], [3]))[0]
        self.mapped_and_called = nn.ModuleList([*map(nn.Linear, [2], [3])])
        exec("self.executed = nn.Linear(2, 3)")
        self.copied = copy.deepcopy(nn.Linear(4, 4))

class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.decorated = Decorated(40)
        self.metered = Metered(42, 43)
        self.scaled = Scaled(44, 45)
        self.norm = Norm(46)
        self.unyielding = Stubborn()
        self.kept = Buffers()
        self.builders = Builders()
        self.copies = Copies()
        self.hosts = Hosts()
        self.changed = Changed()
        self.parent = Parent()
        self.odd = Odd()
"""
LATER = "self.parameters_later[0]"
ENCODER = "nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)"
# by what names begin with, the longest first: the text of the expression, and "parameter", or the name below where that
# is no rest of the name; where there is no text, a part of the reason
EXPECTED: dict[str, tuple[str, str]] = {
    "decorated.first.": ("nn.Linear(size, 41)", ""),
    "decorated.copied.": ("nn.ModuleList([copy.deepcopy(self.first) for _ in range(2)])", ""),
    "decorated.alone.": ("Decorated(40)", ""),
    "metered.": ("Metered(42, 43)", ""),
    "scaled.weight": ("Scaled(44, 45)", "weight"),
    "scaled.bias": ("Scaled(44, 45)", "bias"),
    "scaled.factor": ("self.factor", "parameter"),
    "norm.local": ("self.local", "parameter"),
    "norm.bias": ('self.register_parameter("bias", nn.Parameter(torch.zeros(size)))', "parameter"),
    "norm.one": ("self.local", "parameter"),
    "norm.other": ("self.other", "parameter"),
    "norm.annotated": ("self.annotated", "parameter"),
    "unyielding.stubborn": ("self.stubborn", "parameter"),
    "kept.mean": ("self.mean", "parameter"),
    "kept.late": ('self.register_buffer("late", torch.zeros(3))', "parameter"),
    "kept.count": ("self.count", "parameter"),
    "kept.buffer": ("self.buffer", "parameter"),
    "kept.norm.": ("nn.BatchNorm1d(3)", ""),
    "builders.partly.": ("layer(32)", ""),
    "builders.picked.": ('kinds["conv"](33, 34, 1)', ""),
    "builders.set_later.": ("nn.Linear(35, 36)", ""),
    "builders.added": ("nn.Linear(37, 38 + index)", ""),
    "builders.helped": ("nn.Conv2d(wide, deep, 3)", ""),
    "builders.a.": ("nn.Linear(51, 52)", ""),
    "builders.b.": ("nn.Linear(51, 53)", ""),
    "builders.ab.": ("nn.Linear(51, 54)", ""),
    "builders.listed.0.": ("nn.Linear(58, 59)", ""),
    "builders.listed.": ("nn.Linear(55, each)", ""),
    "builders.named.": ("nn.Linear(61, 62)", ""),
    "builders.later.": ("nn.Linear(63, 64)", ""),
    "builders.ünïcode.": ("nn.Linear(65, 66)", ""),
    "builders.split.": ("nn\n            .Linear(67, 68)", ""),
    "builders.split_by_local.": ("local\n            .Linear(68, 67)", ""),
    "builders.chained.": ("local.Linear(\n                66, 65\n            )", ""),
    "builders.long.": ("nn.Linear(\n            in_features=69,\n            out_features=70,\n        )", ""),
    "copies.copies.": ("nn.ModuleList([copy.deepcopy(block) for _ in range(2)])", ""),
    "copies.alone.": ("Copies()", ""),
    "copies.appended.": ("Copies()", ""),
    "hosts.attention.": ("nn.MultiheadAttention(4, 2)", ""),
    "hosts.encoder.": (ENCODER, ""),
    "hosts.stolen.": ("Hosts()", ""),
    "hosts.memory.": ("nn.LSTM(3, 4, num_layers=2, bidirectional=True)", ""),
    "hosts.lazy.": ("nn.LazyLinear(7)", ""),
    "hosts.lazy_norm.": ("nn.LazyBatchNorm1d()", ""),
    "hosts.on_two_lines": ("self\n            .on_two_lines", "parameter"),
    "hosts.parameters_listed.": ("nn.ParameterList([nn.Parameter(torch.ones(each)) for each in (2, 3)])", ""),
    "hosts.parameters_later.": (LATER, "parameter"),
    "hosts.parameters_named.": ('nn.ParameterDict({"one": nn.Parameter(torch.ones(5))})', ""),
    "hosts.normed.bias": ("nn.Linear(81, 82)", "bias"),
    "hosts.normed.": ("nn.utils.parametrizations.weight_norm(self.normed)", "parameter"),
    "changed.embedding.": ("nn.Embedding(91, 92)", ""),
    "changed.tied.weight": ("nn.Embedding(91, 92)", "weight"),
    "changed.tied.bias": ("nn.Linear(92, 91)", "bias"),
    "changed.replaced.weight": ("self.replaced.weight", "parameter"),
    "changed.replaced.bias": ("nn.Linear(93, 94)", "bias"),
    "changed.shared.weight": ("nn.Embedding(91, 92)", "weight"),
    "changed.shared.bias": ("nn.Linear(92, 91)", "bias"),
    "changed.from_another": ("nn.Linear(95, 96)", "weight"),
    "changed.taken": ("", "taken out of a module of torch"),
    "changed.taken_away.": ("Changed()", ""),
    "changed.looked_into.": ("nn.MultiheadAttention(10, 2)", ""),
    "changed.shown.weight": ("nn.MultiheadAttention(10, 2)", "out_proj.weight"),
    "changed.shown.bias": ("nn.MultiheadAttention(10, 2)", "out_proj.bias"),
    "parent.child.own": ("self.own", "parameter"),
    "parent.lent.own": ("Parent()", "lent.own"),
    "odd.mapped.": ("nn.ModuleList(map(nn.Linear, [2], [3]))", ""),
    "odd.listed.": ("", "is no call of its own"),
    "odd.mapped_and_called.": ("", "is no call of its own"),
    "odd.executed.": ("", "stands in no file"),
    "odd.copied.": ("Odd()", ""),
}


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import a file with a text of your own."""
    names = []

    def load(text: str) -> ModuleType:
        file = tmp_path / f"file_{len(names)}.py"
        file.write_text(text, encoding="utf-8")
        names.append(f"traps_{tmp_path.name}_{len(names)}")
        return executed(names[-1], text, file)

    yield load
    for name in names:
        del sys.modules[name]


def executed(name: str, text: str, file: Path, **names: Any) -> ModuleType:
    """A module of that name, made of that text as if it stood in that file."""
    module = ModuleType(name)
    vars(module).update(names, __file__=str(file), __package__=name.rpartition(".")[0])
    sys.modules[name] = module
    exec(compile(text, str(file), "exec"), vars(module))
    return module


@cache
def source(file: str) -> Source:
    return Source.read(file, Path(file).read_bytes())


@cache
def expressions(file: str) -> dict[tuple[int, int, int, int], list[ast.expr]]:
    """The calls of a file and the targets of its assignments, by where they stand."""
    found: dict[tuple[int, int, int, int], list[ast.expr]] = {}
    tree = source(file).tree
    targets = [target for node in ast.walk(tree) for target in targets_of(node)]
    for node in (*targets, *(node for node in ast.walk(tree) if isinstance(node, ast.Call))):
        found.setdefault((node.lineno, node.col_offset, node.end_lineno, node.end_col_offset), []).append(node)
    return found


def targets_of(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Assign(targets=targets):
            return [each for target in targets for each in getattr(target, "elts", [target])]
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            return [target]
    return []


def expression(made: Made) -> ast.expr:
    """The one call or target that stands exactly there."""
    [node] = expressions(made.file)[made.line, made.column, made.end_line, made.end_column]
    assert isinstance(node, ast.Call) or made.kind == "parameter"
    return node


def text_of(made: Made) -> str:
    text = source(made.file)
    begin, end = text.span(expression(made))
    return text.text[begin:end]


def expected(name: str) -> tuple[str, str]:
    """The row of EXPECTED for a name: the longest that it begins with."""
    return EXPECTED[max((begin for begin in EXPECTED if name.startswith(begin)), key=len)]


def test_each_tensor_of_the_traps_is_told_of_its_expression(imported: Callable[[str], ModuleType]) -> None:
    traps = imported(TRAPS)
    traced, model = trace(traps.Everything), traps.Everything()
    assert list(traced.parameters) == [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert list(traced.buffers) == [name for name, _ in model.named_buffers(remove_duplicate=False)]
    for name, made in (traced.parameters | traced.buffers).items():
        text, below = expected(name)
        if not text:
            assert isinstance(made, Untold), name
            assert below in made.reason
            continue
        assert isinstance(made, Made), (name, made)
        assert (name, text_of(made)) == (name, text)
        assert TRAPS.count(text) == 1
        assert made.kind == ("parameter" if below == "parameter" else "call")
        if made.kind == "parameter":
            assert made.name_below == ""
        else:
            assert name.endswith(f".{made.name_below}") if not below else below == made.name_below
    assert set(EXPECTED.values()) == {expected(name) for name in traced.parameters | traced.buffers}


def test_verdicts_are_held_against_live_names(imported: Callable[[str], ModuleType]) -> None:
    traps = imported(TRAPS)
    traced = trace(lambda: nn.ModuleDict({"stem": traps.Builders(), "norm": traps.Norm(3)}))
    made_at = {text_of(made): key_of(made) for made in traced.parameters.values() if made.name_below in ("", "weight")}
    helper, added = made_at["nn.Conv2d(wide, deep, 3)"], made_at["nn.Linear(37, 38 + index)"]
    inner = made_at['self.register_parameter("bias", nn.Parameter(torch.zeros(size)))']
    assert TRAPS.splitlines()[inner[1] - 1][inner[2] :].startswith("nn.Parameter(torch.zeros(size))")
    other, local = made_at["self.other"], made_at["self.local"]
    assert TRAPS.splitlines()[other[1] - 1][other[2] :] == "nn.Parameter(weight + 1)"
    assert TRAPS.splitlines()[local[1] - 1][local[2] :] == "self.local = local"
    truth = {name: name.startswith("stem.helped.") for name in traced.parameters}
    told = len(places(traced))
    right = compare(traced, truth, {helper: "SOME", added: "NONE", inner: "SOME"})
    assert (right.wrong, right.decided, right.undecided, right.needless) == ((), 1, 2, 1)
    assert (len(right.missing), right.untold) == (told - 3, ())
    file, line, column, _ = helper
    for verdict, others in (("ALL", "stem.helped_too.weight"), ("NONE", "stem.helped.weight")):
        wrong = compare(traced, truth, {helper: verdict}).wrong
        assert wrong == (f"{file}:{line}:{column} weight: {verdict}, but not so {others}",)


def test_a_second_trace_gives_the_same_and_nothing_stays_behind(imported: Callable[[str], ModuleType]) -> None:
    traps = imported(TRAPS)
    first = trace(traps.Everything)
    assert trace(traps.Everything) == first
    assert pickle.loads(pickle.dumps(first)) == first
    seen = []
    with pytest.raises(ZeroDivisionError):
        trace(lambda: seen.append(nn.Linear(2, 2)) or 1 / 0)
    made_later = weakref.ref(nn.Linear(2, 2))  # a hook that is still there would keep it
    gc.collect()
    assert made_later() is None
    nested = trace(lambda: seen.append(trace(traps.Everything)) or traps.Everything())
    assert nested == first == seen[-1]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)


def test_the_builder_makes_the_model_that_it_would_have_made() -> None:
    torch.manual_seed(3)
    plain = ARCHITECTURES["BERT"].build().state_dict()
    drawn = torch.get_rng_state()
    models: list[nn.Module] = []
    torch.manual_seed(3)
    trace(lambda: models.append(ARCHITECTURES["BERT"].build()) or models[0])
    assert torch.equal(torch.get_rng_state(), drawn)
    assert list(models[0].state_dict()) == list(plain)
    assert all(torch.equal(tensor, plain[name]) for name, tensor in models[0].state_dict().items())


@pytest.mark.parametrize("made", [None, 3, Small])
def test_a_builder_that_builds_no_model_is_refused(made: object) -> None:
    with pytest.raises(TypeError, match="the builder must return a"):
        trace(lambda: made)  # type: ignore[arg-type, return-value]


def test_what_was_there_before_is_not_told() -> None:
    model = Small()
    for build in (lambda: model, partial(nn.Linear, 2, 3)):
        told = trace(build).parameters.values()
        assert all(isinstance(each, Untold) and "was there before" in each.reason for each in told)


def test_a_model_may_be_the_call_in_the_builder_and_a_builder_may_change_it() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 3), nn.TransformerEncoderLayer(4, 2, 8))
        model[0].bias = nn.Parameter(torch.zeros(3))
        model.insert(0, nn.PReLU())
        return model

    told = trace(build).parameters
    assert text_of(told["0.weight"]) == "nn.PReLU()"
    assert text_of(told["1.weight"]) == "nn.Linear(2, 3)"
    assert (text_of(told["1.bias"]), told["1.bias"].kind) == ("model[0].bias", "parameter")
    assert text_of(told["2.self_attn.out_proj.bias"]) == "nn.TransformerEncoderLayer(4, 2, 8)"
    assert told["2.self_attn.out_proj.bias"].name_below == "self_attn.out_proj.bias"


def test_a_hook_that_puts_another_parameter_in_changes_nothing() -> None:
    def doubled(_module: nn.Module, _name: str, parameter: Tensor) -> Tensor:
        return nn.Parameter(parameter.detach() * 2)

    plain = trace(Small)
    handle = register_module_parameter_registration_hook(doubled)
    try:
        assert trace(Small) == plain
    finally:
        handle.remove()


def test_a_file_that_is_another_one_by_now_is_not_told(imported: Callable[[str], ModuleType]) -> None:
    traps = imported(TRAPS)
    Path(str(traps.__file__)).write_text("\n" * 300, encoding="utf-8")
    told = trace(lambda: traps.Norm(3)).parameters.values()
    assert all(each.reason.endswith(f"of {traps.__file__} is no call of its own") for each in told)
    Path(str(traps.__file__)).write_text("def", encoding="utf-8")
    told = trace(lambda: traps.Norm(3)).parameters.values()
    assert all(each.reason == f"{traps.__file__} cannot be read: invalid syntax" for each in told)


NO_POSITIONS = """
from rewrite.live import trace
from tests.rewrite.test_live import Small
print(trace(lambda: Small()).parameters["linear.weight"].reason)
"""


def test_a_python_without_positions_is_told_how_it_gets_them() -> None:
    command = [sys.executable, "-X", "no_debug_ranges", "-c", NO_POSITIONS]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "start it without -X no_debug_ranges" in ran.stdout, ran.stderr


def asked(size: str) -> list[str]:
    """The architectures of a run."""
    return list(ARCHITECTURES)[:: FOURTH if size == "small" else 1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_tensor_of_an_architecture_is_told_of_the_expression_that_made_it(name: str, size: str) -> None:
    """Built from the same file with a mark around each call, a model has the marks on the modules that are told."""
    if name not in asked(size):
        pytest.skip("in a full run")
    architecture, file = ARCHITECTURES[name], str(modeling_file(name))
    traced = trace(architecture.build)
    told = traced.parameters | traced.buffers
    model = architecture.build(model_class=marked_class(architecture.model_class, file, told))
    modules, aliases = dict(model.named_modules(remove_duplicate=False)), names_of(model)
    assert set(aliases) == set(told)
    for full_name, made in told.items():
        assert isinstance(made, Made), (full_name, made)
        node = expression(made)
        if made.kind == "parameter":
            given = {alias.rpartition(".")[2] for alias in aliases[full_name]}
            assert name_given(node) in {None, *given}, full_name
        elif made.file == file:
            places = [alias[: -len(made.name_below)] for alias in aliases[full_name] if told[alias] == made]
            unmarked = any(
                type(one).__module__ == architecture.model_class.__module__ for one in around(modules, places)
            )
            marks = [vars(modules[place.rstrip(".")]).get(MARKS) for place in places]
            assert unmarked or [(made.line, made.column)] in marks, full_name


def around(modules: dict[str, nn.Module], places: list[str]) -> Iterator[nn.Module]:
    """The modules around these places: what ``AutoModel`` made is of the classes of the file without marks."""
    for place in places:
        parts = place.split(".")
        yield from (modules[".".join(parts[:length])] for length in range(len(parts)))


def test_how_many_tensors_are_told(size: str, evidence: Callable[[str, str], None]) -> None:
    names = asked(size)
    told = [made for name in names for made in trace(ARCHITECTURES[name].build).parameters.values()]
    assert len(names) > 50
    assert all(isinstance(made, Made) and expression(made) for made in told)
    places = {(made.file, made.line, made.column, made.name_below) for made in told}
    files = {made.file for made in told}
    evidence(
        f"parameters of {len(names)} published architectures: told of the one call or assignment that made them",
        f"{len(told)} of {len(told)}, {len(places)} places in {len(files)} files",
    )


MARKS = "made_at"
MARK = "__mark__"


def mark(module: nn.Module, *place: int) -> nn.Module:
    """``module``, which remembers that a call at ``place`` made it."""
    assert isinstance(module, nn.Module)
    vars(module).setdefault(MARKS, []).append(place)
    return module


def marked_class(cls: type[nn.Module], file: str, told: dict[str, Made | Untold]) -> type[nn.Module]:
    """The class from a copy of its module, where a mark stands around each call of ``file`` that is told."""
    calls = {made for made in told.values() if isinstance(made, Made) and (made.file, made.kind) == (file, "call")}
    text, edits = source(file), {}
    for made in calls:
        begin, end = text.span(expression(made))
        edits[begin, 1, -end] = f"{MARK}("
        edits[end, 0, 0] = f", {made.line}, {made.column})"
    parts, last = [], 0
    for (offset, *_), inserted in sorted(edits.items()):
        parts += (text.text[last:offset], inserted)
        last = offset
    module = f"{cls.__module__}_marked"
    try:
        marked = executed(module, "".join(parts) + text.text[last:], Path(file), **{MARK: mark})
    finally:
        del sys.modules[module]
    return vars(marked)[cls.__name__]


def names_of(model: nn.Module) -> dict[str, list[str]]:
    """All names of each tensor, by each of them."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    found: dict[int, list[str]] = {}
    for name, tensor in named:
        found.setdefault(id(tensor), []).append(name)
    return {name: found[id(tensor)] for name, tensor in named}


def name_given(node: ast.expr) -> str | None:
    """The name under which an assignment, or a call with a literal name, registers a tensor."""
    match node:
        case ast.Attribute(attr=attribute):
            return attribute
        case ast.Call(args=[ast.Constant(value=str(name)), *_]):
            return name
    return None
