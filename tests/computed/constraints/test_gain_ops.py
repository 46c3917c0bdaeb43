"""Layers under IA3: in training their channels are scaled, and the weight is never made."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.constraints.gain_ops import pays
from computed.reading import Reading

LAYERS = {
    "linear": (lambda: nn.Linear(96, 80), (5, 96)),
    "linear, no bias": (lambda: nn.Linear(96, 80, bias=False), (2, 5, 96)),
    "one row": (lambda: nn.Linear(96, 80), (96,)),
    "conv1d": (lambda: nn.Conv1d(32, 24, 3, stride=2, padding=1), (2, 32, 9)),
    "conv2d": (lambda: nn.Conv2d(16, 12, 3, padding="same"), (2, 16, 6, 7)),
    "conv2d, one image": (lambda: nn.Conv2d(16, 12, 3, bias=False), (16, 6, 7)),
    "conv2d, groups": (lambda: nn.Conv2d(32, 24, 3, padding=1, padding_mode="circular", groups=2), (2, 32, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(8, 6, 3, dilation=2), (2, 8, 6, 7, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(24, 32, 3, stride=2), (2, 24, 9)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(32, 16, 3, stride=2, output_padding=1, groups=2), (2, 32, 5, 6)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(8, 6, 3), (2, 8, 4, 5, 3)),
}


def constrained(name: str, spec: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module, Tensor]:
    """A layer with gains that are not one, its plain twin with the same value, and a batch."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = surgery.apply_constraints(make().to(dtype), {"weight": spec})
    with torch.no_grad():
        layer.weight.raws["gains"].uniform_(0.5, 1.5)
    return layer, surgery.bake(copy.deepcopy(layer)), torch.randn(shape, dtype=dtype)


def no_value(self: Reading) -> Tensor:
    raise AssertionError("the value was made")


@pytest.mark.parametrize("spec", ["ia3", "ia3(inputs=True)"])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_value(name: str, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, plain, x = constrained(name, spec)
    weight = layer.weight.value()
    given = [layer.weight.raws["gains"], x.requires_grad_()] + ([] if layer.bias is None else [layer.bias])
    twin = copy.deepcopy(plain)
    twin._parameters.pop("weight")
    twin.weight = weight
    expected = twin(x)
    wanted = torch.autograd.grad(expected.square().sum(), given[:2] + ([] if twin.bias is None else [twin.bias]))
    monkeypatch.setattr(Reading, "value", no_value)
    out = layer(x)
    found = torch.autograd.grad(out.square().sum(), given, create_graph=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.grad(sum(each.sum() for each in found), given[0])[0].isfinite().all()
    assert layer.weight.raws["base"].grad is None


@pytest.mark.parametrize("spec", ["ia3", "ia3(inputs=True)"])
def test_derivatives_of_both_orders(spec: str) -> None:
    layer = surgery.apply_constraints(nn.Linear(65, 66).double(), {"weight": spec})
    gains = layer.weight.raws["gains"]
    x = torch.randn(2, 65, dtype=torch.float64)

    def of(moved: Tensor) -> Tensor:
        parameters = {"weight.gains": gains + moved.repeat(-(-len(gains) // 3))[: len(gains)]}
        return torch.func.functional_call(layer, parameters, (x,)).square().sum(1)

    start = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of, start)
    assert torch.autograd.gradgradcheck(of, start)


def test_eval_takes_the_value_bit_for_bit() -> None:
    for name in LAYERS:
        layer, plain, x = constrained(name, "ia3", torch.float32)
        assert torch.equal(layer.eval()(x), plain.eval()(x)), name


@pytest.mark.parametrize("spec", ["ia3", "ia3(inputs=True)"])
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_autocast_gives_its_dtype(name: str, spec: str) -> None:
    layer, plain, x = constrained(name, spec, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = layer(x), plain(x)
    assert out.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
    out.sum().backward()
    assert layer.weight.raws["gains"].grad.dtype == torch.float32


def test_what_does_not_pay_takes_the_value() -> None:
    assert not pays((24, 1, 3, 3), 0)
    assert pays((24, 8, 3, 3), 0)
    layer = surgery.apply_constraints(nn.Conv2d(24, 24, 3, groups=24), {"weight": "ia3"})
    x = torch.randn(2, 24, 5, 5)
    assert torch.equal(layer(x), surgery.bake(copy.deepcopy(layer))(x))


def test_a_step_of_training_is_that_of_the_value() -> None:
    layer, _, x = constrained("conv2d", "ia3")
    twin = copy.deepcopy(layer)
    vars(twin.weight)["ruled"] = False
    for model in (layer, twin):
        optimizer = torch.optim.AdamW(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), twin.weight.detach())


def test_graphs_scale_channels_too() -> None:
    model = nn.Sequential(nn.Conv2d(16, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 64)).double()
    x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
    graph = surgery.apply_constraints(copy.deepcopy(model), {"*.weight": "ia3"}, via="fx")
    with torch.no_grad():
        for name, raw in graph.named_parameters():
            if name.endswith("gains"):
                raw.uniform_(0.5, 1.5)
    out = graph(x)
    assert any(type(module).__name__ == "FactoredOp" for module in graph.modules())
    torch.testing.assert_close(out, surgery.bake(graph)(x))
    assert not torch.allclose(out, model(x))
