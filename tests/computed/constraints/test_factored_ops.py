"""Layers whose weight has factors are done without it, and give what the dense layer gives, to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import surgery
from computed.parameter import ComputedParameter

SPECS = ("lora(2)", "low_rank(3)", "tucker(3)", "tucker((2, 3))", "tucker(0.5)", "cp(4)", "cp(0.5)")
LAYERS: dict[str, Any] = {
    "linear": lambda: nn.Linear(6, 8),
    "linear without bias": lambda: nn.Linear(6, 8, bias=False),
    "conv1d": lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1),
    "conv2d": lambda: nn.Conv2d(6, 8, 3, padding=1),
    "conv2d, strides": lambda: nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(1, 2), bias=False),
    "conv2d, same": lambda: nn.Conv2d(6, 8, 3, padding="same"),
    "conv2d, same, two sizes": lambda: nn.Conv2d(6, 8, (5, 3), padding="same", dilation=(1, 2)),
    "conv2d, valid": lambda: nn.Conv2d(6, 8, 3, padding="valid", stride=2),
    "conv2d, points": lambda: nn.Conv2d(6, 8, 1),
    "conv3d": lambda: nn.Conv3d(6, 8, 2),
}


def inputs(layer: nn.Module) -> torch.Tensor:
    dims = layer.weight.dim() - 2
    return torch.randn(3, 6, *[7] * dims, dtype=torch.float64)


def counted(spec: str, layer: nn.Module, *, training: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Output of a constrained layer, that of the dense one of its value, and how often the value was made."""
    surgery.apply_constraints(layer.double(), {"weight": spec})
    with torch.no_grad():
        for raw in layer.weight.raws.values():
            raw.add_(0.1 * torch.randn_like(raw))
    layer.train(training)
    constraint, made = layer.weight.constraints[0], []
    forward = constraint.forward
    constraint.forward = lambda *raws: made.append(1) or forward(*raws)
    x = inputs(layer)
    found, count = layer(x), len(made)
    del constraint.forward
    dense = surgery.bake(layer)
    return found, dense(x), count


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_layer_is_done_with_the_factors(spec, layer, training):
    found, expected, made = counted(spec, LAYERS[layer](), training=training)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert made == 0


@pytest.mark.parametrize("spec", ["tensor_train(3)", "tensor_train((2, 3, 4))", "tensor_train(0.5)"])
@pytest.mark.parametrize("layer", [name for name in LAYERS if name.startswith("conv2d")])
def test_a_convolution_is_done_with_a_train(spec, layer):
    found, expected, made = counted(spec, LAYERS[layer](), training=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert made == 0


@pytest.mark.parametrize("spec", [*SPECS, "tensor_train(2)"])
def test_groups_are_done_with_the_value(spec):
    layer = nn.Conv2d(8, 8, 3, groups=2).double()
    surgery.apply_constraints(layer, {"weight": spec})
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    expected = functional.conv2d(x, layer.weight.detach(), layer.bias, groups=2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("spec", "share"), [("tucker(0.3)", 0.3), ("cp(0.3)", 0.3), ("tensor_train(0.3)", 0.3)])
@pytest.mark.parametrize("shape", [(64, 32, 3, 3), (16, 128, 3, 3), (32, 32, 5, 5)])
def test_a_share_of_the_entries_is_not_exceeded_and_nearly_reached(spec, share, shape):
    weight = ComputedParameter.from_value(torch.randn(shape), spec)
    entries = sum(raw.numel() for raw in weight.raws.values()) / weight.numel()
    assert 0.8 * share < entries <= share


@pytest.mark.parametrize("spec", ["tucker(0.5)", "cp(0.2)", "low_rank(3)"])
def test_gradients_are_those_of_the_dense_layer(spec):
    layer = surgery.apply_constraints(nn.Conv2d(6, 8, 3).double(), {"weight": spec})
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    raws = list(layer.weight.raws.values())
    factored = torch.autograd.grad(layer(x).square().sum(), raws)
    value = layer.weight.constraints[0](*raws)
    dense = torch.autograd.grad(functional.conv2d(x, value, layer.bias).square().sum(), raws)
    for one, other in zip(factored, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
