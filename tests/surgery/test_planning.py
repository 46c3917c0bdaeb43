"""A plan tells what rules would do, in numbers that are right and a table that fits; it changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import gc
import html.parser
import io
import os
import re
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import surgery
from computed import preparing
from computed.constraints.spectral import Spectral
from computed.parameter import ComputedParameter
from computed.torch_private import address_of
from surgery import planned, progress
from tests.surgery.models import MODELS, SPECS, Listed, ResNet, TiedLM
from tests.surgery.picture import differences, picture

EVERY_MODEL = [pytest.param(*case, id=name) for name, case in MODELS.items()]
ESCAPE = "\x1b"
Build = Callable[[], nn.Module]
Rules = dict[str, object]


class Deep(nn.Module):
    """Names of every awkward kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a_module_whose_name_is_much_longer_than_a_table_of_eighty_columns_could_ever_give_a_single_name = (
            nn.Linear(3, 3)
        )
        inner: nn.Module = nn.Linear(3, 3)
        for name in ("projection", "attention", "transformer_layer", "encoder_stack", "backbone"):
            inner = nn.ModuleDict({name: inner})
        self.chain = inner
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.chain["backbone"]["encoder_stack"]["transformer_layer"]["attention"][
            "projection"
        ].weight
        self.größe = nn.Conv2d(3, 3, (1, 11))


LONG_RULES: Rules = {
    "*.weight": "symmetric | spectral(bound=0.123456789, n_power_iterations=12, eps=1.5e-07) | lora(2, alpha=0.25)",
    "größe.weight": "spectral(bound=0.123456789, dim=0)",
    "*.bias": "frozen",
    "größe.bias": "interval(-1000000.0, 1000000.0)",
}


def numbers_in(text: str) -> list[str]:
    return re.findall(r"\d[\d,]*", text)


# the table


def test_the_table_of_a_plan():
    torch.manual_seed(3)
    model = ResNet()
    with torch.no_grad():
        model.stem.weight.fill_(0.0)
        model.stem.weight[0, 0, 0, 0] = 4.0
        model.head.weight.copy_(torch.eye(3, 4) * torch.tensor([0.5, 0.25, 0.125])[:, None])
    rules = {"*.bn?.*": "frozen", "stem.weight": "spectral(bound=1)", "head.weight": "spectral"}
    assert str(surgery.plan(model, rules)) == TABLE


TABLE = """\
parameter         constraint                  numbers  moved   sigma
stem.weight       spectral(bound=1.0, dim=0)      108  0.750       4
  Conv2d 4x3x3x3                                                -> 1
8 parameters      frozen                           32
                  by '*.bn?.*'
head.weight       spectral(norm=1.0)               12  1.000     0.5
  Linear 3x4                                                  -> 1 ^

2 to constrain, 8 to freeze, 0 left alone by a rule, 17 that no rule matches
trainable: 731 of 731 (100.00 %) before
           699 of 731 (95.62 %) after
memory: held values 480 B, undo 480 B
^ scaled up: the weight was smaller than what the constraint sets"""


@pytest.mark.parametrize("name", ["deep", *MODELS])
def test_nothing_is_wider_than_80_columns(name: str):
    build, rules = (Deep, LONG_RULES) if name == "deep" else (MODELS[name][0], MODELS[name][2])
    model = build()
    plan = surgery.plan(model, {**rules, "no.such.parameter": "spectral", "*.nothing": "orthogonal"}, strict=False)
    for shown in (plan, surgery.plan(model, {**rules, "*.nothing": "spectral"})):
        lines = str(shown).splitlines()
        assert max(map(len, lines)) <= 80
        assert not [line for line in lines if line != line.rstrip()]
    plan.apply()
    assert max(map(len, str(surgery.check(model)).splitlines())) <= 80


