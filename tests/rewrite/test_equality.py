"""Rules written into a published architecture's file give the model that apply_constraints makes of the original.

Same class, same configuration, same random numbers: names, their order, bits, outputs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed import parameter
from computed.errors import ReplacedParameterError
from rewrite.outcome import Outcome
from rewrite.rewriting import How, rewrite_sources, ruleset
from rewrite.source import Source
from tests.rewrite.architectures import ARCHITECTURES, build, modeling_file, outputs
from tests.rewrite.test_live import executed

FIFTH = 5  # in a small run one architecture of so many, with one rule set of so many that follows from its place
EVERY_FOURTH = 4
SIMPLE = {"*@Linear.weight": "interval(-3, 3)"}
STYLES = {"CS100": "inline", "CS101": "inline", "CS102": "class"}

Rules = Mapping[str, str | None]

RULES: dict[str, Rules] = {
    "one type": {"*@Linear.weight": "spectral"},
    "all biases": {"*.bias": "interval(-1, 1)"},
    "everything": {"*": "interval(-3, 3)"},
    "below one name": {"encoder.*.weight": "positive", "*.0.*": "interval(-2, 2)"},
    "with exemptions": {
        "*.weight": "interval(-3, 3)", "*norm*.weight": None, "*.layers.0.*": None, "*@Linear.weight": "orthogonal",
    },
    "directions": {"*@{Linear,Conv1d,Conv2d,Embedding}.weight": "unit_norm", "*.{q,k,v}_proj.weight": "weight_norm"},
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """The rewritten model against the applied one: in what they differ, and what was edited and compared."""

    differences: tuple[str, ...]
    style: str
    constrained: int = 0
    outputs: bool = False
    refused: bool = False


def pair(name: str, rules: Rules, changed: Callable[[str], str] = str) -> Pair:
    """Rewrite a copy of the file of an architecture, whose text may then be ``changed``, and compare."""
    outcome, style = rewritten(name, rules)
    applied = made(lambda: surgery.apply_constraints(build(name), rules, strict=False))
    expected = [] if isinstance(applied, str) else list(surgery.computed_parameters(applied))
    if not outcome.changed:
        missing = [applied] if isinstance(applied, str) else [f"{each} is not constrained" for each in expected]
        return Pair(tuple(missing), style)
    found = _second_run(name, rules, outcome)
    model = made(lambda: built_from(name, changed(outcome.after)))
    if isinstance(model, str) or isinstance(applied, str):
        alike = isinstance(model, str) and isinstance(applied, str)
        told = [] if alike else [f"applied: {_told(applied)}; rewritten: {_told(model)}"]
        return Pair((*found, *told), style, refused=alike)
    found += differences(model, applied)
    one, other = outputs(name, model), outputs(name, applied)
    if one is not None and other is not None and not same_tensors(one, other):
        found.append("outputs")
    return Pair(tuple(found), style, len(expected), one is not None)


def made(build: Callable[[], nn.Module]) -> nn.Module | str:
    """A model, or why its constraints are refused: torch computes the weight itself, for instance."""
    try:
        return build()
    except (surgery.SurgeryError, ReplacedParameterError) as error:
        return f"{type(error).__name__}: {error}"


def _told(model: nn.Module | str) -> str:
    return model if isinstance(model, str) else "built"


def rewritten(name: str, rules: Rules, text: str | None = None) -> tuple[Outcome, str]:
    """The outcome for the file of an architecture, its class being the root, and the style of the edits."""
    file, cls = modeling_file(name), ARCHITECTURES[name].model_class
    original = Source.read(str(file), file.read_bytes()) if text is None else Source.checked(str(file), text)
    how = How(ruleset(rules), (cls.__name__,))
    [outcome] = rewrite_sources([(original, cls.__module__)], how, again=False)
    assert not outcome.failed, outcome.diagnostics
    styles = sorted({STYLES[each.code] for each in outcome.edits})
    return outcome, " and ".join(reversed(styles)) or "unchanged"


def _second_run(name: str, rules: Rules, outcome: Outcome) -> list[str]:
    again, _ = rewritten(name, rules, outcome.after)
    return ["the text changes in a second run"] if again.changed else []


def built_from(name: str, text: str) -> nn.Module:
    """The model of an architecture whose file has another text: imported beside it, in the same package."""
    architecture = ARCHITECTURES[name]
    cls = architecture.model_class
    module = f"{cls.__module__}_constrained"
    try:
        copied = executed(module, text, modeling_file(name))
        return architecture.build(model_class=vars(copied)[cls.__name__])
    finally:
        del sys.modules[module]


def differences(model: nn.Module, applied: nn.Module) -> list[str]:
    """In what two models differ."""
    one, other = model.state_dict(), applied.state_dict()
    found = [f"{key} is missing" for key in other if key not in one] + [f"{key} is new" for key in one.keys() - other]
    if not found and list(one) != list(other):
        found.append("the order of keys")
    found += [f"{key} has other bits" for key in other if key in one and not same_tensors([one[key]], [other[key]])]
    specs, expected = ([(k, v.spec) for k, v in surgery.computed_parameters(m).items()] for m in (model, applied))
    if specs != expected:
        found.append("the computed parameters")
    trained, expected = ([(k, v.requires_grad) for k, v in m.named_parameters()] for m in (model, applied))
    if trained != expected:
        found.append("what is trained")
    return found


def same_tensors(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Whether all are equal to the bit."""
    return len(ones) == len(others) and all(
        (one.shape, one.dtype) == (other.shape, other.dtype) and bits(one) == bits(other)
        for one, other in zip(ones, others, strict=True)
    )


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def asked(size: str) -> list[tuple[str, str]]:
    """The architectures and rule sets of a run."""
    if size != "small":
        return [(name, key) for name in ARCHITECTURES for key in RULES]
    some = enumerate(list(ARCHITECTURES)[::FIFTH])
    return [(name, key) for row, name in some for key in list(RULES)[row % EVERY_FOURTH :: EVERY_FOURTH]]


