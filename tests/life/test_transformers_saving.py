"""What docs/transformers.md says of saving, loading, tying and resizing, on architectures of every kind.

Truth is the model that was saved, and the library on plain models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from tests.life.test_transformers_models import (
    ARCHITECTURES,
    BART,
    BERT,
    GPT2,
    LLAMA,
    RULES,
    T5,
    assert_same_bits,
    built,
    head_of,
    loaded,
    outputs,
    parts,
    saved,
)
from tests.quiet import quiet_transformers

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'examples'")

SIX = ("Bert", "Distilbert", "GPT2", "Llama", "T5", "Bart")
SPEC = "spectral(bound=0.2)"
SIGNS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# a class whose head is its embedding
TIED: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2": ("GPT2LMHeadModel", GPT2 | SIGNS),
    "Bert": ("BertForMaskedLM", BERT),
    "Llama": ("LlamaForCausalLM", LLAMA | {"tie_word_embeddings": True}),
    "Bart": ("BartForConditionalGeneration", BART | SIGNS),
    "T5": ("T5ForConditionalGeneration", T5 | SIGNS),
    "OPT": ("OPTForCausalLM", ARCHITECTURES["OPT"][1] | SIGNS),
}


def decorated(cls: type[nn.Module], rules: dict[str, str]) -> type[nn.Module]:
    """A subclass that transformers takes for the class: it renames keys of some classes, and knows these by name."""
    return surgery.constrained(rules)(type(cls.__name__, (cls,), {"__module__": cls.__module__}))


def bits_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_transformers(transformers.logging.CRITICAL):
        yield


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_constrained_class_loads_what_save_pretrained_has_written(name: str, tmp_path: Path):
    """All of it: raws, state, outputs; into a model of other random numbers."""
    cls, _, inputs = parts(name)
    model = surgery.apply_constraints(built(name), RULES, strict=False)
    saved(model, tmp_path)
    torch.manual_seed(9)
    again, missing, unexpected = loaded(decorated(cls, RULES), tmp_path)
    assert (missing, unexpected) == (set(), set())
    assert_same_bits(again.state_dict(), model.state_dict())
    assert all(map(torch.equal, outputs(again, inputs), outputs(model, inputs)))
    assert surgery.check(again).ok


@pytest.mark.parametrize("baked", [False, True], ids=["plain state dict", "baked"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_plain_class_loads_plain_files(name: str, baked: bool, tmp_path: Path):
    cls, _, inputs = parts(name)
    model = surgery.apply_constraints(built(name), RULES, strict=False)
    expected, values = outputs(model, inputs), surgery.state_dict(model, format="plain")
    if baked:
        saved(surgery.bake(model), tmp_path)
    else:
        saved(model, tmp_path, state_dict=dict(values))  # transformers empties it
    torch.manual_seed(9)
    again, missing, unexpected = loaded(cls, tmp_path)
    assert (missing, unexpected) == (set(), set())
    assert_same_bits(again.state_dict(), values)
    for one, other in zip(outputs(again, inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # adapters are baked to rounding


@pytest.mark.parametrize("name", SIX)
def test_the_plain_class_initialises_anew_what_is_constrained_in_the_file(name: str, tmp_path: Path):
    """The one way that is not to be taken: no error, and the weights are those of another random model."""
    cls, _, _ = parts(name)
    model = surgery.apply_constraints(built(name), RULES, strict=False)
    values = surgery.state_dict(model, format="plain")
    saved(model, tmp_path)
    torch.manual_seed(9)
    again, missing, unexpected = loaded(cls, tmp_path)
    constrained = set(surgery.computed_parameters(model))
    assert missing == constrained
    assert unexpected == {key for key in model.state_dict() if key not in values}
    state = again.state_dict()
    kept = [key for key in values if torch.equal(state[key], values[key])]
    assert kept == [key for key in values if key not in constrained]


@pytest.mark.parametrize("name", SIX)
def test_a_plan_and_an_apply_say_how_to_save(name: str, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    """And that is right: what they say is done, and the plain class loads the values. A frozen model is a plain one."""
    cls, _, _ = parts(name)
    model = built(name)
    advice = (
        f"{cls.__name__}.from_pretrained initialises constrained weights anew: save with save_pretrained(folder, "
        "state_dict=surgery.state_dict(model, format='plain')), or bake first; surgery.save_checkpoint keeps the "
        "constraints"
    )
    assert not surgery.plan(model, {"*": "frozen"}).notes
    assert surgery.plan(model, RULES, strict=False).notes[-1] == advice
    for holder in (model, nn.ModuleDict({"inner": built(name)})):  # as one module of many, too
        caplog.clear()
        surgery.apply_constraints(holder, RULES, strict=False)
        beside, record = caplog.records  # the rules have an adapter and leave much unfrozen, which is said first
        assert "still train beside the adapters" in beside.getMessage()
        assert (record.levelname, record.getMessage()) == ("WARNING", advice)
    saved(model, tmp_path, state_dict=surgery.state_dict(model, format="plain"))
    again, missing, unexpected = loaded(cls, tmp_path)
    assert (missing, unexpected) == (set(), set())
    assert_same_bits(again.state_dict(), surgery.state_dict(model, format="plain"))


def test_other_models_need_no_advice(caplog: pytest.LogCaptureFixture):
    model = nn.Linear(3, 3)
    assert surgery.plan(model, RULES | {"weight": "spectral"}, strict=False).notes
    surgery.apply_constraints(model, {"weight": "spectral"})
    assert not caplog.records


def save_and_load_decorated(model: nn.Module, name: str, folder: Path) -> None:
    model.save_pretrained(folder)
    decorated(type(model), {name: SPEC}).from_pretrained(folder)


@pytest.mark.parametrize("name", TIED)
def test_a_class_that_is_constrained_before_its_tie_is_made_refuses_it(name: str, tmp_path: Path):
    """from_pretrained ties when the weights are loaded, after ``__init__``, and finds one side computed."""
    model, weight_name = head_of(*TIED[name])
    surgery.apply_constraints(model, {weight_name: SPEC})
    saved(model, tmp_path)
    with pytest.raises(AttributeError, match=rf"`{weight_name}` is neither a parameter, buffer, nor extra state"):
        decorated(type(model), {weight_name: SPEC}).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", TIED)
def test_a_constrained_tie_is_saved_in_both_ways_that_bring_it_back(name: str, tmp_path: Path):
    """Plain, with the tie; and constrained, by a checkpoint file of ours."""
    model, weight_name = head_of(*TIED[name])
    surgery.apply_constraints(model, {weight_name: SPEC})
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.5)
    values, (cls, config) = surgery.state_dict(model, format="plain"), (type(model), model.config)
    saved(model, tmp_path / "plain", state_dict=dict(values))
    torch.manual_seed(9)
    again, missing, unexpected = loaded(cls, tmp_path / "plain")
    assert (missing, unexpected) == (set(), set())
    assert_same_bits(again.state_dict(), values)
    surgery.save_checkpoint(model, tmp_path / "ours")
    constrained = surgery.load_checkpoint(cls(config), tmp_path / "ours")
    assert_same_bits(constrained.state_dict(), model.state_dict())
    for one in (again, constrained):
        assert one.get_output_embeddings().weight is one.get_input_embeddings().weight


@pytest.mark.parametrize("size", [60, 30])
@pytest.mark.parametrize("name", TIED)
def test_resizing_a_constrained_tie_changes_nothing_and_names_the_way(name: str, size: int):
    model, weight_name = head_of(*TIED[name])
    width = model.get_input_embeddings().weight.shape[1]
    surgery.apply_constraints(model, {weight_name: SPEC})
    before, words = bits_of(model), model.config.vocab_size
    with pytest.raises(ValueError, match=r"surgery\.undo\(model\) or surgery\.bake\(model\) first"):
        model.resize_token_embeddings(size)
    assert_same_bits(model.state_dict(), before)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == words
    surgery.undo(model).resize_token_embeddings(size)
    assert model.get_output_embeddings().weight.shape == (size, width)


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_a_class_of_ones_own_is_decorated_or_constrained_afterwards(name: str):
    """It is bit-equal then; what constrains itself in ``__init__`` is not initialised where a layer has no bias."""
    cls, config, _ = parts(name)

    class Own(cls):
        """Plain."""

    class Late(cls):
        """Constrained when it is made."""

    class Early(cls):
        """Constrained while it is made."""

        def post_init(self) -> None:
            surgery.apply_constraints(self, RULES, strict=False)
            super().post_init()

    assert not Own.__module__.startswith("transformers.")
    models = {}
    for kind in (Own, surgery.constrained(RULES)(Late), Early):
        torch.manual_seed(3)
        models[kind.__name__] = kind(config)
    expected = surgery.apply_constraints(models["Own"], RULES, strict=False)
    assert_same_bits(models["Late"].state_dict(), expected.state_dict())
    with pytest.raises(AssertionError, match=r"weight"):
        assert_same_bits(models["Early"].state_dict(), expected.state_dict())