def test_a_name_that_is_too_long_is_broken_and_not_cut():
    model = Deep()
    shown = str(surgery.plan(model, {"a_module*.weight": "spectral"}))
    head, *table = shown.split("\n\n")[0].splitlines()
    assert head.split() == ["parameter", "constraint", "numbers", "moved", "sigma"]
    (name,) = [name for name, _ in model.named_parameters() if name.startswith("a_module") and name.endswith("weight")]
    letters = "".join(line[: head.index("constraint")].strip() for line in table)
    assert letters == f"{name}Linear 3x3"


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"])
def test_a_pipe_gets_no_escape_codes(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("COLUMNS", "33")
    monkeypatch.setenv("TERM", "xterm-256color")
    plan = surgery.plan(ResNet(), {"*conv*.weight": "spectral"})
    assert ESCAPE not in str(plan)
    assert ESCAPE not in str(surgery.check(plan.apply().model))
    assert str(plan).splitlines()[0].split() == ["parameter", "constraint", "numbers", "moved", "sigma"]


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "expected"), [(40, 80), (80, 80), (200, 200)])
def test_a_terminal_is_used_in_its_width(columns: int, expected: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", Terminal())
    shown = str(surgery.plan(Deep(), LONG_RULES))
    widths = list(map(len, shown.splitlines()))
    assert max(widths) <= expected
    assert (max(widths) > 80) is (expected > 80)
    assert ESCAPE not in shown


def test_rich_prints_a_plan():
    printed = io.StringIO()
    Console(file=printed, width=100, color_system=None).print(surgery.plan(nn.Linear(3, 3), {"weight": "spectral"}))
    assert "spectral(norm=1.0)" in printed.getvalue()


class Cells(html.parser.HTMLParser):
    """The tags and texts of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1], []).append(data)


def test_a_notebook_gets_a_table():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_module("<b>&'\"", nn.Linear(3, 3))

    plan = surgery.plan(Odd(), {"*.weight": "spectral"})
    cells = Cells()
    cells.feed(plan._repr_html_())
    assert cells.open == []
    assert cells.texts["th"] == ["parameter", "constraint", "numbers", "moved", "sigma"]
    assert any(text.startswith("<b>&'\"") for text in cells.texts["td"])
    assert "memory: held values 36 B, undo 36 B" in cells.texts["p"]
    assert "b" not in cells.texts


def test_what_one_rule_leaves_as_it_is_takes_one_line():
    shown = str(surgery.plan(ResNet(), {"*": "frozen", "*conv*.weight": None, "stem.*": "frozen"}))
    assert "14 parameters" not in shown.split("stem")[0]
    assert len(shown.splitlines()) < 20
    assert "exempt" in shown


def test_an_empty_plan_prints():
    plan = surgery.plan(nn.ReLU(), {})
    assert str(plan).startswith("\n0 to constrain, 0 left alone by a rule, 0 that no rule matches\ntrainable: 0 of 0\n")
    assert "<table>" in plan._repr_html_()


def test_a_repr_is_one_line():
    plan = surgery.plan(ResNet(), {"*conv*.weight": "spectral", "nope": "spectral"})
    assert repr(plan) == "Plan(4 sites, 1 problems)"
    assert repr(surgery.plan(ResNet(), {"stem.weight": "spectral"})) == "Plan(1 sites, 0 problems)"


# the numbers


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "build", [lambda: nn.Linear(4, 6), lambda: nn.Conv2d(4, 6, 3), lambda: nn.ConvTranspose2d(4, 6, 3)]
)
def test_distance_and_singular_values_are_those_of_numpy(build: Build, spec: str):
    model = build()
    before = model.weight.detach().double().numpy()
    (row,) = surgery.plan(model, {"weight": spec}).sites
    surgery.apply_constraints(model.eval(), {"weight": spec})
    after = model.weight.detach().double().numpy()
    moved = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert row.measures.moved == pytest.approx(moved, rel=1e-4, abs=1e-7)
    rows = 1 if isinstance(model, nn.ConvTranspose2d) else 0
    matrices = [np.moveaxis(weight, rows, 0).reshape(weight.shape[rows], -1) for weight in (before, after)]
    sigmas = [np.linalg.svd(matrix, compute_uv=False)[0] for matrix in matrices]
    assert row.measures.sigma_before == pytest.approx(sigmas[0], rel=1e-5)
    assert row.measures.sigma_after == pytest.approx(sigmas[1], rel=1e-4)


def test_what_is_no_matrix_has_no_singular_values():
    model = Listed()
    rows = {row.name: row.measures for row in surgery.plan(model, {"scale": "positive", "named.*": "positive"}).sites}
    assert rows["scale"].sigma_before is None
    assert rows["named.a"].sigma_before is not None
    three = nn.Module()
    three.experts = nn.Parameter(torch.randn(2, 3, 4))
    assert surgery.plan(three, {"experts": "positive"}).sites[0].measures.sigma_before is None


def test_a_zero_weight_moves_infinitely_far_and_one_inside_not_at_all():
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.zero_()
    (row,) = surgery.plan(model, {"weight": "spectral"}).sites
    assert row.measures.moved == float("inf")
    assert row.measures.scaled_up
    (row,) = surgery.plan(model, {"weight": "spectral(bound=1.0)"}).sites
    assert row.measures == dataclasses.replace(
        row.measures, moved=0.0, sigma_before=0.0, sigma_after=0.0, scaled_up=False
    )


@pytest.mark.parametrize(
    ("scale", "spec", "mark"), [(0.1, "spectral", True), (9.0, "spectral", False), (0.1, "spectral(bound=1)", False)]
)
def test_scaling_up_is_marked(scale: float, spec: str, mark: bool):
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3) * scale)
    plan = surgery.plan(model, {"weight": spec})
    assert plan.sites[0].measures.scaled_up is mark
    assert ("^ scaled up: the weight was smaller" in str(plan)) is mark


def test_a_nan_weight_is_planned():
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    plan = surgery.plan(model, {"weight": "spectral(bound=1)"})
    assert plan.sites[0].measures.sigma_before is None
    assert plan == plan
    assert "nan" in str(plan)


@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_totals_are_those_after_the_apply(build: Build, inputs: Callable[[], Tensor], rules: Rules):
    model = build()
    first = next(iter(model.parameters())).requires_grad_(False)
    for each in (rules, {"*": "frozen", **rules}):
        if each is not rules:
            surgery.undo(model)
        plan = surgery.plan(model, each, strict=False)
        assert (plan.trainable_before, plan.total_before) == counts(model)
        undo = plan.apply()
        assert (plan.trainable_after, plan.total_after) == counts(model), each
        assert undo.sites == sum(len(row.found.slots) for row in plan.sites if row.changes)
        for line in str(plan).splitlines():
            if line.startswith("trainable: "):
                assert numbers_in(line)[:2] == [f"{plan.trainable_before:,}", f"{plan.total_before:,}"]
    assert not first.requires_grad


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize(
    "spec", [*SPECS, "symmetric | lora(2)", "weight_norm | lora(2)", "lora(1) | lora(2)", "lora(2) | spectral"]
)
def test_totals_of_every_constraint(spec: str, requires_grad: bool):
    model = nn.Linear(4, 4)
    model.weight.requires_grad_(requires_grad)
    plan = surgery.plan(model, {"weight": spec})
    plan.apply()
    assert (plan.trainable_after, plan.total_after) == counts(model)
    trained = [raw for raw in model.weight.raws.values() if raw.requires_grad]
    model(torch.randn(2, 4)).sum().backward()
    assert all(raw.grad is not None for raw in trained)


def counts(model: nn.Module) -> tuple[int, int]:
    sizes = [(tensor.numel(), tensor.requires_grad) for tensor in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def stored_bytes() -> int:
    """The bytes behind all tensors that Python can reach, each address once; what is only read is not copied."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if type(thing) in PLAIN and not thing.is_meta:
            found[address_of(thing)] = thing.untyped_storage().nbytes()
    return sum(found.values())


PLAIN = (Tensor, nn.Parameter)


def test_the_memory_is_what_the_plan_says():
    model = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False)).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    plan = surgery.plan(model, {"*.weight": "symmetric"})
    assert plan.hold_bytes == plan.undo_bytes == 2 * 256 * 256 * 4
    assert "memory: held values 512.0 KiB, undo 512.0 KiB" in str(plan)
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(layer.weight + layer.weight.T)  # inside: an apply moves no bits
    undo = surgery.plan(model, {"*.weight": "symmetric"}).apply()
    del plan
    start = stored_bytes()
    model(torch.randn(1, 256))
    assert stored_bytes() - start == pytest.approx(undo_bytes(undo), abs=4096)
    for layer in model:
        with torch.no_grad():
            layer.weight.raws["raw"].add_(1.0)
    model(torch.randn(1, 256))
    assert stored_bytes() - start == pytest.approx(2 * undo_bytes(undo), abs=4096)
    surgery.undo(model)
    del undo
    assert stored_bytes() - start == pytest.approx(0, abs=4096)


