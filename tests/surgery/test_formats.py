"""State dicts in the formats of torch's own norms load ``strict=True`` into models that know nothing of ours."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm

import surgery
from tests.quiet import quiet


class Vocoder(nn.Module):
    """HiFi-GAN in small: a convolution, transposed ones that widen the time (once with in == out), residual blocks."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv_pre = norm(nn.Conv1d(5, 8, 7, padding=3))
        self.ups = nn.ModuleList([norm(nn.ConvTranspose1d(8, 8, 4, 2, 1)), norm(nn.ConvTranspose1d(8, 4, 4, 2, 1))])
        self.resblocks = nn.ModuleList([Residual(8, norm), Residual(4, norm)])
        self.conv_post = norm(nn.Conv1d(4, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for up, block in zip(self.ups, self.resblocks, strict=True):
            x = block(up(nn.functional.leaky_relu(x, 0.1)))
        return torch.tanh(self.conv_post(x))


class Residual(nn.Module):
    """Dilated convolutions around a normalisation with buffers, a scale of its own, and a child after them."""

    def __init__(self, channels: int, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.convs1 = nn.ModuleList([norm(nn.Conv1d(channels, channels, 3, padding=d, dilation=d)) for d in (1, 3)])
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs1:
            x = x + self.scale * conv(self.norm(x))
        return x


FORMATS: dict[str, tuple[str, str, Callable[[nn.Module], nn.Module]]] = {
    "hooked weight norm": ("weight_norm", "weight_norm", quiet(hooked_weight_norm)),
    "hooked spectral norm": ("spectral_norm", "spectral", quiet(hooked_spectral_norm)),
    "weight norm": ("parametrizations", "weight_norm", parametrizations.weight_norm),
    "spectral norm": ("parametrizations", "spectral", parametrizations.spectral_norm),
}
CONVOLUTIONS = {"*@{Conv1d,ConvTranspose1d}.weight": ""}
INPUTS = (2, 5, 6)


def constrained(spec: str) -> nn.Module:
    """A vocoder of ours, trained a little."""
    torch.manual_seed(0)
    model = surgery.apply_constraints(Vocoder(lambda module: module), dict.fromkeys(CONVOLUTIONS, spec))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(INPUTS)).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_loads_into_an_unchanged_model(name: str, training: bool) -> None:
    """Keys, order and metadata are its own; so are, in eval, the outputs."""
    format, spec, norm = FORMATS[name]
    ours = constrained(spec).train(training)
    before = copy.deepcopy(ours.state_dict())
    written = surgery.state_dict(ours, format)
    theirs = Vocoder(norm)
    expected = theirs.state_dict()
    assert list(written) == list(expected)
    assert {key: tensor.shape for key, tensor in written.items()} == {k: tensor.shape for k, tensor in expected.items()}
    assert dict(written._metadata) == dict(expected._metadata)
    assert list(written._metadata) == list(expected._metadata)
    theirs.load_state_dict(written, strict=True)
    x = torch.randn(INPUTS)
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(now, before[key]) for key, now in ours.state_dict().items())


@pytest.mark.parametrize("name", FORMATS)
def test_there_and_back_keeps_every_bit_of_the_raws(name: str) -> None:
    """Written here, loaded there, trained there or not, and loaded here again."""
    format, spec, norm = FORMATS[name]
    ours, theirs = constrained(spec), Vocoder(norm)
    theirs.load_state_dict(surgery.state_dict(ours, format))
    again = constrained(spec)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1.0)
    again.load_state_dict(theirs.state_dict(), strict=True)
    for (key, one), other in zip(again.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other), key


def test_what_a_format_cannot_say_is_refused_by_name_all_at_once() -> None:
    """Nothing is written as something that it is not."""
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("one", "two", "three", "zero")})
    rules = {
        "one.weight": "spectral(norm=2.0)",
        "two.weight": "symmetric | weight_norm",
        "three.weight": "orthogonal",
        "zero.weight": "weight_norm",
    }
    surgery.apply_constraints(model, rules)
    with torch.no_grad():
        model["zero"].weight.raws["v"][0] = 0.0
    with pytest.raises(
        surgery.SurgeryError, match=r"'spectral_norm' cannot[^$]*one\.weight: torch's[^$]*three\.weight: it"
    ):
        surgery.state_dict(model, "spectral_norm")
    with pytest.raises(surgery.SurgeryError, match=r"two\.weight: it is no[^$]*zero\.weight: a slice of its v is zero"):
        surgery.state_dict(model, "weight_norm")
    with pytest.raises(surgery.SurgeryError, match=r"one\.weight: it is neither[^$]*three\.weight"):
        surgery.state_dict(model, "parametrizations")


@pytest.mark.parametrize("dim", [0, 1, None])
def test_other_dimensions_are_written_as_torch_writes_them(dim: int | None) -> None:
    ours = surgery.constrain(nn.Linear(4, 4), weight=f"weight_norm(dim={dim})")
    theirs = quiet(lambda module: hooked_weight_norm(module, dim=dim))(nn.Linear(4, 4))
    theirs.load_state_dict(surgery.state_dict(ours, "weight_norm"), strict=True)
    x = torch.randn(2, 4)
    torch.testing.assert_close(theirs(x), ours(x))


def test_several_parameters_of_one_host_stand_in_order() -> None:
    """A recurrent layer has four, and biases between them."""
    ours, theirs = nn.LSTM(3, 4, bidirectional=True), nn.LSTM(3, 4, bidirectional=True)
    surgery.apply_constraints(ours, {"weight_*": "weight_norm"})
    for name in surgery.computed_parameters(ours):
        parametrizations.weight_norm(theirs, name)
    written = surgery.state_dict(ours, "parametrizations")
    assert list(written) == list(theirs.state_dict())
    theirs.load_state_dict(written, strict=True)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(theirs(x)[0], ours(x)[0])


def test_a_written_file_needs_no_code_to_load(tmp_path) -> None:
    """``weights_only=True`` is enough for every format."""
    for format, spec, _ in FORMATS.values():
        torch.save(surgery.state_dict(constrained(spec), format), tmp_path / "file.pt")
        assert torch.load(tmp_path / "file.pt", weights_only=True)
