"""Both routes side by side, a refusal with its place, and the smallest network that has something to constrain."""

from __future__ import annotations

import copy
import linecache
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.parameter import ComputedParameter
from tests.surgery.picture import differences, picture

RULES = {"*lin.weight": "positive"}
PLACE = re.compile(r"(?P<file>[^\s:]+\.py):(?P<line>\d+): `(?P<statement>.*?)`[: ]")


class Net(nn.Module):
    """A linear layer for authors' forwards; `build` adds what else they need."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.build()

    def build(self) -> None:
        """Nothing more."""


def rows() -> Tensor:
    """A batch for `Net`."""
    return torch.randn(3, 4)


def graph_of(model: nn.Module, rules: dict[str, object] = RULES, **options: Any) -> nn.Module:
    """The graph of ``model``, which is the same afterwards down to bits and ids, whatever happens."""
    before = picture(model)
    before.pop("random state")  # the tests of generators have their own
    try:
        return surgery.apply_constraints(model, rules, via="fx", **options)
    finally:
        after = picture(model)
        after.pop("random state")
        assert differences(before, after) == []


def refused(model: nn.Module, statement: str, reason: str, rules: dict[str, object] = RULES, **options: Any) -> str:
    """The message of a refusal, which names ``statement`` with its file and line, and says ``reason``."""
    with pytest.raises(surgery.TraceRefusedError, match=re.escape(f"`{statement}`")) as caught:
        graph_of(model, rules, **options)
    message = str(caught.value)
    place = PLACE.search(message)
    assert place is not None, message
    assert Path(place["file"]).name.startswith("test_")
    shown = " ".join(linecache.getline(place["file"], int(place["line"])).split())
    assert shown, message
    assert shown in statement or statement in shown, message
    assert reason in message, message
    return message


def agree(model: nn.Module, *inputs: Any, rules: dict[str, object] = RULES, calls: int = 2, **options: Any) -> Any:
    """Assert that the graph does what the tree does, call after call, in training and in eval; return the graph."""
    graph = graph_of(model, rules, **options)
    tree = surgery.apply_constraints(copy.deepcopy(model), rules)
    for training in (True, False):
        sides = copy.deepcopy(tree).train(training), copy.deepcopy(graph).train(training)
        assert list(sides[0].state_dict()) == list(sides[1].state_dict())
        for _ in range(calls):
            torch.testing.assert_close(*(observed(side, inputs) for side in sides), rtol=1e-5, atol=1e-6)
    return graph


def observed(module: nn.Module, inputs: tuple[Any, ...]) -> dict[str, object]:
    """What a call does: its output, the gradients of a loss, and the state afterwards."""
    torch.default_generator.manual_seed(3)
    module.zero_grad()
    output = module(*copy.deepcopy(inputs))
    loss = sum(each.double().square().sum() for each in (output if isinstance(output, tuple) else [output]))
    if loss.requires_grad:
        loss.backward()
    gradients = {name: one.grad for name, one in module.named_parameters() if one.grad is not None}
    state = {key: value.clone() for key, value in module.state_dict().items()}
    return {"output": output, "needs gradients": loss.requires_grad, "gradients": gradients, "state": state}


def calls_of_values(graph: nn.Module) -> list[str]:
    """The paths of the computed parameters that a graph calls, one for each call."""
    return [
        str(node.target)
        for node in graph.graph.nodes
        if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), ComputedParameter)
    ]
