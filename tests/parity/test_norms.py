"""Spectral norm and weight norm, against torch's parametrizations and NumPy."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrizations

import surgery

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def sigma(weight: Tensor) -> float:
    return float(np.linalg.svd(weight.detach().double().numpy(), compute_uv=False)[0])


def spectral(layer: nn.Module, **names: str) -> nn.Module:
    return surgery.constrain(layer, names or {"weight": "spectral"})


def test_new_spectral_norm():
    """What is trained, what is state, what is neither."""
    layer = nn.Linear(5, 7).double()
    weight, stride = layer.weight, layer.weight.stride()
    spectral(layer)
    assert layer.weight.raws == {"raw": weight}
    assert weight.requires_grad
    assert [name for name, _ in layer.named_parameters()] == ["bias", "weight.raw"]
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items() if key.startswith("weight.con")} == {
        "weight.constraints.0.u": (7,),
        "weight.constraints.0.v": (5,),
    }
    assert layer.weight.value().stride() == stride
    surgery.bake(layer)
    assert layer.weight is weight
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_new_spectral_norm_of_several_parameters():
    """A vector has no singular values here; its unit norm is the number that torch makes of it."""
    layer, theirs = nn.Linear(5, 7), nn.Linear(5, 7)
    theirs.load_state_dict(layer.state_dict())
    with pytest.raises(surgery.PlanError, match=r"bias \(Linear\).*spectral needs 2 or more dimensions, got shape \(7"):
        surgery.constrain(layer, weight="spectral", bias="spectral")
    surgery.constrain(layer, weight="spectral", bias="unit_norm(dim=None)")
    parametrizations.spectral_norm(theirs, "bias")
    torch.testing.assert_close(layer.bias.detach(), theirs.bias.detach())
    surgery.bake(layer, "bias")
    assert list(surgery.computed_parameters(layer)) == ["weight"]
    torch.testing.assert_close(layer.bias.detach(), theirs.bias.detach())
    surgery.bake(layer, "weight")
    assert not surgery.computed_parameters(layer)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_new_spectral_norm_is_removed_with_its_value(requires_grad: bool):
    """After training, and at once; what a forward gave in eval, the plain layer gives."""
    layer, batch = nn.Linear(3, 4).double(), torch.randn(2, 3, dtype=torch.float64)
    layer.weight.requires_grad_(requires_grad)
    expected = linear(batch, layer.weight / sigma(layer.weight), layer.bias)
    torch.testing.assert_close(spectral(layer)(batch), expected)
    surgery.bake(layer)
    torch.testing.assert_close(layer(batch), expected)
    spectral(layer)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(batch).square().sum().backward()
        optimizer.step()
    assert layer.weight.requires_grad is requires_grad
    expected = layer.eval()(batch)
    assert sigma(layer.weight) == pytest.approx(1.0, abs=1e-4)
    surgery.bake(layer.train())
    assert torch.equal(layer(batch), expected)


def test_new_spectral_norm_in_eval_stays():
    layer, batch = spectral(nn.Linear(3, 4)), torch.randn(2, 3)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(batch).sum().backward()
    optimizer.step()
    layer.eval()
    state = copy.deepcopy(layer.state_dict())
    first = layer(batch)
    assert torch.equal(layer(batch), first)
    assert all(torch.equal(now, state[key]) for key, now in layer.state_dict().items())


@pytest.mark.parametrize("requires_grad", [True, False])
def test_new_spectral_norm_backward_through_several_forwards(requires_grad: bool):
    """In train, in eval and mixed, by finite differences; a forward moves no state, so none is set back between."""
    layer = nn.Linear(3, 4).double()
    layer.weight.requires_grad_(requires_grad)
    spectral(layer)
    batch = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def outputs(batch: Tensor) -> Tensor:
        return sum(layer.train(mode)(batch) for mode in (True, True, False, True, False))

    assert torch.autograd.gradcheck(outputs, batch)
    if requires_grad:
        # finite differences write to the raw itself
        assert torch.autograd.gradcheck(lambda raw: layer.eval()(batch.detach()), layer.weight.raws["raw"])


@pytest.mark.parametrize("steps", [0, 3])
def test_new_spectral_norm_load_state_dict(steps: int):
    layer, batch = spectral(nn.Linear(3, 5)), torch.randn(2, 3)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(steps):
        layer(torch.randn(2, 3)).square().sum().backward()
        optimizer.step()
    saved = copy.deepcopy(layer.state_dict())
    assert set(saved) == {"bias", "weight.raw", "weight.constraints.0.u", "weight.constraints.0.v"}

    def outputs() -> list[Tensor]:
        """In a layer that was plain before it was loaded."""
        again = spectral(surgery.bake(layer))
        again.load_state_dict(saved)
        return [again.train(mode)(batch).detach() for mode in (False, True, True, False)]

    for one, other in zip(outputs(), outputs(), strict=True):
        assert torch.equal(one, other)


def test_new_spectral_norm_load_state_dict_not_strict():
    """With keys that nobody knows and without those that belong here; a plain weight is taken too."""
    layer = spectral(nn.Linear(3, 5))
    value = layer.weight.detach().clone()
    given = {**layer.state_dict(), "nonsense": torch.ones(())}
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "nonsense"'):
        layer.load_state_dict(given)
    missing = []
    for key in ("weight.raw", "weight.constraints.0.u", "weight.constraints.0.v", "bias"):
        del given[key]
        missing.append(key)
        found = layer.load_state_dict(given, strict=False)
        assert sorted(found.missing_keys) == sorted(missing)
        assert found.unexpected_keys == ["nonsense"]
        torch.testing.assert_close(layer.weight.detach(), value)
    found = layer.load_state_dict({**given, "weight": 3 * value}, strict=False)
    assert found.missing_keys == ["bias"]
    torch.testing.assert_close(layer.weight.detach(), value)


def test_new_spectral_norm_value():
    """Of a diagonal matrix, whose singular values can be seen."""
    layer = nn.Linear(2, 2)
    diagonal = layer.weight.detach().diagonal().clone()
    with torch.no_grad():
        layer.weight.copy_(diagonal.diag())
    spectral(layer)
    torch.testing.assert_close(layer.weight.detach(), (diagonal / diagonal.abs().max()).diag())


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "file"])
def test_weight_norm_copies_and_pickles(twin: Callable[[nn.Module], nn.Module]):
    """torch's parametrized layer cannot be pickled."""
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(parametrizations.weight_norm(nn.Linear(4, 5)))
    layer, batch = surgery.constrain(nn.Linear(4, 5), weight="weight_norm"), torch.randn(3, 4)
    other = twin(layer)
    assert torch.equal(other(batch), layer(batch))
    with torch.no_grad():
        other.weight.raws["g"].mul_(2.0)
    assert not torch.equal(other(batch), layer(batch))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "lengths"), [(0, (5, 1)), (1, (1, 4)), (None, (1, 1))])
def test_weight_norm(dim: int | None, lengths: tuple[int, int], dtype: torch.dtype, device: str):
    """The outputs stay where it is put on and where it is taken off."""
    layer = nn.Linear(4, 5, dtype=dtype, device=device)
    batch = torch.randn(3, 4, dtype=dtype, device=device)
    expected = layer(batch)
    surgery.constrain(layer, weight=f"weight_norm(dim={dim})")
    assert {role: tuple(raw.shape) for role, raw in layer.weight.raws.items()} == {"v": (5, 4), "g": lengths}
    assert layer.weight.device.type == device
    torch.testing.assert_close(layer(batch), expected)
    surgery.bake(layer)
    assert not surgery.computed_parameters(layer)
    torch.testing.assert_close(layer(batch), expected)
