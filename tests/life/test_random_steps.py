"""Steps of two optimizers with forwards, writes, loads and evaluations between them, drawn at random.

Small weights are evaluated together, large ones stand aside for their scale, and all are held; the reference is a twin
with `caching(model, False)`, which evaluates each value at every read. In float64, so that only errors are seen.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import computed
import surgery
from computed import scaled

Between = Callable[["Network", Tensor, Tensor, list[str]], float | None]
STEPS = 25
SEEDS = {"small": 8, "full": 60}


class Network(nn.Module):
    """Three layers of one shape of which each forward takes some, and three more."""

    def __init__(self) -> None:
        super().__init__()
        self.some = nn.ModuleDict({name: nn.Linear(16, 16) for name in "abc"})
        self.narrow, self.wide = nn.Linear(16, 8), nn.Linear(8, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, x: Tensor, taken: list[str]) -> Tensor:
        for name in taken:
            x = torch.tanh(self.some[name](x))
        x = self.wide(torch.tanh(self.narrow(x)))
        return self.conv(x[..., None].expand(-1, -1, 3)).sum()


def backward(model: Network, x: Tensor, new: Tensor, taken: list[str]) -> float:
    loss = model(x, taken)
    loss.backward()
    return float(loss.detach())


def without_gradients(model: Network, x: Tensor, new: Tensor, taken: list[str]) -> float:
    with torch.no_grad():
        return float(model(x, taken))


def in_eval(model: Network, x: Tensor, new: Tensor, taken: list[str]) -> float:
    found = without_gradients(model.eval(), x, new, taken)
    model.train()
    return found


def written(model: Network, x: Tensor, new: Tensor, taken: list[str]) -> None:
    with torch.no_grad():
        model.some[taken[0]].weight.copy_(new)


def raw_written(model: Network, x: Tensor, new: Tensor, taken: list[str]) -> None:
    model.some[taken[0]].weight.raws["raw"].data.add_(0.01 * new)


def loaded(model: Network, x: Tensor, new: Tensor, taken: list[str]) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})


BETWEEN: list[Between] = [backward, backward, backward, without_gradients, in_eval, written, raw_written, loaded]


def optimizers(model: Network) -> list[torch.optim.Optimizer]:
    others = [*model.narrow.parameters(), *model.wide.parameters(), *model.conv.parameters()]
    return [
        torch.optim.SGD(model.some.parameters(), 0.05, momentum=0.9, weight_decay=0.01),
        torch.optim.Adam(others, 0.01),
    ]


def assert_same(model: nn.Module, twin: nn.Module, when: str) -> None:
    for (name, value), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-8, msg=f"{name} {when}")


def test_whatever_comes_between_steps(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaled, "WORTH", 200)  # the convolution counts as large
    for seed in range(SEEDS[size]):
        torch.manual_seed(seed)
        draw = random.Random(seed)
        spec = draw.choice(["spectral", "spectral(bound=0.7)"])
        model = surgery.apply_constraints(Network().double(), {"*.weight": spec}, keep_undo=False)
        twin = computed.caching(copy.deepcopy(model), False)
        pairs = [(one, optimizers(one)) for one in (model, twin)]
        for turn in range(STEPS):
            todo = [
                (draw.choice(BETWEEN), torch.randn(4, 16).double(), torch.randn(16, 16).double(), draw.sample("abc", 2))
                for _ in range(draw.randint(1, 5))
            ]
            stepping, to_none = draw.choice([(0,), (1,), (0, 1)]), draw.random() < 0.7
            outputs = []
            for one, both in pairs:
                for optimizer in both:
                    optimizer.zero_grad(set_to_none=to_none)
                done = [do(one, x, new, taken) for do, x, new, taken in todo]
                outputs.append([number for number in done if number is not None])
                for index in stepping:
                    both[index].step()
            when = f"after step {turn} of seed {seed}: {[do.__name__ for do, *_ in todo]}"
            assert outputs[0] == pytest.approx(outputs[1], rel=1e-8, abs=1e-8), when
            assert_same(model, twin, when)
