"""Checkpoint files: what is written comes back bit for bit, into a plain model or not at all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import computed
import surgery
from tests.surgery.models import MODELS, TiedLM
from tests.surgery.picture import differences, picture


def net() -> nn.Module:
    """Two layers, a normalisation with buffers."""
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))


def stepped(model: nn.Module, inputs: Tensor) -> nn.Module:
    """After three steps of training."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(inputs).float().square().mean().backward()
        optimizer.step()
    return model


def same(one: nn.Module, other: nn.Module) -> None:
    """Keys, order, bits and flags."""
    assert list(one.state_dict()) == list(other.state_dict())
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key
    flags = [{name: p.requires_grad for name, p in m.named_parameters(remove_duplicate=False)} for m in (one, other)]
    assert flags[0] == flags[1]
    specs = [{n: p.spec for n, p in surgery.computed_parameters(m).items()} for m in (one, other)]
    assert specs[0] == specs[1]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_comes_back_into_a_plain_model(name: str, tmp_path: Path) -> None:
    """Any kind of model, ties and buffers among them; saving changes nothing."""
    make, draw, rules = MODELS[name]
    plain = make()
    model = surgery.apply_constraints(copy.deepcopy(plain), rules)
    model(draw())
    before = picture(model)
    surgery.save_checkpoint(model, tmp_path / "model.safetensors")
    assert differences(before, picture(model)) == []
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = surgery.load_checkpoint(make(), tmp_path / "model.safetensors")
    same(loaded, model)
    batch = draw()
    with torch.no_grad():
        assert torch.equal(loaded.eval()(batch), model.eval()(batch))


RULES = {"*": "frozen", "0.weight": "lora(rank=2, alpha=4)", "2.weight": "symmetric | lora(1)", "*.bias": None}


def test_a_file_of_what_is_trained_is_small_and_needs_its_base(tmp_path: Path) -> None:
    """Adapters, biases and buffers; fingerprints tell the frozen weights, and the first that differs is named."""
    base = net()
    model = stepped(surgery.apply_constraints(copy.deepcopy(base), RULES), torch.randn(8, 4))
    file = tmp_path / "adapters.safetensors"
    surgery.save_checkpoint(model, file, only="trained")
    kept = load_file(file)
    assert sorted(key for key in kept if key.endswith((".A", ".B"))) == [
        "0.weight.A", "0.weight.B", "2.weight.constraints.1.A", "2.weight.constraints.1.B",
    ]  # fmt: skip
    assert {"0.bias", "1.bias", "1.running_mean"} <= set(kept)
    assert "2.weight.raw" in kept  # frozen, and made by a projection
    assert not {"0.weight.base", "1.weight"} & set(kept)
    loaded = surgery.load_checkpoint(copy.deepcopy(base), file)
    same(loaded, model)
    other = copy.deepcopy(base)
    with torch.no_grad():
        other[1].weight[0] += 1e-3
        other[2].weight[0] += 1e-3
    before = picture(other)
    with pytest.raises(surgery.SurgeryError, match=r"made on another base: 1\.weight differs"):
        surgery.load_checkpoint(other, file)
    assert differences(before, picture(other)) == []


@pytest.mark.parametrize("spec", ["orthogonal", "interval(-0.1, 0.1)", "spectral", "symmetric | weight_norm"])
def test_frozen_raws_are_in_the_file(spec: str, tmp_path: Path) -> None:
    """A plain model has not what a projection has made of its weight."""
    plain = net()
    model = surgery.apply_constraints(copy.deepcopy(plain), {"2.weight": spec})
    model.requires_grad_(False)
    model[0].requires_grad_(True)
    surgery.save_checkpoint(model, tmp_path / "file", only="trained")
    same(surgery.load_checkpoint(plain, tmp_path / "file"), model)


@pytest.mark.parametrize(
    "spec", ["spectral(bound=0.5)", "orthogonal", "weight_norm", "symmetric | spectral", "positive"]
)
@pytest.mark.parametrize("only", ["all", "trained"])
def test_nothing_is_projected(spec: str, only: str, tmp_path: Path) -> None:
    """Raws and state are those of the file; training goes on as it would have."""
    plain, inputs = nn.Sequential(nn.Linear(4, 4)), torch.randn(8, 4)
    model = stepped(surgery.apply_constraints(copy.deepcopy(plain), {"0.weight": spec}), inputs)
    surgery.save_checkpoint(model, tmp_path / "file", only=only)
    loaded = surgery.load_checkpoint(plain, tmp_path / "file")
    same(loaded, model)
    same(stepped(loaded, inputs), stepped(model, inputs))