def undo_bytes(undo: surgery.Undo) -> int:
    return sum(kept.tensor.numel() * 4 for kept in undo.record.tensors)


def test_an_apply_copies_nothing_where_it_moves_nothing():
    model = nn.Linear(64, 64)
    address = address_of(model.weight)
    surgery.apply_constraints(model, {"weight": "spectral(bound=100.0)"})
    assert address_of(model.weight.raws["raw"]) == address


# a value


def test_a_plan_is_frozen():
    plan = surgery.plan(nn.Linear(3, 3), {"weight": "spectral"})
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'sites'"):
        plan.sites = ()
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'action'"):
        plan.sites[0].action = None
    assert isinstance(plan.sites, tuple)
    assert isinstance(plan.problems, tuple)


def test_plans_compare_by_what_they_propose():
    model = ResNet()
    rules = {"*conv*.weight": "spectral", "head.*": "frozen"}
    plan = surgery.plan(model, rules)
    assert plan == surgery.plan(model, rules)
    assert hash(plan) == hash(surgery.plan(model, rules))
    assert plan == surgery.plan(copy.deepcopy(model), rules)
    assert plan != surgery.plan(model, {**rules, "head.bias": None})
    assert plan != surgery.plan(model, {"*conv*.weight": "spectral(bound=1)", "head.*": "frozen"})
    assert plan != surgery.plan(ResNet(), rules)
    assert plan != rules


