"""A plain checkpoint of another dtype: the value is what a plain parameter would have after the same load."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
SPECS = ["weight_norm", "symmetric", "spectral(bound=100.0)", "lora(2)", "interval(-4, 4)"]


def tolerance(spec: str, *dtypes: torch.dtype) -> float:
    """Zero where the constraint keeps an admissible weight bit for bit."""
    exact = spec in ("symmetric", "spectral(bound=100.0)", "lora(2)")
    return 0.0 if exact else 16 * max(torch.finfo(dtype).eps for dtype in dtypes)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("saved", DTYPES, ids=str)
@pytest.mark.parametrize("model", DTYPES, ids=str)
def test_a_checkpoint_is_rounded_as_in_a_plain_model(spec: str, saved: torch.dtype, model: torch.dtype):
    source = nn.Linear(4, 4).to(saved)
    with torch.no_grad():
        source.weight.copy_(source.weight + source.weight.T)
    plain, constrained = nn.Linear(4, 4).to(model), nn.Linear(4, 4).to(model)
    surgery.apply_constraints(constrained, {"weight": spec})
    for target in (plain, constrained):
        target.load_state_dict(source.state_dict())
    assert constrained.weight.dtype == constrained.weight.value().dtype == model
    accuracy = tolerance(spec, model)
    torch.testing.assert_close(constrained.weight.detach(), plain.weight.detach(), rtol=accuracy, atol=accuracy)


@pytest.mark.parametrize("saved", DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_an_assigned_checkpoint_brings_its_dtype(spec: str, saved: torch.dtype):
    source = nn.Linear(4, 4).to(saved)
    with torch.no_grad():
        source.weight.copy_(source.weight + source.weight.T)
    constrained = surgery.apply_constraints(nn.Linear(4, 4, dtype=torch.float64), {"weight": spec})
    constrained.load_state_dict(source.state_dict(), assign=True)
    assert constrained.weight.dtype == constrained.weight.value().dtype == saved
    accuracy = tolerance(spec, saved)
    torch.testing.assert_close(constrained.weight.detach(), source.weight.detach(), rtol=accuracy, atol=accuracy)


@pytest.mark.parametrize("saved", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_assigned_state_dict_of_its_own_brings_its_dtype(training: bool, saved: torch.dtype):
    source = surgery.apply_constraints(nn.Linear(4, 4, dtype=saved), {"weight": "spectral"})
    other = torch.float64 if saved == torch.float32 else torch.float32
    target = surgery.apply_constraints(nn.Linear(4, 4, dtype=other), {"weight": "spectral"}).train(training)
    target.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(target.weight.detach(), source.train(training).weight.detach())
    target(torch.ones(2, 4, dtype=saved)).sum().backward()
    torch.optim.SGD(target.parameters(), 0.1).step()
    target.eval()(torch.ones(2, 4, dtype=saved))
    assert {buffer.dtype for buffer in target.buffers()} == {saved}
