"""Weights of every kind: dtypes, meta, lazy, in memory that torch did not allocate."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

import surgery
from computed.torch_private import address_of
from tests.surgery.models import SPECS, SQUARE_SPECS
from tests.surgery.picture import differences, picture


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
def test_models_of_other_dtypes(dtype: torch.dtype, spec: str):
    model = nn.Linear(4, 4).to(dtype)
    before = picture(model)
    surgery.apply_constraints(model, {"weight": spec})
    assert model.weight.dtype is dtype
    assert {raw.dtype for raw in model.weight.raws.values()} == {dtype}
    assert surgery.check(model).ok
    model(torch.randn(2, 4, dtype=dtype)).sum().backward()
    surgery.undo(model)
    model.bias.grad = None
    assert [place for place in differences(before, picture(model)) if place != "random state"] == []


def test_a_model_on_meta_is_projected_when_it_is_loaded():
    source = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    rules = {"0.weight": "orthogonal", "1.weight": "lora(2, seed=3)", "1.bias": "positive"}
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    plan = surgery.plan(model, rules)
    assert [row.measures.moved for row in plan.sites] == [None] * 3
    plan.apply()
    assert model[0].weight.is_meta
    model.to_empty(device="cpu").load_state_dict(source.state_dict())
    expected = surgery.apply_constraints(copy.deepcopy(source), rules)
    batch = torch.randn(2, 4)
    assert torch.equal(model.eval()(batch), expected.eval()(batch))
    again = surgery.apply_constraints(copy.deepcopy(source).to("meta"), rules)
    again.load_state_dict(expected.state_dict(), assign=True)
    assert torch.equal(again.eval()(batch), expected(batch))


def test_lazy_modules_are_planned_and_wait():
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3))
    before = picture(model)
    plan = surgery.plan(model, {"*.weight": "spectral(bound=0.1)"})
    assert plan.ok
    assert "shape unknown" in str(plan)
    assert [row.action.value for row in plan.sites] == ["shape unknown", "constrain"]
    message = r"0\.weight has no shape yet \(a lazy module\); run one batch through the model first"
    with pytest.raises(surgery.PlanError, match=message):
        plan.apply()
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {"*.weight": "spectral(bound=0.1)"})
    assert differences(before, picture(model)) == []
    model(torch.randn(2, 5))
    surgery.apply_constraints(model, {"*.weight": "spectral(bound=0.1)"})
    assert len(surgery.computed_parameters(model)) == 2
    assert surgery.check(model).ok


def test_a_lazy_module_can_be_frozen():
    model = nn.LazyLinear(3)
    before = picture(model)
    surgery.apply_constraints(model, {"*": "frozen"})
    assert not model.weight.requires_grad
    surgery.undo(model)
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {"*": "frozen"})
    model(torch.randn(2, 4))
    assert not model.weight.requires_grad


def trains_and_comes_back(model: nn.Module) -> None:
    """Constrain, train, and take back; the weights are in memory that torch did not allocate."""
    batch, before = torch.randn(3, 4), picture(model)
    plan = surgery.plan(model, {"*.weight": "spectral(bound=0.1)"})
    plan.apply()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()
    assert surgery.check(model.eval()).ok
    surgery.undo(model.train())
    for place in differences(before, picture(model)):
        assert place == "random state" or "bias" in place, place


def test_weights_from_safetensors(tmp_path: Path):
    source = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    save_model(source, str(tmp_path / "model.safetensors"))
    save_file({key: value.clone() for key, value in source.state_dict().items()}, tmp_path / "file.safetensors")
    model = copy.deepcopy(source)
    load_model(model, str(tmp_path / "model.safetensors"))
    trains_and_comes_back(model)
    model = copy.deepcopy(source)
    model.load_state_dict(load_file(tmp_path / "file.safetensors"), assign=True)
    trains_and_comes_back(model)
    surgery.apply_constraints(model, {"*.weight": "symmetric"})
    model.load_state_dict(load_file(tmp_path / "file.safetensors"), assign=True)
    half = source[0].weight.detach() / 2
    assert torch.equal(model[0].weight, half + half.T)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_weights_from_a_torch_file(tmp_path: Path, mapped: bool, whole: bool):
    source = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 4))
    source[0] = nn.Linear(4, 40)
    torch.save(source if whole else source.state_dict(), tmp_path / "file.pt")
    loaded = torch.load(tmp_path / "file.pt", weights_only=not whole, mmap=mapped)
    if whole:
        trains_and_comes_back(loaded)
    else:
        model = copy.deepcopy(source)
        model.load_state_dict(loaded, assign=True)
        trains_and_comes_back(model)


def test_weights_that_belong_to_numpy():
    model = nn.Linear(4, 4)
    array = np.random.randn(4, 4).astype(np.float32)
    model.weight = nn.Parameter(torch.from_numpy(array))
    kept = array.copy()
    trains_and_comes_back(nn.Sequential(model))
    assert np.array_equal(array, kept)
    array[0, 0] = 7.0
    assert float(model.weight[0, 0].detach()) == 7.0


def test_freezing_copies_nothing(tmp_path: Path):
    save_file({"weight": torch.randn(64, 64), "bias": torch.randn(64)}, tmp_path / "file.safetensors")
    for state in (load_file(tmp_path / "file.safetensors"), nn.Linear(64, 64).state_dict()):
        model = nn.Linear(64, 64)
        model.load_state_dict(state, assign=True)
        before, address = picture(model), address_of(model.weight)
        undo = surgery.plan(model, {"*": "frozen"}).apply()
        assert address_of(model.weight) == address
        copies = [kept.bits for kept in undo.record.tensors if kept.bits is not None]
        assert not any(address_of(bits) not in (address, address_of(model.bias)) for bits in copies)
        undo()
        assert differences(before, picture(model)) == []


def test_shared_memory_stays_shared():
    model = nn.Linear(4, 4).share_memory()
    surgery.apply_constraints(model, {"weight": "symmetric"})
    assert model.weight.raws["raw"].is_shared()
    assert surgery.check(model).ok


def test_apply_under_no_grad_and_in_inference_mode_gives_raws_that_train():
    for context in (torch.no_grad(), torch.inference_mode()):
        model, batch = nn.Linear(4, 4), torch.randn(2, 4)
        with context:
            surgery.apply_constraints(model, {"weight": "symmetric | lora(2)"})
        model(batch).sum().backward()
        trained = {name for name, raw in model.weight.raws.items() if raw.requires_grad}
        assert trained == {"constraints.1.A", "constraints.1.B"}  # what is below an adapter's base gets no gradient
        assert all(model.weight.raws[name].grad is not None for name in trained)
        with context:
            surgery.bake(model)
        model(batch).sum().backward()
        assert model.weight.grad is not None


@pytest.mark.parametrize("spec", ["orthogonal", "frozen"])
def test_a_model_made_in_inference_mode_is_refused(spec: str):
    with torch.inference_mode():
        model = nn.Linear(3, 3)
    before = picture(model)
    with pytest.raises(surgery.PlanError, match=r"is an inference tensor, .*; build outside torch\.inference_mode\(\)"):
        surgery.apply_constraints(model, {"weight": spec})
    assert differences(before, picture(model)) == []


def test_autocast_changes_nothing():
    plain, inside = nn.Linear(8, 8), nn.Linear(8, 8)
    inside.load_state_dict(plain.state_dict())
    surgery.apply_constraints(plain, {"weight": "orthogonal"})
    with torch.autocast("cpu", torch.bfloat16):
        surgery.apply_constraints(inside, {"weight": "orthogonal"})
    assert torch.equal(plain.weight, inside.weight)


LOADED_FROM_A_FILE = """
import io, torch
from torch import nn
import surgery

def through_a_file(saved, **how):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, **how)

model = surgery.apply_constraints(nn.Linear(40, 40), {"weight": "symmetric"})
{load}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    model(torch.randn(2, 40)).sum().backward()
    optimizer.step()
model(torch.randn(2, 40))
print("done")
"""


@pytest.mark.parametrize(
    "load",
    [
        "model.load_state_dict(through_a_file(model.state_dict()), assign=True)",
        "model = through_a_file(model, weights_only=False)",
        "model.weight.raws['raw'].data = through_a_file(model.state_dict())['weight.raw']",
    ],
    ids=["assigned", "whole", "data"],
)
def test_raws_in_the_memory_of_a_file_train(load: str):
    """In a process of its own: torch crashes at a write to memory that it did not allocate, where a snapshot lives."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOADED_FROM_A_FILE.replace("{load}", load)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr[-2000:]
