"""State dicts of torch's own norms: on nested keys, into DistributedDataParallel, written for who asks for a version.

Truth is torch's own norms: what they compute in eval, and which keys and versions they have.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm

import surgery
from tests.life.distributed import Ranks
from tests.quiet import quiet

Norm = Callable[[nn.Module], nn.Module]


def orthogonal(module: nn.Module) -> nn.Module:
    """Of matrices: torch takes a convolution for a stack of them, and ours is orthogonal as one flat matrix."""
    return parametrizations.orthogonal(module) if isinstance(module, nn.Linear) else module


# how torch writes it, and the constraint that takes it
FORMATS: dict[str, tuple[Norm, str]] = {
    "plain": (lambda module: module, "interval(-9, 9)"),
    "weight_g, weight_v": (quiet(hooked_weight_norm), "weight_norm"),
    "weight_orig, weight_u, weight_v": (quiet(hooked_spectral_norm), "spectral"),
    "parametrizations, weight norm": (parametrizations.weight_norm, "weight_norm"),
    "parametrizations, spectral": (parametrizations.spectral_norm, "spectral"),
    "parametrizations, orthogonal": (orthogonal, "orthogonal"),
}
WRITTEN = {
    "plain": "plain",
    "weight_g, weight_v": "weight_norm",
    "weight_orig, weight_u, weight_v": "spectral_norm",
    "parametrizations, weight norm": "parametrizations",
    "parametrizations, spectral": "parametrizations",
}


class Inner(nn.Module):
    """A convolution, a transposed one with as many channels in as out, and a linear layer, all of them below others."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv": norm(nn.Conv1d(4, 4, 1))})
        self.up = nn.Sequential(nn.Identity(), norm(nn.ConvTranspose1d(4, 4, 2)))
        self.head = norm(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.up(torch.tanh(self.stem["conv"](x)))).mean(2))


class Versioned(nn.Module):
    """As torchvision's MNASNet: refuses a state dict that does not say of which version it is."""

    _version = 2

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.net = Inner(norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Mapping[str, Any], *args: Any
    ) -> None:
        if local_metadata.get("version") not in (1, 2):
            raise ValueError(f"version should be set to 1 or 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


LINEAR = "*@Linear.weight"
PATTERN = "*@{Conv1d,ConvTranspose1d,Linear}.weight"
INPUTS = torch.linspace(-2, 2, 24).reshape(2, 4, 3)


def theirs(name: str, seed: int) -> Versioned:
    """Trained by torch alone, so that vectors and raws are no longer what they began with; in eval."""
    torch.manual_seed(seed)
    model = Versioned(FORMATS[name][0])
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(20):
        optimizer.zero_grad()
        (model(INPUTS) - 1).square().sum().backward()
        optimizer.step()
    for _ in range(50):
        model(INPUTS)  # power iterations catch up
    return model.eval()


def ours(name: str, seed: int) -> Versioned:
    torch.manual_seed(seed)
    pattern = LINEAR if "orthogonal" in name else PATTERN
    return surgery.apply_constraints(Versioned(lambda module: module), {pattern: FORMATS[name][1]})


def load(model: nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Strictly; orthogonal comes with a warning: the file does not say which map torch had."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.load_state_dict(state, strict=True)
    expected = ["does not say with which orthogonal_map"] if "orthogonal" in name else []
    assert [text for text in expected if not any(text in str(each.message) for each in told)] == []
    assert len(told) == len(expected)


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(INPUTS)


@pytest.mark.parametrize("name", FORMATS)
def test_nested_keys_are_taken_strictly(name: str):
    source, model = theirs(name, 1), ours(name, 2)
    before = outputs(model)
    load(model, source.state_dict(), name)
    torch.testing.assert_close(outputs(model), outputs(source), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, outputs(source), atol=1e-2)
    assert surgery.check(model).ok


def into_wrapped(rank: int, name: str, trained: bool) -> tuple[Tensor, Tensor, list[str]]:
    """torch's wrapped model is saved; ours is wrapped, trained or not, and takes the same keys."""
    source = theirs(name, 1)
    state = copy.deepcopy(DistributedDataParallel(source).state_dict())
    model = ours(name, 2)
    wrapped = DistributedDataParallel(model)
    if trained:
        optimizer = torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], 0.1)
        wrapped(INPUTS[rank::2]).square().sum().backward()
        optimizer.step()
    load(wrapped, state, name)
    return outputs(wrapped), outputs(source), list(state)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_keys_of_a_wrapped_model_are_taken_by_a_wrapped_model(ranks: Ranks, name: str, trained: bool):
    for found, expected, keys in ranks(into_wrapped, name, trained):
        assert all(key.startswith("module.net.") for key in keys)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_has_the_versions_that_a_model_asks_for(name: str, tmp_path: Path):
    """Through a file, which is read without any code; without its metadata the model refuses it."""
    model, plain = ours(name, 2), theirs(name, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    (model(INPUTS) - 1).square().sum().backward()
    optimizer.step()
    written = surgery.state_dict(model, format=WRITTEN[name])
    torch.save(written, tmp_path / "file.pt")
    state = torch.load(tmp_path / "file.pt", weights_only=True)
    assert list(state) == list(plain.state_dict())
    assert state._metadata == plain.state_dict()._metadata
    plain.load_state_dict(state, strict=True)
    torch.testing.assert_close(outputs(plain), outputs(model), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="version should be set to 1 or 2 instead of None"):
        plain.load_state_dict(dict(state), strict=True)


@pytest.mark.parametrize("kind", ["weight_g, weight_v", "weight_orig, weight_u, weight_v"])
def test_a_wrong_dimension_would_load_and_be_seen(kind: str):
    """With as many channels in as out shapes fit, and only outputs tell: the comparisons of this file have teeth."""
    model = ours(kind, 2)
    written = surgery.state_dict(model, format=WRITTEN[kind])
    wrong, plain = copy.deepcopy(written), theirs(kind, 1)
    key = "net.up.1.weight"
    if kind.startswith("weight_g"):
        lengths = wrong[f"{key}_v"].norm(dim=(0, 2))
        wrong[f"{key}_g"] = lengths.reshape(wrong[f"{key}_g"].shape)
    else:
        left, _, right = torch.linalg.svd(wrong[f"{key}_orig"].flatten(1), full_matrices=False)
        wrong[f"{key}_u"], wrong[f"{key}_v"] = left[:, 0], right[0]
    plain.load_state_dict(wrong, strict=True)
    assert not torch.allclose(outputs(plain), outputs(model), rtol=1e-4, atol=1e-5)
    plain.load_state_dict(written, strict=True)
    torch.testing.assert_close(outputs(plain), outputs(model), rtol=1e-4, atol=1e-5)