@cache
def compared(name: str, key: str) -> Pair:
    return pair(name, RULES[key])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_rewritten_architecture_is_the_one_that_the_rules_are_applied_to(name: str, size: str) -> None:
    keys = [key for architecture, key in asked(size) if architecture == name]
    if not keys:
        pytest.skip("in a full run")
    assert {key: compared(name, key).differences for key in keys} == dict.fromkeys(keys, ())


def test_how_many_pairs_are_equal(size: str, evidence: Callable[[str, str], None]) -> None:
    pairs = [compared(*each) for each in asked(size)]
    counts = Counter(each.style for each in pairs if each.differences == ())
    assert counts.total() == len(pairs)
    assert min(counts["inline"], counts["class"], counts["unchanged"]) > 0
    with_outputs = sum(each.outputs for each in pairs)
    assert with_outputs > len(pairs) / 2
    refused = sum(each.refused for each in pairs)
    assert refused < len(pairs) / 20
    told = ", ".join(f"{count} {style}" for style, count in counts.most_common())
    evidence(
        "pairs of an architecture and rules: its file rewritten gives the bits of apply_constraints on the original",
        f"{counts.total()} of {len(pairs)} ({told}), {sum(each.constrained for each in pairs)} computed parameters, "
        f"outputs equal in {with_outputs}; refused by both: {refused}",
    )


@pytest.mark.parametrize("name", ["ViT", "DeiT"])
def test_an_initialisation_that_is_skipped_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all names, transformers reads its mark from what it then takes for initialised: only values tell."""
    assert pair(name, SIMPLE).differences == ()
    monkeypatch.setattr(parameter, "MODULE_MARKS", frozenset())
    found = pair(name, SIMPLE)
    assert found.style == "inline"
    assert set(found.differences) > {"outputs"}
    assert all(each.endswith("has other bits") for each in found.differences if each != "outputs")


SPOILED = {
    "a call is left out": ("= constrain(nn.", "= (lambda module, **_: module)(nn.", "is missing"),
    "another spec": ('"interval(-3, 3)"', '"interval(-3, 4)"', "has other bits"),
    "a random number is drawn": ("= constrain(nn.", "= torch.rand(1) is not None and constrain(nn.", "has other bits"),
    "another name": ("self.layernorm = ", "self.again = self.layernorm = ", "is new"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_text_that_is_not_as_it_should_be_is_found(spoiled: str) -> None:
    written, instead, expected = SPOILED[spoiled]
    found = pair("ViT", SIMPLE, lambda text: text.replace(written, instead, 1))
    assert found.style == "inline"
    assert any(each.endswith(expected) for each in found.differences)


def test_models_that_differ_in_one_thing_are_found() -> None:
    def model(order: str = "ab", *, frozen: bool = False) -> nn.Module:
        torch.manual_seed(0)
        made = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}
        module = nn.ModuleDict({name: made[name] for name in order})
        surgery.apply_constraints(module, {"*.weight": "positive"})
        made["a"].bias.requires_grad_(not frozen)
        return module

    assert differences(model(), model()) == []
    assert differences(model("ba"), model()) == ["the order of keys", "the computed parameters", "what is trained"]
    assert differences(model(frozen=True), model()) == ["what is trained"]
    signed = model()
    signed["a"].bias.data[0], signed["b"].bias.data[0] = 0.0, -0.0
    other = model()
    other["a"].bias.data[0], other["b"].bias.data[0] = -0.0, -0.0
    assert differences(signed, other) == ["a.bias has other bits"]
