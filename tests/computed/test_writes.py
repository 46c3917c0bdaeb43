"""Writes of every form act on the value, and are projected once, at the next access.

The truth: a plain tensor takes the same writes, and the finished tensor is projected.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import init

import computed
import surgery
from computed.parameter import ComputedParameter
from tests.computed.identity import Counting

SPECS = ("spectral(bound=0.3)", "interval(-0.2, 0.2)", "symmetric", "orthogonal")

Write = Callable[..., object]


def twice(w: Tensor) -> None:
    w.mul_(3.0)
    w.add_(0.01)


def padded(w: Tensor) -> None:
    init.zeros_(w[2])


def through_a_view(w: Tensor) -> None:
    w.view(-1)[3:7].fill_(0.05)


def transposed(w: Tensor) -> None:
    w.T[1].fill_(0.02)


def nested_view(w: Tensor) -> None:
    w.data[0][1] = 0.5


def item(w: Tensor) -> None:
    w[1, 2] = 0.7


def masked(w: Tensor) -> None:
    w[w > 0.1] = -0.1


def data(w: Tensor) -> None:
    w.data.mul_(2.0)


def out(w: Tensor) -> None:
    torch.mul(torch.full((4, 4), 0.3), 2.0, out=w)


def copied(w: Tensor) -> None:
    w.copy_(torch.arange(16.0).view(4, 4) / 20)


def augmented(w: Tensor) -> None:
    w += 0.3
    w *= 0.5


def clamped(w: Tensor) -> None:
    w.clamp_(-0.05, 0.05)


WRITES: dict[str, Write] = {
    **{f.__name__: f for f in (
        twice, padded, through_a_view, transposed, nested_view, item, masked, data, out, copied, augmented, clamped,
    )},
    "uniform_": lambda w: init.uniform_(w, -0.5, 0.5),
    "normal_": lambda w: init.normal_(w, 0.0, 0.4),
    # with the bounds of timm and transformers; narrow ones are redrawn by comparing the weight, which projects it
    "trunc_normal_": lambda w: init.trunc_normal_(w, std=0.2),
    "constant_": lambda w: init.constant_(w, 0.25),
    "ones_": init.ones_,
    "zeros_": init.zeros_,
    "eye_": init.eye_,
    "xavier_uniform_": init.xavier_uniform_,
    "xavier_normal_": init.xavier_normal_,
    "kaiming_uniform_": init.kaiming_uniform_,
    "kaiming_normal_": init.kaiming_normal_,
    "orthogonal_": init.orthogonal_,
    "sparse_": lambda w: init.sparse_(w, 0.3),
}  # fmt: skip


def start() -> Tensor:
    """The same weight for all: inside every set."""
    return torch.eye(4) * 0.1 + 0.01


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("caching", [True, False], ids=["held", "not held"])
def test_a_write_is_a_write_of_the_finished_tensor(spec: str, name: str, caching: bool) -> None:
    """Bit for bit what projecting the finished plain tensor gives."""
    host = nn.Module()
    host.weight = ComputedParameter.from_value(start(), spec)
    computed.caching(host, caching)
    plain = host.weight.detach().clone()
    with torch.no_grad():
        torch.manual_seed(2)
        WRITES[name](host.weight)
        torch.manual_seed(2)
        WRITES[name](plain)
    expected = ComputedParameter.from_value(plain, spec)
    assert torch.equal(host.weight.detach(), expected.detach())
    assert torch.equal(host.weight.raws["raw"], expected.raws["raw"])


def test_dirac_takes_a_convolution() -> None:
    """The initialiser for convolutions."""
    layer = surgery.constrain(nn.Conv2d(3, 3, 3), weight="interval(-1, 1)")
    with torch.no_grad():
        init.dirac_(layer.weight)
    expected = torch.empty(3, 3, 3, 3)
    init.dirac_(expected)
    torch.testing.assert_close(layer.weight.detach(), expected.clamp(-1, 1), atol=1e-6, rtol=0)


def test_many_writes_are_projected_once() -> None:
    """At the next access, whatever their number; the tensor that is projected is the finished one."""
    layer = surgery.constrain(nn.Linear(4, 4), weight=Counting())
    counting = layer.weight.constraints[0]
    assert isinstance(counting, Counting)
    layer.weight.peek()
    counting.projections.clear()
    with torch.no_grad():
        for _ in range(5):
            layer.weight.mul_(0.5)
        init.kaiming_normal_(layer.weight)
    assert not counting.projections
    layer.state_dict()
    layer.weight.peek()
    assert len(counting.projections) == 1


@pytest.mark.parametrize("how", ["forward", "state_dict", "deepcopy", "raws", "eval", "double"])
def test_every_access_projects_what_was_written(how: str) -> None:
    """None of them sees a raw of before."""
    layer = surgery.constrain(nn.Linear(4, 4, bias=False), weight="interval(-1, 1)")
    layer.weight.peek()
    with torch.no_grad():
        layer.weight.fill_(0.5)
    match how:
        case "forward":
            raw = layer(torch.eye(4))[0, 0].detach()
            assert float(raw) == pytest.approx(0.5, abs=1e-6)
            return
        case "state_dict":
            raw = layer.state_dict()["weight.raw"]
        case "deepcopy":
            raw = copy.deepcopy(layer).weight.raws["raw"]
        case "raws":
            raw = layer.weight.raws["raw"]
        case "eval":
            raw = layer.eval().weight.raws["raw"]
        case _:
            raw = layer.double().weight.raws["raw"]
    expected = ComputedParameter.from_value(torch.full((4, 4), 0.5), "interval(-1, 1)").raws["raw"]
    torch.testing.assert_close(raw.float(), expected)


@pytest.mark.parametrize("write", [twice, item, out, augmented], ids=lambda f: f.__name__)
def test_with_gradients_on_a_write_raises_as_on_a_leaf(write: Write) -> None:
    """Nothing is written."""
    layer = surgery.constrain(nn.Linear(4, 4), weight="symmetric")
    before = layer.weight.detach().clone()
    with pytest.raises(
        RuntimeError, match=r"weight: ComputedParameter.*leaf Variable that requires grad.*torch\.no_grad"
    ):
        write(layer.weight)
    assert torch.equal(layer.weight.detach(), before)


def test_a_frozen_weight_is_written_with_gradients_on() -> None:
    """As a leaf that needs none."""
    layer = surgery.constrain(nn.Linear(4, 4).requires_grad_(False), weight="symmetric")
    layer.weight.fill_(0.5)
    assert torch.equal(layer.weight + 0, torch.full((4, 4), 0.5))


def test_a_load_wins_over_a_pending_write() -> None:
    """What is loaded is what is there."""
    layer = surgery.constrain(nn.Linear(4, 4), weight="symmetric")
    plain = nn.Linear(4, 4).state_dict()
    plain["weight"] = plain["weight"] + plain["weight"].T
    with torch.no_grad():
        layer.weight.fill_(9.0)
    layer.load_state_dict(plain)
    torch.testing.assert_close(layer.weight.detach(), plain["weight"])


def test_a_new_value_of_another_shape_is_refused() -> None:
    """By name, and nothing changes."""
    layer = surgery.constrain(nn.Linear(4, 4), weight="symmetric")
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=r"weight: .*cannot set data of shape \(2, 2\)"):
        layer.weight.data = torch.zeros(2, 2)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"must match|expand"):
        layer.weight.copy_(torch.zeros(2, 2))
    assert torch.equal(layer.weight.detach(), before)


def test_data_of_a_new_dtype_keeps_the_weight_s() -> None:
    """As `Parameter.data =` would not: the dtype of a weight changes with the model."""
    layer = surgery.constrain(nn.Linear(4, 4), weight="symmetric")
    layer.weight.data = torch.full((4, 4), 0.5, dtype=torch.float64)
    assert layer.weight.dtype is torch.float32
    assert torch.equal(layer.weight.detach(), torch.full((4, 4), 0.5))


def test_an_optimizer_step_projects_what_was_written_before_it() -> None:
    """The write is not lost to the step."""
    layer = surgery.constrain(nn.Linear(4, 4, bias=False), weight="interval(-1, 1)")
    optimizer = torch.optim.SGD(layer.parameters(), 0.0)
    layer(torch.ones(1, 4)).sum().backward()
    with torch.no_grad():
        layer.weight.fill_(0.5)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.full((4, 4), 0.5))