def test_a_plan_is_carried_out_once_or_undone_and_again():
    model = nn.Linear(3, 3)
    plan = surgery.plan(model, {"weight": "spectral"})
    undo = plan.apply()
    with pytest.raises(
        surgery.SurgeryError, match=r"the model has changed since it was planned: weight or its module is"
    ):
        plan.apply()
    undo()
    plan.apply()
    assert surgery.check(model).ok


def test_a_plan_with_problems_is_not_carried_out():
    plan = surgery.plan(nn.Linear(3, 3), {"weight": "spectral", "nope": "spectral"})
    assert not plan.ok
    assert [row.name for row in plan.sites] == ["weight"]
    with pytest.raises(
        surgery.PlanError, match=r"^1 problem, nothing was changed:\n  - rule 'nope': 'spectral' matches none"
    ):
        plan.apply()
    assert "problem: rule 'nope'" in str(plan)


# stale plans


def by_data(model: nn.Module) -> None:
    model.head.weight.data = torch.zeros(3, 4)


def in_data(model: nn.Module) -> None:
    model.head.weight.data[0, 0] += 1


def by_a_fused_step(model: nn.Module) -> None:
    model.head.weight.grad = torch.ones(3, 4)
    torch.optim.Adam([model.head.weight], fused=True).step()


def by_a_new_parameter(model: nn.Module) -> None:
    model.head.extra = nn.Parameter(torch.ones(1))


def by_a_flag(model: nn.Module) -> None:
    model.stem.weight.requires_grad_(False)


def by_a_tie(model: nn.Module) -> None:
    model.blocks[0].conv1.weight = model.blocks[0].conv2.weight


def by_another_module(model: nn.Module) -> None:
    other = nn.Linear(4, 3)
    other.weight, other.bias = model.head.weight, model.head.bias
    model.head = other


def by_a_removal(model: nn.Module) -> None:
    del model.blocks[1]


def by_a_constraint(model: nn.Module) -> None:
    surgery.constrain(model.stem, weight="spectral")


CHANGES = {
    by_data: r"the values of head\.weight changed",
    in_data: r"the values of head\.weight changed",
    by_a_fused_step: r"the values of head\.weight changed",
    by_a_new_parameter: r"parameters were added",
    by_a_flag: r"stem\.weight or its module is another object, or its requires_grad was set",
    by_a_tie: r"blocks\.0\.conv1\.weight is gone or tied otherwise",
    by_another_module: r"head\.weight or its module is another object",
    by_a_removal: r"blocks\.1\.conv1\.weight is gone or tied otherwise",
    by_a_constraint: r"stem\.weight or its module is another object",
}


@pytest.mark.parametrize(("change", "message"), CHANGES.items(), ids=[change.__name__ for change in CHANGES])
def test_a_plan_is_refused_where_the_model_has_changed(change: Callable[[nn.Module], None], message: str):
    model = ResNet()
    plan = surgery.plan(model, {"head.weight": "spectral"})
    change(model)
    before = picture(model)
    with pytest.raises(
        surgery.SurgeryError, match=f"the model has changed since it was planned: {message}.*; make a new plan"
    ):
        plan.apply()
    assert differences(before, picture(model)) == []


def test_a_broken_tie_is_seen():
    model = TiedLM()
    plan = surgery.plan(model, {"mix.weight": "spectral"})
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    with pytest.raises(surgery.SurgeryError, match=r"embedding\.weight is gone or tied otherwise"):
        plan.apply()


