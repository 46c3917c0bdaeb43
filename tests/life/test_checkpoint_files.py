"""Checkpoint files beside safetensors' own functions: what is in them, what is left out, and what damage does.

Truth is the model that was saved, and what safetensors reads from the file.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint
from tests.surgery.models import MODELS, SPECS, SQUARE_SPECS, TiedLM
from tests.surgery.picture import differences, picture


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def trained(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Two steps of training, so that nothing is what a projection would make of it."""
    optimizer = torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return model


def assert_same_bits(found: nn.Module, expected: nn.Module) -> None:
    one, other = found.state_dict(), expected.state_dict()
    assert list(one) == list(other)
    assert [key for key, tensor in other.items() if not torch.equal(one[key], tensor)] == []


@pytest.mark.parametrize("name", MODELS)
def test_safetensors_own_functions_write_and_read_a_constrained_model(name: str, tmp_path: Path):
    """`save_model` and `load_model`, which take care of shared memory; of a tie under both names."""
    build, draw, rules = MODELS[name]
    model, other = (surgery.apply_constraints(build(), rules) for _ in range(2))
    trained(model, draw())
    save_model(model, str(tmp_path / "file"))
    missing, unexpected = load_model(other, str(tmp_path / "file"), strict=True)
    assert (list(missing), list(unexpected)) == ([], [])
    assert_same_bits(other, model)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("tied", "listed")])
def test_safetensors_own_functions_take_plain_files_both_ways(name: str, tmp_path: Path):
    """A plain file into a constrained model, and the plain state dict of one into a plain model.

    Not where memory is shared, see below, nor where a buffer is in no file.
    """
    build, draw, rules = MODELS[name]
    plain = build()
    save_model(plain, str(tmp_path / "plain"))
    model = surgery.apply_constraints(build(), rules)
    load_model(model, str(tmp_path / "plain"), strict=True)
    assert_same_bits(model, constrained_after_load(build, plain, rules))
    values = surgery.state_dict(trained(model, draw()), format="plain")
    save_file({key: value.contiguous() for key, value in values.items()}, tmp_path / "values")
    load_model(plain, str(tmp_path / "values"), strict=True)
    assert [key for key, value in plain.state_dict().items() if not torch.equal(value, values[key])] == []


def constrained_after_load(build: Callable[[], nn.Module], source: nn.Module, rules: dict[str, object]) -> nn.Module:
    twin = build()
    twin.load_state_dict(source.state_dict())
    return surgery.apply_constraints(twin, rules)


def test_a_tie_is_one_tensor_in_a_plain_file_of_safetensors(tmp_path: Path):
    """It refuses memory that is shared, as it does for plain models; without the second name both ways work."""
    plain, model = TiedLM(), surgery.apply_constraints(TiedLM(), {"head.weight": "orthogonal"})
    values = surgery.state_dict(model, format="plain")
    for state in (values, plain.state_dict()):
        with pytest.raises(RuntimeError, match="share memory"):
            save_file(dict(state), tmp_path / "file")
    del values["head.weight"]
    save_file(values, tmp_path / "file")
    load_model(plain, str(tmp_path / "file"), strict=True)
    assert torch.equal(plain.head.weight, model.head.weight)
    save_model(plain, str(tmp_path / "plain"))
    found = load_file(tmp_path / "plain")
    assert len({"head.weight", "embedding.weight"} & set(found)) == 1
    again = surgery.apply_constraints(TiedLM(), {"head.weight": "orthogonal"})
    again.load_state_dict(found, strict=False)
    assert again.head.weight is again.embedding.weight
    torch.testing.assert_close(again.head.weight.detach(), plain.head.weight.detach())


