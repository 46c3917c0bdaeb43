"""``tie_weights`` of transformers on a tie that is constrained does nothing, and nothing is left of that afterwards.

Truth is a picture of the whole model before the call, and the library on the plain model.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import surgery
from tests.life.test_faults_by_line import broken_off, lines_of
from tests.life.test_transformers_models import head_of, saved
from tests.life.test_transformers_saving import SPEC, TIED
from tests.quiet import quiet_transformers
from tests.surgery.picture import differences, picture

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'examples'")

SPECS = (SPEC, "lora(rank=2)", "positive | spectral(bound=0.2)")
DECLARED = "_tied_weights_keys"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_transformers(transformers.logging.CRITICAL):
        yield


def tie(model: nn.Module) -> None:
    """In both ways that it is called, twice."""
    for _ in range(2):
        model.tie_weights()
        model.tie_weights(recompute_mapping=False)


def is_tied(model: nn.Module) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", TIED)
def test_tying_a_constrained_tie_does_nothing(name: str, spec: str):
    """Bits, objects, order, attributes: a model, a copy of it, and one that was pickled."""
    model, weight_name = head_of(*TIED[name])
    surgery.apply_constraints(model, {weight_name: spec})
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = picture(each)
        tie(each)
        assert differences(before, picture(each)) == []
        assert is_tied(each)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", TIED)
def test_nothing_is_left_after_an_undo(name: str, spec: str):
    model, weight_name = head_of(*TIED[name])
    before = picture(model)
    surgery.apply_constraints(model, {weight_name: spec})
    surgery.apply_constraints(model, {weight_name: "interval(-3, 3)"}, existing="chain")
    tie(model)
    surgery.undo(surgery.undo(model))
    assert differences(before, picture(model)) == []


@pytest.mark.parametrize("name", TIED)
def test_after_a_bake_the_plain_tie_is_made_as_before(name: str):
    model, weight_name = head_of(*TIED[name])
    plain = copy.deepcopy(model)
    surgery.apply_constraints(model, {weight_name: SPEC, "*.{q,query,q_proj,c_attn}.weight": SPEC})
    surgery.bake(model, weight_name)
    assert surgery.computed_parameters(model)
    assert DECLARED not in vars(model)
    assert model.all_tied_weights_keys == plain.all_tied_weights_keys
    assert type(model.all_tied_weights_keys) is dict
    model.get_output_embeddings().weight = nn.Parameter(torch.zeros_like(model.get_input_embeddings().weight))
    tie(model)
    assert is_tied(model)


@pytest.mark.parametrize("name", TIED)
def test_initialising_anew_keeps_the_tie_and_the_constraint(name: str):
    """``init_weights`` ties last."""
    model, weight_name = head_of(*TIED[name])
    surgery.apply_constraints(model, {weight_name: SPEC})
    computed = model.get_input_embeddings().weight
    model.init_weights()
    assert model.get_input_embeddings().weight is computed
    assert is_tied(model)
    assert torch.linalg.matrix_norm(computed.detach(), 2) < 0.2 * (1 + 1e-3)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", TIED)
def test_what_is_tied_is_written_once(name: str, spec: str, tmp_path: Path):
    """``save_pretrained`` drops the targets that are declared, and keeps the sources."""
    model, weight_name = head_of(*TIED[name])
    plain = copy.deepcopy(model)
    surgery.apply_constraints(model, {weight_name: spec})
    saved(plain, tmp_path / "plain")
    saved(model, tmp_path / "constrained")
    with safe_open(tmp_path / "plain/model.safetensors", "pt") as file:
        expected = {key for key in file.keys() if key in model.state_dict()}  # noqa: SIM118 - it is no dictionary
    with safe_open(tmp_path / "constrained/model.safetensors", "pt") as file:
        written = {key for key in file.keys() if not key.startswith(f"{weight_name}.")}  # noqa: SIM118 - as above
    assert written == expected


def test_a_tie_that_is_split_is_declared_as_before():
    model, weight_name = head_of(*TIED["GPT2"])
    surgery.apply_constraints(model, {weight_name: SPEC}, tie="split")
    assert DECLARED not in vars(model)
    assert not is_tied(model)


def test_patterns_are_expanded_by_the_library_to_raws():
    """A class may declare regular expressions or modules; it expands them over the names of all tensors."""
    model, weight_name = head_of(*TIED["GPT2"])
    patterns = {r"lm_hea.\.weigh.": "transformer.wte"}
    type(model)._tied_weights_keys, declared = patterns, type(model)._tied_weights_keys
    try:
        surgery.apply_constraints(model, {weight_name: SPEC})
        assert DECLARED not in vars(model)
        before = picture(model)
        tie(model)
        assert differences(before, picture(model)) == []
    finally:
        type(model)._tied_weights_keys = declared


def test_a_fault_at_any_line_of_it_leaves_nothing():
    def build() -> nn.Module:
        return head_of(*TIED["GPT2"])[0]

    rules = {"transformer.wte.weight": SPEC}
    lines = [
        one for one in lines_of(lambda: surgery.plan(build(), rules).apply, "full") if "declared_ties" in one[0][0]
    ]
    assert len(lines) > 20
    assert broken_off(build, rules, lines) == []
