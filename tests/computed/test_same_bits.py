"""A write of the bits that are there changes nothing, and the next forward works."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.parameter import ComputedParameter

WRITES: dict[str, Callable[[ComputedParameter], object]] = {
    "itself": lambda weight: weight.copy_(weight),
    "its value": lambda weight: weight.copy_(weight.detach().clone()),
    "times one": lambda weight: weight.mul_(1.0),
    "data": lambda weight: weight.data.add_(0.0),
    "only read": lambda weight: weight.data,
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", WRITES)
def test_forward_and_backward_after_a_write_of_the_same_bits(name: str, training: bool) -> None:
    """Same output, and gradients reach the raw."""
    layer = surgery.constrain(nn.Linear(4, 4), weight="symmetric").train(training)
    x = torch.randn(2, 4)
    before: Tensor = layer(x)
    with torch.no_grad():
        WRITES[name](layer.weight)
    after: Tensor = layer(x)
    assert torch.equal(after, before)
    after.sum().backward()
    assert layer.weight.raws["raw"].grad is not None


def test_an_adapter_is_made_whatever_the_default_device_and_dtype() -> None:
    """Same A under a default device or dtype as without."""
    weight = torch.randn(4, 4)
    expected = ComputedParameter.from_value(weight, "lora(2)").raws["A"]
    torch.set_default_dtype(torch.float64)
    assert torch.equal(ComputedParameter.from_value(weight, "lora(2)").raws["A"], expected)
