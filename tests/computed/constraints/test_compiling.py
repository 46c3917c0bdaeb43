"""Constraints inside torch.compile: one graph, the same values, state that the optimizer's step commits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from computed.parameter import ComputedParameter


class Host(nn.Module):
    """A layer with a computed weight."""

    def __init__(self, spec: str) -> None:
        super().__init__()
        self.weight = ComputedParameter.from_value(torch.randn(6, 5), spec)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight)


@pytest.mark.parametrize("spec", ["spectral", "orthogonal", "lora(2)"])
def test_trains_compiled_as_it_does_eagerly(spec):
    eager = Host(spec)
    other = copy.deepcopy(eager)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    optimizers = [torch.optim.SGD(host.parameters(), lr=0.1) for host in (eager, other)]
    for _ in range(3):
        x = torch.randn(4, 5)
        for model, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for key, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, eager.state_dict()[key], rtol=1e-5, atol=1e-6)
    x = torch.randn(4, 5)
    torch.testing.assert_close(compiled.eval()(x), eager.eval()(x), rtol=1e-5, atol=1e-6)
    torch.compiler.reset()
