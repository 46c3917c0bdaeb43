"""The contracts on every device that there is: the processor, and CUDA where a machine has it.

Truth is the model on the processor, in float64 where numbers are compared.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import computed
import surgery

pytestmark = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="a machine without CUDA")),
    ],
)
RULES = {
    "spectral": {"*.weight": "spectral(bound=0.5)"},
    "weight norm": {"*.weight": "weight_norm"},
    "orthogonal": {"*@Linear.weight": "orthogonal"},
    "adapters": {"*.weight": "lora(2)"},
    "masks": {"*.weight": "mask(0.5, dim=0)"},
    "positive": {"*.weight": "positive"},
    "operator norm": {"*@Conv2d.weight": "operator_norm(bound=0.5)"},
    "grid": {"*.weight": "fake_quant(bits=8)"},
}


class Net(nn.Module):
    """A convolution, a linear layer that is used twice, and one that is large."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Linear(8, 8)
        self.wide = nn.Linear(8, 9000)

    def forward(self, x: Tensor) -> Tensor:
        """A number for each of many."""
        hidden = torch.tanh(self.conv(x)).mean((2, 3))
        return self.wide(torch.tanh(self.inner(torch.tanh(self.inner(hidden)))))


def made(rules: str, device: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A model on the device, its twin on the processor, and a batch for that."""
    torch.manual_seed(0)
    twin = surgery.apply_constraints(Net().double(), RULES[rules])
    return copy.deepcopy(twin).to(device), twin, torch.randn(4, 3, 5, 5, dtype=torch.float64)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    optimizer.zero_grad()
    out = model(x)
    (out.square().mean() + model(0.5 * x).square().mean()).backward()
    optimizer.step()
    return out.detach()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rules", RULES)
def test_training_is_that_on_the_processor(rules: str, fused: bool, device: str) -> None:
    model, twin, x = made(rules, device)
    ours, theirs = (
        torch.optim.AdamW([raw for raw in one.parameters() if raw.requires_grad], 0.01, fused=fused)
        for one in (model, twin)
    )
    for _ in range(4):
        torch.testing.assert_close(step(model, ours, x.to(device)).cpu(), step(twin, theirs, x), rtol=1e-6, atol=1e-8)
    for (key, found), expected in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert found.device.type == device
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-7, msg=key)
    surgery.check(model.eval())
    torch.testing.assert_close(model(x.to(device)).cpu(), twin.eval()(x), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rules", RULES)
def test_values_are_held_and_writes_are_seen(rules: str, device: str) -> None:
    model, _, x = made(rules, device)
    x = x.to(device)
    model.eval()
    with torch.no_grad():
        for weight in surgery.computed_parameters(model).values():
            first = weight.value()
            assert weight.value() is first
            for raw in weight.raws.values():
                raw.data.mul_(0.5)  # no version counts that
            reference = weight.evaluated(training=False)
            torch.testing.assert_close(weight.value(), reference)
            weight.copy_(first)
            torch.testing.assert_close(weight.value(), first, rtol=1e-4, atol=1e-5)
        assert model(x).isfinite().all()


@pytest.mark.parametrize("rules", RULES)
def test_undo_is_exact_and_bake_is_equal(rules: str, device: str) -> None:
    torch.manual_seed(0)
    plain = Net().to(device)
    x = torch.randn(4, 3, 5, 5, device=device)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    surgery.apply_constraints(plain, RULES[rules])
    baked = surgery.bake(copy.deepcopy(plain).eval())
    assert torch.equal(baked(x), plain.eval()(x))
    surgery.undo(plain)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("rules", RULES)
def test_what_is_saved_is_loaded(rules: str, device: str) -> None:
    model, twin, x = made(rules, device)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    torch.testing.assert_close(model.eval()(x.to(device)).cpu(), twin.eval()(x), rtol=1e-6, atol=1e-8)
    assert computed.ComputedParameter in {type(one) for one in twin.modules()}


@pytest.mark.parametrize("rules", ["spectral", "weight norm", "masks", "adapters"])
def test_autocast(rules: str, device: str) -> None:
    model, twin, x = made(rules, device)
    model, twin = model.float(), twin.float()
    with torch.autocast(device, torch.bfloat16):
        out = model(x.float().to(device))
    assert out.dtype is torch.bfloat16
    out.float().square().mean().backward()
    torch.testing.assert_close(out.float().cpu(), twin(x.float()), rtol=0.05, atol=0.05)
