"""Random programs of apply, train, write, load and undo: each undo gives the picture from before its apply."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn

import surgery
from computed.parameter import ComputedParameter
from tests.surgery.models import Listed, TiedLM
from tests.surgery.picture import differences, picture

SPECS = ("spectral(bound=0.5)", "orthogonal", "weight_norm", "lora(2)", "unit_norm", "interval(-1, 1)", "frozen")
PROGRAMS = {"small": 25, "full": 300}


class Mixed(nn.Module):
    """Several hosts, a tie, a shared module and a buffer, all matrices 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.shared = nn.ModuleList([nn.Linear(4, 4)] * 2)
        self.free = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("kept", torch.randn(4, 4))
        self.register_buffer("passing", torch.randn(4, 4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second, self.tied, *self.shared):
            x = torch.tanh(layer(x))
        return x @ self.free + x @ self.kept - x @ self.passing


NAMES = ("first.weight", "second.weight", "tied.weight", "shared.1.weight", "free", "kept", "passing")


class Program:
    """A model, and the pictures from before each apply that has not been taken back."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.model = Mixed()
        self.model(torch.randn(2, 4)).sum().backward()
        self.before: list[dict[str, object]] = []
        self.touched: list[set[str]] = []
        self.said: list[str] = []

    def apply(self) -> None:
        """Constrain one or two sites, somehow."""
        chosen = self.random.sample(NAMES, self.random.choice([1, 1, 2]))
        rules = {name: self.random.choice(SPECS) for name in chosen}
        existing, tie = self.random.choice(["chain", "replace"]), self.random.choice(["share", "share", "split"])
        plan = surgery.plan(self.model, rules, existing=existing, tie=tie, strict=False)
        self.said.append(f"apply {rules} {existing} {tie}: {[row.action.value for row in plan.sites]}")
        self.model.state_dict()  # projects what was written
        before = picture(self.model)
        if plan.problems:
            with pytest.raises(surgery.PlanError, match="nothing was changed"):
                plan.apply()
            assert differences(before, picture(self.model)) == []
        elif any(row.changes for row in plan.sites):
            plan.apply()
            self.before.append(before)
            self.touched.append({name for row in plan.sites if row.changes for name in row.site.names})

    def undo(self) -> None:
        """Take the last one back, where there is one."""
        self.said.append("undo")
        if not self.before:
            with pytest.raises(surgery.UndoError, match="nothing to undo"):
                surgery.undo(self.model)
            return
        surgery.undo(self.model)
        self.touched.pop()
        before = self.before.pop()
        # a read in eval settles the state of every site that has been trained
        free = ("random state", "settled_")
        found = [place for place in differences(before, picture(self.model)) if not any(word in place for word in free)]
        assert found == [], self.said

    def on_last(self, act: Callable[[ComputedParameter], None]) -> None:
        """Do something to the computed parameters of the last apply that is not taken back."""
        if self.touched:
            computed = surgery.computed_parameters(self.model)
            names = [name for name in self.touched[-1] if name in computed]
            self.said.append(f"{act.__name__} {names}")
            for name in names:
                act(computed[name])

    def train(self) -> None:
        """An optimizer steps."""
        self.on_last(trained)

    def write(self) -> None:
        """The value is written."""
        self.on_last(written)

    def read(self) -> None:
        """What only looks, in both modes."""
        self.said.append("read")
        with torch.no_grad():
            self.model.eval()(torch.randn(2, 4))
            self.model.train()
        surgery.check(self.model)
        surgery.state_dict(self.model, format="plain")

    def run(self, steps: int) -> None:
        """Some steps, and all undos."""
        for _ in range(steps):
            self.random.choice([self.apply, self.apply, self.apply, self.train, self.write, self.read, self.undo])()
        while self.before:
            self.undo()


def trained(parameter: ComputedParameter) -> None:
    """One step of Adam on the raws that train."""
    raws = [raw for raw in parameter.raws.values() if raw.requires_grad]
    if raws:
        parameter.square().sum().backward()
        torch.optim.Adam(raws, lr=0.1).step()


def written(parameter: ComputedParameter) -> None:
    """A whole value and a part of one."""
    with torch.no_grad():
        parameter.copy_(torch.randn(parameter.shape))
        parameter[0] = 0.25


def test_random_programs(size: str, evidence: Callable[[str, str], None]):
    count = PROGRAMS[size]
    for seed in range(count):
        program = Program(seed)
        program.run(12)
        surgery.apply_constraints(program.model, {"first.weight": "symmetric", "kept": "skew"})
        surgery.bake(program.model)
        assert not surgery.computed_parameters(program.model), program.said
    evidence("undo leaves no difference at its sites", f"{count} random programs of 12 steps")


def test_models_after_programs_are_whole():
    for build in (TiedLM, Listed):
        assert picture(build()) != picture(build())
