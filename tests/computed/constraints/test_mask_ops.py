"""Layers under masks of whole channels: in training these are left out of the result, and no masked weight is made."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed import scaled
from computed.reading import Reading

LAYERS = {
    "linear": (lambda: nn.Linear(24, 16), (3, 24)),
    "linear, no bias": (lambda: nn.Linear(24, 16, bias=False), (2, 2, 24)),
    "one row": (lambda: nn.Linear(24, 16), (24,)),
    "conv1d": (lambda: nn.Conv1d(8, 6, 3, stride=2), (2, 8, 5)),
    "conv2d": (lambda: nn.Conv2d(8, 6, 3, padding="same"), (2, 8, 3, 3)),
    "conv2d, one image": (lambda: nn.Conv2d(8, 6, 3, bias=False), (8, 4, 4)),
    "conv2d, groups": (lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular", groups=2), (1, 8, 3, 3)),
    "conv2d, channels last": (lambda: nn.Conv2d(8, 6, 3).to(memory_format=torch.channels_last), (2, 8, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), (1, 4, 3, 4, 3)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(8, 6, 3), (1, 8, 2, 2)),
    "transposed 2d, groups": (lambda: nn.ConvTranspose2d(8, 6, 3, groups=2), (1, 8, 1, 1)),
}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of any size count as large."""
    monkeypatch.setattr(scaled, "WORTH", 1)


def constrained(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module, Tensor]:
    """A layer whose output channels are masked, a twin that makes the value, and a batch."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = surgery.constrain(make().to(dtype), weight=f"mask(0.5, dim={1 if 'transposed' in name else 0})")
    twin = copy.deepcopy(layer)
    vars(twin.weight)["ruled"] = False
    return layer, twin, torch.randn(shape, dtype=dtype)


def no_value(self: Reading) -> Tensor:
    raise AssertionError("the value was made")


def losses(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, gradients of the first order, and those of their squares."""
    given = [x.detach().clone().requires_grad_(), *layer.parameters()]
    out = layer(given[0])
    first = torch.autograd.grad(out.square().sum(), given, create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), given)
    return [out.detach(), *first, *second]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, twin, x = constrained(name)
    expected = losses(twin, x)
    monkeypatch.setattr(Reading, "value", no_value)
    for found, wanted in zip(losses(layer, x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    hidden = layer.weight.raws["raw"].detach()[layer.weight.constraints[0].mask == 0]
    assert hidden.numel()
    assert hidden.count_nonzero() == hidden.numel()  # the raw keeps what is masked


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", ["linear", "conv2d", "transposed 2d, groups"])
def test_what_is_masked_may_be_no_number(name: str) -> None:
    layer, twin, x = constrained(name)
    with torch.no_grad():
        for one in (layer, twin):
            raw = one.weight.raws["raw"]
            raw.masked_fill_(one.weight.constraints[0].mask == 0, torch.nan)
    out = layer(x)
    assert out.isfinite().all()
    torch.testing.assert_close(out, twin(x), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_a_write_finds_another_mask() -> None:
    layer, twin, x = constrained("linear")
    layer(x)
    new = torch.randn(16, 24, dtype=torch.float64)
    for one in (layer, twin):
        with torch.no_grad():
            one.weight.copy_(new)
    torch.testing.assert_close(layer(x), twin(x))
    surgery.configure(layer, "weight", sparsity=0.25)
    surgery.configure(twin, "weight", sparsity=0.25)
    torch.testing.assert_close(layer(x), twin(x))
    assert int((layer.weight.constraints[0].mask[:, 0] == 0).sum()) == 4
    with surgery.disabled(layer):
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight.raws["raw"], layer.bias))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("spec", ["spectral | mask(0.5, dim=0)", "mask(0.25, dim=0) | mask(0.5, dim=0)"])
def test_at_the_end_of_a_chain(spec: str) -> None:
    torch.manual_seed(0)
    layer = surgery.constrain(nn.Linear(24, 16).double(), weight=spec)
    twin, x = copy.deepcopy(layer), torch.randn(3, 24, dtype=torch.float64)
    vars(twin.weight)["ruled"] = False
    for one in (layer, twin):
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            one(x).square().sum().backward()
            optimizer.step()
    for (key, found), expected in zip(layer.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, msg=key)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_autocast_and_compiled(name: str) -> None:
    layer, twin, x = constrained(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = layer(x), twin(x)
    assert out.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), twin(x))


def test_what_does_not_pay_takes_the_value() -> None:
    for name in LAYERS:
        layer, twin, x = constrained(name)
        assert torch.equal(layer(x), twin(x)), name
        assert layer.weight._holds[True] is not None, name
    inputs = surgery.constrain(nn.Linear(512, 512), weight="mask(0.5, dim=1)")
    inputs(torch.randn(2, 512))
    assert inputs.weight._holds[True] is not None


def test_masks_of_entries_ask_for_no_rule() -> None:
    assert surgery.constrain(nn.Linear(512, 512), weight="mask(0.5, dim=0)").weight.ruled
    assert not surgery.constrain(nn.Linear(512, 512), weight="mask(0.5)").weight.ruled


def test_a_large_layer_makes_no_value() -> None:
    layer = surgery.constrain(nn.Linear(512, 512), weight="mask(0.5, dim=0)")
    x = torch.randn(4, 512)
    out = layer(x)
    out.sum().backward()
    assert layer.weight._holds == [None, None]
    mask = layer.weight.constraints[0].mask
    assert torch.equal(layer.weight.raws["raw"].grad == 0, mask == 0)
    assert torch.equal(layer.eval()(x), surgery.bake(copy.deepcopy(layer))(x))


WRONG = {
    "no tensor": lambda layer: nn.functional.linear("x", layer.weight),  # type: ignore[arg-type] # wrong on purpose
    "other channels": lambda layer: layer(torch.randn(2, 5)),
    "another dtype": lambda layer: layer(torch.randn(2, 24)),
}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_by_the_operation(what: str) -> None:
    layer, twin, _ = constrained("linear")
    errors = []
    for one in (layer, twin):
        with pytest.raises((RuntimeError, TypeError)) as caught:
            WRONG[what](one)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