def test_a_constrained_model_takes_a_file_of_its_own_rules(tmp_path: Path) -> None:
    """Another set of rules is refused."""
    one, two = (surgery.apply_constraints(net(), {"0.weight": "spectral"}) for _ in range(2))
    surgery.save_checkpoint(one, tmp_path / "file")
    same(surgery.load_checkpoint(two, tmp_path / "file"), one)
    other = surgery.apply_constraints(net(), {"0.weight": "orthogonal"})
    with pytest.raises(surgery.SurgeryError, match="constrained already, by other rules"):
        surgery.load_checkpoint(other, tmp_path / "file")


def damaged_file(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def no_file(file: Path) -> None:
    file.unlink()


def garbage(file: Path) -> None:
    file.write_bytes(b"\x80garbage")


def foreign(file: Path) -> None:
    save_file({"0.weight": torch.zeros(4, 4)}, file)


def edited(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata)

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (damaged_file, "cannot be read"),
    "absent": (no_file, "cannot be read"),
    "no safetensors": (garbage, "cannot be read"),
    "another's": (foreign, "not written by save_checkpoint"),
    "a raw is missing": (edited(lambda t: t.pop("0.weight.raw")), r"0\.weight\.raw: is missing in the file"),
    "wrong shape": (
        edited(lambda t: t.update({"2.bias": torch.zeros(5)})),
        r"2\.bias: shape \(5,\) in the file, \(4,\) in the model",
    ),
    "too much": (edited(lambda t: t.update(more=torch.zeros(1))), "more: is not in the model"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_does_not_fit_changes_nothing(damage: str, tmp_path: Path) -> None:
    """Not a bit of the model, its classes, its order or its flags."""
    file = tmp_path / "file"
    surgery.save_checkpoint(surgery.apply_constraints(net(), {"0.weight": "spectral"}), file)
    harm, message = DAMAGES[damage]
    harm(file)
    model = net()
    before = picture(model)
    with pytest.raises(surgery.SurgeryError, match=message):
        surgery.load_checkpoint(model, file)
    assert differences(before, picture(model)) == []


def test_rules_that_do_not_fit_the_model_are_a_plan_error(tmp_path: Path) -> None:
    surgery.save_checkpoint(surgery.apply_constraints(net(), {"0.weight": "spectral"}), tmp_path / "file")
    with pytest.raises(surgery.PlanError, match=r"rule '0\.weight'"):
        surgery.load_checkpoint(nn.ModuleDict({"first": nn.Linear(4, 4)}), tmp_path / "file")


def test_ties_are_written_once(tmp_path: Path) -> None:
    """And are ties again."""
    model = surgery.apply_constraints(TiedLM(), {"head.weight": "unit_norm"})
    surgery.save_checkpoint(model, tmp_path / "file")
    names = list(surgery.state_dict(model))
    assert len(load_file(tmp_path / "file")) < len(names)
    loaded = surgery.load_checkpoint(TiedLM(), tmp_path / "file")
    same(loaded, model)
    (only,) = surgery.computed_parameters(loaded).values()
    assert sum(module is only for module in loaded.modules()) == 1


def test_what_a_file_cannot_name_is_refused_all_at_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3, device="meta"))
    surgery.apply_constraints(model, {"0.weight": computed.function(torch.tanh), "1.weight": nn.Tanh()})
    with pytest.raises(surgery.SurgeryError, match=r"0\.weight: [^$]*1\.weight: 'Tanh'[^$]*2\.weight: is on meta"):
        surgery.save_checkpoint(model, tmp_path / "file")
    with pytest.raises(surgery.SurgeryError, match="only='some'; it is one of 'all', 'trained'"):
        surgery.save_checkpoint(model, tmp_path / "file", only="some")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one is put in its place when it is complete."""
    file = tmp_path / "file"
    surgery.save_checkpoint(net(), file)
    before = file.read_bytes()

    def failing(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("surgery.saving.save_file", failing)
    with pytest.raises(OSError, match="no space left"):
        surgery.save_checkpoint(net(), file)
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_names_that_are_no_words_are_names(tmp_path: Path) -> None:
    """A module may be called ``a*b``."""

    def make() -> nn.Module:
        return nn.ModuleDict({"a*b": nn.Linear(3, 3), "axb": nn.Linear(3, 3)})

    model = make()
    surgery.constrain(model["a*b"], weight="symmetric")
    surgery.save_checkpoint(model, tmp_path / "file")
    same(surgery.load_checkpoint(make(), tmp_path / "file"), model)


def test_a_model_on_meta_takes_its_tensors_from_the_file(tmp_path: Path) -> None:
    model = surgery.apply_constraints(net(), {"*.weight": "interval(-1, 1)"})
    surgery.save_checkpoint(model, tmp_path / "file")
    with torch.device("meta"):
        empty = net()
    same(surgery.load_checkpoint(empty, tmp_path / "file"), model)
    assert not any(tensor.is_meta for tensor in empty.state_dict().values())