@pytest.mark.parametrize("only", ["all", "trained"])
@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
def test_nothing_is_projected_while_a_file_is_loaded(
    spec: str, only: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = two_layers()
    model = trained(surgery.apply_constraints(copy.deepcopy(plain), {"0.weight": spec}), torch.ones(2, 4))
    surgery.save_checkpoint(model, tmp_path / "file", only=only)

    def projected(self: Constraint, value: Tensor) -> None:
        raise AssertionError(f"{type(self).__name__} projects")

    for kind in {type(one) for one in model[0].weight.constraints}:
        monkeypatch.setattr(kind, "right_inverse", projected)
    loaded = surgery.load_checkpoint(plain, tmp_path / "file")
    assert_same_bits(loaded, model)
    loaded(torch.ones(2, 4)).sum().backward()


def test_rules_and_fingerprints_are_in_the_metadata(tmp_path: Path):
    """Whoever reads the file by safetensors alone sees what it is made for and what it was made upon."""
    base, rules = two_layers(), {"*": "frozen", "0.weight": "lora(2)", "1.bias": "positive"}
    model = surgery.apply_constraints(copy.deepcopy(base), rules)
    surgery.save_checkpoint(model, tmp_path / "file", only="trained")
    with safe_open(tmp_path / "file", "pt") as file:
        told = json.loads(file.metadata()["computed_surgery"])
        kept = set(file.keys())
    assert told["rules"] == {"0.weight": "lora(rank=2)", "1.bias": "positive"}
    assert kept == {"0.weight.A", "0.weight.B", "1.bias.raw"}
    assert set(told["base"]) == {"0.weight", "0.bias", "1.weight"}
    twin = surgery.apply_constraints(two_layers(), rules)
    surgery.save_checkpoint(twin, tmp_path / "other", only="trained")
    with safe_open(tmp_path / "other", "pt") as file:
        other = json.loads(file.metadata()["computed_surgery"])
    assert all(other["base"][key] != print_ for key, print_ in told["base"].items())


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_first_tensor_that_differs_is_named(first: int, tmp_path: Path):
    """By one bit, in the order of the state dict; those behind it differ too."""
    base = two_layers()
    model = surgery.apply_constraints(copy.deepcopy(base), {"*": "frozen", "0.weight": "lora(2)", "1.bias": "positive"})
    surgery.save_checkpoint(model, tmp_path / "file", only="trained")
    keys = ["0.bias", "0.weight", "1.weight"]  # a computed parameter comes behind the plain ones of its host
    assert [key.removesuffix(".base") for key in model.state_dict() if not key.endswith((".A", ".B", "raw"))] == keys
    with torch.no_grad():
        for key in keys[first:]:
            entries = base.get_parameter(key).view(-1)
            entries[0] = torch.nextafter(entries[0], torch.tensor(torch.inf))
    before = picture(base)
    with pytest.raises(surgery.SurgeryError, match=rf"made on another base: {re.escape(keys[first])} differs"):
        surgery.load_checkpoint(base, tmp_path / "file")
    assert differences(before, picture(base)) == []


def rewritten(file: Path) -> Iterator[tuple[str, Path]]:
    """A file with each of its tensors left out, and with each in another shape."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    whole, damaged = load_file(file), file.with_name("damaged")
    for key, tensor in whole.items():
        for kind, rest in (("missing", {}), ("shape", {key: torch.zeros(*tensor.shape, 2)})):
            save_file({name: one for name, one in whole.items() if name != key} | rest, damaged, metadata)
            yield f"{kind} {key}", damaged


FILES: dict[str, tuple[Callable[[], nn.Module], dict[str, object], str]] = {
    "all": (two_layers, {"0.weight": "spectral", "1.weight": "orthogonal", "1.bias": "positive"}, "all"),
    "trained, projected": (two_layers, {"*": "frozen", "0.weight": "spectral", "1.weight": "weight_norm"}, "trained"),
    "trained, chain": (two_layers, {"*": "frozen", "0.weight": "weight_norm | lora(2)"}, "trained"),
    "trained, adapter": (two_layers, {"*": "frozen", "0.weight": "lora(2)"}, "trained"),
    "tied": (TiedLM, {"head.weight": "orthogonal"}, "all"),
}


@pytest.mark.parametrize("constrained", [False, True], ids=["into a plain model", "into a constrained one"])
@pytest.mark.parametrize("name", FILES)
def test_whichever_tensor_is_missing_or_misshapen_is_named_and_nothing_changes(
    name: str, constrained: bool, tmp_path: Path
):
    build, rules, only = FILES[name]
    plain = build()
    surgery.save_checkpoint(surgery.apply_constraints(copy.deepcopy(plain), rules), tmp_path / "file", only=only)
    target = surgery.apply_constraints(plain, rules) if constrained else plain
    before = picture(target)
    for damage, file in rewritten(tmp_path / "file"):
        with pytest.raises(surgery.SurgeryError, match=r"the model is as it was") as caught:
            surgery.load_checkpoint(target, file)
        assert damage.split()[1] in str(caught.value), damage
        assert differences(before, picture(target)) == [], damage


def test_a_file_that_ends_anywhere_is_told_and_nothing_changes(tmp_path: Path):
    plain = two_layers()
    surgery.save_checkpoint(
        surgery.apply_constraints(copy.deepcopy(plain), {"*.weight": "spectral"}), tmp_path / "file"
    )
    whole, before = (tmp_path / "file").read_bytes(), picture(plain)
    for end in range(0, len(whole), 29):
        (tmp_path / "part").write_bytes(whole[:end])
        with pytest.raises(surgery.SurgeryError, match=r"cannot be read .*the model is as it was"):
            surgery.load_checkpoint(plain, tmp_path / "part")
    assert differences(before, picture(plain)) == []


def test_torchs_own_load_is_not_all_or_nothing():
    """Why there is `load_checkpoint`: what fits is loaded though the rest is not."""
    model, other = (surgery.apply_constraints(two_layers(), {"*.weight": "symmetric"}) for _ in range(2))
    state = other.state_dict()
    state["1.weight.raw"] = torch.zeros(3, 3)
    before = model[0].weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"size mismatch for 1\.weight\.raw"):
        model.load_state_dict(state)
    assert not torch.equal(model[0].weight.detach(), before)
