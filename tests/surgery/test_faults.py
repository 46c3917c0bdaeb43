"""All of an apply, or nothing: a fault at any step leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import surgery
from surgery import applying
from tests.surgery.models import MODELS, Listed, ResNet, TiedLM
from tests.surgery.picture import differences, picture

Build = Callable[[], nn.Module]
Rules = dict[str, object]


class Fault(Exception):
    """The planted fault."""


STEPS = ("assemble", "place", "rebuild_flat_weights", "set_mode", "_change", "_persistent", "_freeze")
FAULTY = {
    "resnet": (ResNet, {"*conv*.weight": "spectral", "head.*": "frozen", "stem.weight": "lora(2)"}, "share"),
    "lstm": (MODELS["lstm"][0], {"rnn.weight_hh*": "orthogonal", "rnn.bias*": "frozen", "out.*": "positive"}, "share"),
    "tied": (TiedLM, {"head.weight": "weight_norm", "mix.weight": "symmetric", "mix.bias": "frozen"}, "share"),
    "split": (TiedLM, {"{head,embedding}.weight": "lora(2)", "mix.weight": "symmetric"}, "split"),
    "listed": (Listed, MODELS["listed"][2], "share"),
}  # fmt: skip


def failing_at(monkeypatch: pytest.MonkeyPatch, step: str, call: int, *, after: bool) -> None:
    """Let call number ``call`` of ``step`` raise, before it does anything or after it has."""
    original, count = getattr(applying, step), iter(range(1000))

    def faulty(*args: object, **kwargs: object) -> object:
        planted = next(count) == call
        if planted and not after:
            raise Fault
        result = original(*args, **kwargs)
        if planted:
            raise Fault
        return result

    monkeypatch.setattr(applying, step, faulty)


def calls_of(step: str, build: Build, rules: Rules, tie: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        failing_at(patch, step, 999, after=False)
        counting, calls = getattr(applying, step), []
        patch.setattr(applying, step, lambda *args, **kwargs: [calls.append(1), counting(*args, **kwargs)][1])
        surgery.apply_constraints(build(), rules, tie=tie)
    return len(calls)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", FAULTY)
def test_a_fault_at_any_step_leaves_the_model_as_it_was(case: str, step: str, after: bool):
    build, rules, tie = FAULTY[case]
    calls = calls_of(step, build, rules, tie)
    model = build()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, keys = picture(model), list(model.state_dict())
    for call in range(calls):
        with pytest.MonkeyPatch.context() as patch:
            failing_at(patch, step, call, after=after)
            with pytest.raises(Fault, match=r"^$"):
                surgery.apply_constraints(model, rules, tie=tie)
        assert differences(before, picture(model)) == [], (step, call)
        assert list(model.state_dict()) == keys
    surgery.apply_constraints(model, rules, tie=tie)
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def test_every_step_of_an_apply_is_tried(evidence: Callable[[str, str], None]):
    counts = {step: [calls_of(step, *FAULTY[case]) for case in FAULTY] for step in STEPS}
    assert all(any(found) for found in counts.values()), counts
    planted = 2 * sum(map(sum, counts.values()))
    assert planted > 160
    evidence("a fault at any step of an apply leaves every bit and object as it was", f"{planted} faults planted")


@pytest.mark.parametrize("existing", ["chain", "replace"])
@pytest.mark.parametrize("step", ["assemble", "place", "set_mode"])
def test_a_fault_while_constraining_again_leaves_the_first_constraint(existing: str, step: str):
    model = surgery.apply_constraints(ResNet(), {"*conv*.weight": "spectral", "head.weight": "lora(2)"})
    before = picture(model)
    rules = {"*conv*.weight": "orthogonal", "head.weight": "weight_norm", "head.bias": "positive"}
    for call in range(6):
        with pytest.MonkeyPatch.context() as patch:
            failing_at(patch, step, call, after=True)
            with pytest.raises(Fault, match=r"^$"):
                surgery.apply_constraints(model, rules, existing=existing)
        assert differences(before, picture(model)) == [], call
    assert surgery.check(model).ok


def test_an_interrupt_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch):
    model = ResNet()
    before = picture(model)

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(applying, "set_mode", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        surgery.apply_constraints(model, {"*conv*.weight": "spectral"})
    assert differences(before, picture(model)) == []
