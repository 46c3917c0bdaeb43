"""State dicts of torch's own norms load with ``strict=True``: part by part where they mean the same, else by value."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm

import surgery
from tests.quiet import quiet

HOSTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "square linear": (lambda: nn.Linear(4, 4), (2, 4)),
    "conv": (lambda: nn.Conv2d(2, 3, 3), (1, 2, 5, 5)),
    "transposed, in == out": (lambda: nn.ConvTranspose1d(3, 3, 2), (1, 3, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(4, 3, 2), (1, 4, 5)),
}


def pruned(module: nn.Module) -> nn.Module:
    return prune.l1_unstructured(module, "weight", amount=0.5)


NORMS: dict[str, tuple[Callable[[nn.Module], nn.Module], str | None]] = {
    "hooked weight norm": (quiet(hooked_weight_norm), "weight_norm"),
    "hooked spectral norm": (quiet(hooked_spectral_norm), "spectral"),
    "weight norm": (parametrizations.weight_norm, "weight_norm"),
    "spectral norm": (parametrizations.spectral_norm, "spectral"),
    "mask": (pruned, None),
}
OTHERS = ("interval(-9, 9)", "spectral(bound=9.0)", "lora(2)", "weight_norm", "skew")


def trained(host: nn.Module, inputs: tuple[int, ...]) -> nn.Module:
    """Some steps on, so that stored vectors and raws are no longer what they began with; in eval."""
    optimizer = torch.optim.SGD(host.parameters(), 0.05)
    for _ in range(20):
        optimizer.zero_grad()
        host(torch.randn(inputs)).square().mean().backward()
        optimizer.step()
    for _ in range(30):
        host(torch.randn(inputs))  # power iterations catch up
    return host.eval()


def wrapped(host: nn.Module) -> nn.Module:
    """Below other modules."""
    return nn.ModuleDict({"first": nn.Identity(), "inner": nn.Sequential(nn.Identity(), host)})


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("nested", [False, True], ids=["root", "nested"])
def test_the_same_constraint_takes_the_very_parts(host: str, norm: str, nested: bool) -> None:
    """Raws and state bit for bit; outputs to rounding."""
    make, inputs = HOSTS[host]
    apply, spec = NORMS[norm]
    theirs = trained(apply(make()), inputs)
    ours = surgery.constrain(make(), weight=spec or "interval(-9, 9)").eval()
    saved = (wrapped(theirs) if nested else theirs).state_dict()
    before = copy.deepcopy(saved)
    (wrapped(ours) if nested else ours).load_state_dict(saved, strict=True)
    assert list(saved) == list(before)
    x = torch.randn(inputs)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    if spec is not None:
        parts = {key.rsplit(".", 1)[-1]: value for key, value in theirs.state_dict().items() if "bias" not in key}
        own = {key: value for key, value in ours.state_dict().items() if "bias" not in key}
        assert len(parts) == len(own)
        for value in own.values():
            assert any(
                part.numel() == value.numel() and torch.equal(part.flatten(), value.flatten())
                for part in parts.values()
            )


@pytest.mark.parametrize("host", ["square linear"])
@pytest.mark.parametrize("spec", OTHERS)
@pytest.mark.parametrize("norm", NORMS)
def test_another_constraint_takes_the_value(host: str, norm: str, spec: str) -> None:
    """The value that torch's norm has in eval, or the nearest admissible one."""
    make, inputs = HOSTS[host]
    theirs = trained(NORMS[norm][0](make()), inputs)
    ours = surgery.constrain(make(), weight=spec).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    value: Tensor = theirs.weight
    expected = (value - value.T) / 2 if spec == "skew" else value
    torch.testing.assert_close(ours.weight.detach(), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_torchs_orthogonal_is_read_by_its_default_map(shape: tuple[int, int]) -> None:
    """With a warning: the map is not in the file."""
    theirs = trained(parametrizations.orthogonal(nn.Linear(*shape)), (2, shape[0]))
    ours = surgery.constrain(nn.Linear(*shape), weight="orthogonal").eval()
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="does not say with which orthogonal_map"):
        ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(ours.weight.detach(), theirs.weight.detach(), rtol=1e-4, atol=1e-5)


def test_a_wrong_shape_is_told_in_torchs_words_and_unknown_keys_stay_unexpected() -> None:
    ours = surgery.constrain(nn.Linear(4, 3), weight="weight_norm")
    with pytest.raises(
        RuntimeError, match=r"size mismatch for weight: copying a param with shape torch\.Size\(\[5, 4\]\)"
    ):
        ours.load_state_dict(parametrizations.weight_norm(nn.Linear(4, 5)).state_dict())
    unknown = {"bias": torch.zeros(3), "parametrizations.weight.original": torch.zeros(3, 4)}
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*parametrizations\.weight\.original"):
        ours.load_state_dict(unknown)


def test_a_hosts_own_parameters_of_such_names_are_its_own() -> None:
    """Nobody else's ``weight_g`` is taken for a part of ``weight``."""
    host = nn.Linear(4, 3)
    host.weight_g, host.weight_v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    saved = copy.deepcopy(host.state_dict())
    surgery.constrain(host, weight="interval(-9, 9)")
    host.load_state_dict(saved)
    assert torch.equal(host.weight_g, torch.ones(2))
    del saved["weight"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*weight\.raw"):
        host.load_state_dict(saved)


def test_a_load_wins_over_a_pending_write() -> None:
    theirs = parametrizations.weight_norm(nn.Linear(4, 3))
    ours = surgery.constrain(nn.Linear(4, 3), weight="weight_norm")
    with torch.no_grad():
        ours.weight.fill_(1.0)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.weight.detach(), theirs.weight.detach())