def test_memory_that_torch_did_not_allocate_is_watched_too():
    model = nn.Linear(3, 3)
    array = np.ones((3, 3), dtype=np.float32)
    model.weight = nn.Parameter(torch.from_numpy(array))
    plan = surgery.plan(model, {"weight": "spectral"})
    array[0, 0] = 2.0
    with pytest.raises(surgery.SurgeryError, match=r"the values of weight changed"):
        plan.apply()


def test_training_elsewhere_does_not_matter():
    model = ResNet()
    plan = surgery.plan(model, {"head.weight": "spectral"})
    with torch.no_grad():
        model.stem.weight.add_(1.0)
    model.eval()
    plan.apply()
    assert isinstance(model.head.weight, ComputedParameter)


def test_the_raws_of_a_constraint_are_watched():
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "symmetric"})
    plan = surgery.plan(model, {"weight": "spectral"}, existing="chain")
    with torch.no_grad():
        model.weight.raws["raw"].add_(1.0)
    with pytest.raises(surgery.SurgeryError, match=r"the values of weight\.raw changed"):
        plan.apply()


# purity


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_planning_changes_nothing(build: Build, inputs: Callable[[], Tensor], rules: Rules, training: bool):
    model = build().train(training)
    batch = inputs()
    model(batch).sum().backward()
    before = picture(model)
    plan = surgery.plan(model, {"*": "frozen", **rules})
    str(plan), repr(plan), plan._repr_html_(), hash(plan), plan.hold_bytes
    surgery.plan(model, {"*": "orthogonal"})
    assert differences(before, picture(model)) == []


@pytest.mark.parametrize("existing", ["chain", "replace", "error"])
@pytest.mark.parametrize(("build", "inputs", "rules"), EVERY_MODEL)
def test_planning_over_constraints_changes_nothing(
    build: Build, inputs: Callable[[], Tensor], rules: Rules, existing: str
):
    model = surgery.apply_constraints(build(), rules)
    batch = inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(batch).sum().backward()
        optimizer.step()
    model(batch).sum().backward()
    before, held = picture(model), [weight._pending_state for weight in surgery.computed_parameters(model).values()]
    other = dict.fromkeys(rules, "interval(-0.5, 0.5)")
    str(surgery.plan(model, {"*": "frozen", **other}, existing=existing))
    str(surgery.plan(model, rules))
    str(surgery.check(model))
    surgery.state_dict(model, format="plain")
    assert differences(before, picture(model)) == []
    assert [weight._pending_state for weight in surgery.computed_parameters(model).values()] == held


def test_nothing_outlives_a_plan_and_its_model():
    model = nn.Linear(3, 3)
    plan = surgery.plan(model, {"weight": "spectral"})
    plan.apply()
    model(torch.randn(2, 3)).sum().backward()
    gone = weakref.ref(model), weakref.ref(model.weight), weakref.ref(plan)
    del model, plan
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3


# progress


def test_a_long_plan_shows_its_progress_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    surgery.plan(ResNet(), {"*conv*.weight": "spectral"})
    assert capsys.readouterr() == ("", "")
    # as `tracked` imports it
    monkeypatch.setattr("rich.console.Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=80))
    surgery.plan(ResNet(), {"*conv*.weight": "spectral"})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "planning" in printed.err


def test_planning_a_large_model_walks_it_once(monkeypatch: pytest.MonkeyPatch):
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(200)])
    calls = []
    original = nn.Module.named_modules

    def counted(self: nn.Module, *args: object, **kwargs: object) -> object:
        calls.append(self is model)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "named_modules", counted)
    plan = planned.plan(model, {"*.weight": "symmetric"})
    assert len(plan.sites) == 200
    assert sum(calls) < 10


def test_each_weight_is_projected_and_decomposed_once(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    value, cold = preparing.projected_value, Spectral.cold_state
    monkeypatch.setattr(preparing, "projected_value", lambda *args: calls.append("value") or value(*args))
    monkeypatch.setattr(Spectral, "cold_state", lambda self, raw: calls.append("state") or cold(self, raw))
    plan = surgery.plan(nn.Linear(5, 4), {"weight": "spectral(norm=100.0)"})
    assert sorted(calls) == ["state", "value"]
    assert plan.sites[0].measures.scaled_up
    assert plan.sites[0].prepared is not None
    assert plan.sites[0].prepared.value is None  # values of all sites would be a second model


def test_the_environment_is_left_alone():
    before = dict(os.environ)
    surgery.plan(ResNet(), {"*conv*.weight": "spectral"})
    assert dict(os.environ) == before
