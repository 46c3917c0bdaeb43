"""An op rule behind another constraint: the state of what stands before it lives as where the value is read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint, Preimage, Role


class Gained(Constraint):
    """Rows times a trained gain, which a linear operation applies to its output instead."""

    roles: ClassVar[tuple[Role, ...]] = (Role("raw"), Role("gain", added=True))

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        return shape, torch.Size((shape[0],))

    def forward(self, raw: Tensor, gain: Tensor) -> Tensor:
        return raw * gain.unsqueeze(1)

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value, value.new_ones(value.shape[0])))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        return self.linear if op is F.linear else None

    def linear(self, input: Tensor, weight: tuple[Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
        product = F.linear(input, weight[0]) * weight[1]
        return product if bias is None else product + bias


class ByValue(nn.Linear):
    """A linear layer that reads its weight as a value, for which there is no op rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT + self.bias


def chained(host: nn.Linear) -> nn.Linear:
    torch.manual_seed(3)
    for parameter in host.parameters():
        nn.init.normal_(parameter)
    return surgery.constrain(host, weight=["spectral", Gained()])


def state_of(layer: nn.Linear) -> list[Tensor]:
    return [buffer.clone() for buffer in layer.weight.constraints[0].state()]


def trained(layer: nn.Linear, call: Callable[[Tensor], Tensor], steps: int = 12) -> nn.Linear:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for _ in range(2):  # micro-batches: the state advances once a step
            x = torch.randn(7, layer.in_features, generator=generator)
            (call(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return layer


def test_state_before_a_rule_advances_as_where_the_value_is_read():
    """Twelve steps by the rule and twelve by the value: raws and state agree, and the state has moved."""
    by_rule, by_value = chained(nn.Linear(5, 6)), chained(ByValue(5, 6))
    before = state_of(by_rule)
    trained(by_rule, by_rule)
    trained(by_value, by_value)
    for one, other in zip(by_rule.state_dict().values(), by_value.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert max(float((one - other).abs().max()) for one, other in zip(before, state_of(by_rule), strict=True)) > 0.05


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_state_before_a_rule_advances_in_compiled_code(backend):
    """A compiled forward leaves the pending state that the step commits."""
    eager, compiled = chained(nn.Linear(5, 6)), chained(nn.Linear(5, 6))
    trained(eager, eager)
    trained(compiled, torch.compile(compiled, backend=backend, fullgraph=True))
    for one, other in zip(eager.state_dict().values(), compiled.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("via", ["fx", "export"])
def test_a_graph_and_the_tree_train_alike(via):
    """The graph reads the value and the tree takes the rule: state and raws after twelve steps agree."""
    tree = chained(nn.Linear(5, 6))
    arguments = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if via == "export" else {}
    graph = surgery.apply_constraints(
        copy.deepcopy(tree), {}, via=via, example=(torch.randn(7, 5),), **arguments
    ).train()
    trained(tree, tree)
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        for _ in range(2):
            x = torch.randn(7, 5, generator=generator)
            (graph(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(tree.state_dict().values(), graph.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_write_by_hand_to_the_frozen_raw_is_followed():
    """Under an adapter the raw is frozen: a write to it moves the state at the steps that follow."""
    layer = surgery.constrain(nn.Linear(4, 5), weight="spectral | lora(rank=2)")
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.1)
    layer(torch.randn(3, 4))
    with torch.no_grad():
        layer.weight.raw.copy_(torch.randn(5, 4))
    for _ in range(60):
        optimizer.zero_grad()
        layer(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
    first = layer.weight.constraints[0]
    value = first.value_given(layer.weight.raw, first.next_state(layer.weight.raw))
    assert np.linalg.norm(value.detach().numpy(), 2) == pytest.approx(1.0, abs=1e-4)


def test_reading_by_a_rule_is_pure():
    """Ten forwards between two steps leave the committed state as it is."""
    layer = chained(nn.Linear(5, 6))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(3, 5)).sum().backward()
    optimizer.step()
    before = state_of(layer)
    for _ in range(10):
        layer(torch.randn(3, 5))
    assert all(torch.equal(one, other) for one, other in zip(before, state_of(layer), strict=True))


class Turned(nn.Module):
    """A product, which autocast would do in bfloat16; it notes in what it was done."""

    dtypes: ClassVar[list[torch.dtype]] = []

    def forward(self, raw: Tensor) -> Tensor:
        turned = raw @ torch.eye(raw.shape[1]).flip(0)
        self.dtypes.append(turned.dtype)
        return turned

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.flip(1)


def test_autocast_is_for_the_operation_alone():
    """What stands before the rule is evaluated in float32, as where the value is read."""
    layer = surgery.constrain(nn.Linear(8, 8), weight=[Turned(), "lora(rank=2)"])
    Turned.dtypes.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(torch.randn(3, 8))
    assert output.dtype == torch.bfloat16
    assert set(Turned.dtypes) == {torch.float32}
