"""A chain is in its last constraint's set from the first read on, in train mode as in eval."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from computed.parameter import ComputedParameter

CHAINS = ("symmetric | spectral(bound=1.0)", "skew | spectral(norm=2.0)", "interval(-0.4, 0.4) | spectral(bound=0.5)")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", CHAINS)
def test_the_first_read_is_converged(spec: str, training: bool) -> None:
    """The state belongs to what the constraints before it make of the raw, not to the value that was given."""
    weight = ComputedParameter.from_value(3 * torch.randn(8, 8), spec).train(training)
    largest = np.linalg.svd(weight.detach().double().numpy(), compute_uv=False)[0]
    target = float(spec.rpartition("=")[2].rstrip(")"))
    assert largest <= target * (1 + 1e-3)


@pytest.mark.parametrize("spec", CHAINS)
def test_a_loaded_and_a_written_value_are_converged_too(spec: str) -> None:
    """Whatever the way in: the right inverse of the chain gives the state."""
    weight = ComputedParameter.from_value(torch.eye(8), spec)
    with torch.no_grad():
        weight.copy_(5 * torch.randn(8, 8))
    target = float(spec.rpartition("=")[2].rstrip(")"))
    assert np.linalg.svd(weight.detach().numpy(), compute_uv=False)[0] <= target * (1 + 1e-3)


def test_requires_grad_reaches_what_gradients_reach():
    """The raws before an adapter are fixed: switched off and on again, only the adapter trains."""
    weight = ComputedParameter.from_value(torch.randn(4, 4), "symmetric | lora(2)")
    trained = {name for name, raw in weight.raws.items() if raw.requires_grad}
    weight.requires_grad_(False)
    assert not any(raw.requires_grad for raw in weight.raws.values())
    weight.requires_grad_(True)
    assert {name for name, raw in weight.raws.items() if raw.requires_grad} == trained
    weight.square().sum().backward()
    assert {name for name, raw in weight.raws.items() if raw.grad is not None} == trained
