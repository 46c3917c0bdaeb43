"""Weights that torchao or bitsandbytes has quantised are refused by a plan, with the reason and the right order."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

import surgery
from tests.surgery.peft_networks import FILES, network


def standing_in(name: str) -> type[nn.Parameter]:
    """A class as bitsandbytes has it, which is not installed: a Parameter of codes."""
    return types.new_class(name, (nn.Parameter,), {}, lambda body: body.update(__module__="bitsandbytes.nn.modules"))


@pytest.mark.parametrize(("name", "dtype"), [("Params4bit", torch.uint8), ("Int8Params", torch.int8)])
def test_bitsandbytes_is_refused_by_name(name, dtype):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    codes = torch.zeros(8, 1, dtype=dtype)
    model[0]._parameters["weight"] = torch.Tensor._make_subclass(standing_in(name), codes, False)
    planned = surgery.plan(model, {"*": "frozen", "*.weight": "lora(2)"})
    assert len(planned.problems) == 1
    assert (
        f"0.weight (Linear), rule '*.weight': 'lora(2)': is quantised by bitsandbytes ({name})" in planned.problems[0]
    )
    assert "constrain the float model, and quantise what surgery.bake gives" in planned.problems[0]
    with pytest.raises(surgery.PlanError, match="is quantised by bitsandbytes"):
        surgery.apply_constraints(model, {"*.weight": "lora(2)"})
    assert type(model[1].weight) is nn.Parameter
    surgery.apply_constraints(model, {"*": "frozen", "1.weight": "lora(2)"})
    assert [parameter.requires_grad for parameter in model[1].weight.raws.values()] == [False, True, True]


def test_an_adapter_of_peft_is_refused_as_well():
    model = network("words")
    weight = model.fc.weight.detach()
    model.fc._parameters["weight"] = torch.Tensor._make_subclass(standing_in("Params4bit"), weight, False)
    with pytest.raises(surgery.PlanError, match=r"fc.weight .*is quantised by bitsandbytes \(Params4bit\)"):
        surgery.load_peft(model, FILES / "words_lora")
    assert surgery.computed_parameters(model) == {}


@pytest.mark.filterwarnings("ignore")
def test_torchao_is_refused_and_the_rest_of_the_model_is_not():
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is installed by `make peers` alone")
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16), nn.LayerNorm(16))
    last = model[1].weight.detach().clone()
    quantization.quantize_(model[0], quantization.Int8WeightOnlyConfig())
    x = torch.randn(3, 64)
    want = model(x)
    rules = {"*": "frozen", "0.weight": "lora(4)"}
    planned = surgery.plan(model, rules)
    assert [("is quantised by torchao" in problem) for problem in planned.problems] == [True]
    with pytest.raises(surgery.PlanError, match="is quantised by torchao"):
        surgery.apply_constraints(model, rules)
    assert torch.equal(model(x), want)
    surgery.plan(model, {"*": "frozen", "1.weight": "lora(4)"}).apply()
    assert torch.equal(model[1].weight.detach(), last)
    torch.testing.assert_close(model(x), want)
    surgery.undo(model)
    assert torch.equal(model(x), want)
