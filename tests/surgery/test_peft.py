"""Adapters both ways between PEFT itself and computed parameters; `make peers` runs this."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import surgery
from tests.surgery.peft_networks import (
    CASES,
    EXPECTED,
    FILES,
    WRITTEN,
    Case,
    Images,
    Words,
    moved,
    network,
    outputs,
    wrapped,
    write,
)

peft = pytest.importorskip("peft", reason="peft is installed by `make peers` alone")
pytestmark = pytest.mark.filterwarnings("ignore")  # what PEFT, transformers and torchao warn of themselves

EVERY_CASE = [pytest.param(case, id=name) for name, case in CASES.items()]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal to a millionth of the largest number."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 * max(1.0, float(wanted.detach().abs().max())))


def trained(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def steps(model: nn.Module, name: str) -> None:
    """Three steps of AdamW, with what trains."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.02)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        outputs(model, name).square().mean().backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("name", WRITTEN)
def test_the_files_of_the_other_tests_are_what_peft_writes(name, tmp_path):
    write(name, tmp_path)
    for file in ("adapter_model.safetensors", EXPECTED):
        kept, made = load_file(FILES / name / file), load_file(tmp_path / file)
        assert kept.keys() == made.keys()
        for key, tensor in kept.items():
            torch.testing.assert_close(made[key], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", EVERY_CASE)
def test_what_peft_saves_is_loaded_and_saved_for_peft(case: Case, tmp_path: Path):
    model = wrapped(case)
    want = outputs(model, case.network)
    model.save_pretrained(tmp_path / "theirs")
    ours = surgery.load_peft(network(case.network), tmp_path / "theirs")
    close(outputs(ours, case.network), want)
    assert trained(ours) == trained(model)
    surgery.save_peft(ours, tmp_path / "ours")
    back = peft.PeftModel.from_pretrained(network(case.network), tmp_path / "ours", is_trainable=True).eval()
    close(outputs(back, case.network), want)
    assert trained(back) == trained(model)
    theirs, written = (load_file(tmp_path / each / "adapter_model.safetensors") for each in ("theirs", "ours"))
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in written.items())
    assert written.keys() == theirs.keys() or not case.exact


WITHOUT_DROPOUT = [pytest.param(case, id=name) for name, case in CASES.items() if "lora_dropout" not in case.settings]


@pytest.mark.parametrize("case", WITHOUT_DROPOUT)
def test_both_train_to_the_same_result(case: Case, tmp_path: Path):
    model = wrapped(case)
    model.save_pretrained(tmp_path / "theirs")
    ours = surgery.load_peft(network(case.network), tmp_path / "theirs")
    before = outputs(ours, case.network)
    for each in (model, ours):
        steps(each, case.network)
    found, want = outputs(ours, case.network), outputs(model, case.network)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert (found - before).abs().max() > 0.01
    surgery.save_peft(ours, tmp_path / "ours")
    back = peft.PeftModel.from_pretrained(network(case.network), tmp_path / "ours").eval()
    close(outputs(back, case.network), found)


@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize("case", EVERY_CASE)
def test_a_model_of_peft_is_adopted_and_given_back(case: Case, injected: bool):
    model = wrapped(case)
    if injected:
        kind = peft.IA3Config if case.ia3 else peft.LoraConfig
        model = peft.inject_adapter_in_model(kind(**copy.deepcopy(case.settings)), network(case.network)).eval()
        moved(model)
    want, keys, count = outputs(model, case.network), list(model.state_dict()), trained(model)
    flags = [one.requires_grad for one in model.parameters()]
    types = [type(module) for module in model.modules()]
    base = surgery.adopt(model)
    assert not any(type(module).__module__.startswith("peft.") for module in base.modules())
    assert "peft_config" not in vars(base)
    close(outputs(base, case.network), want)
    assert trained(base) == count
    close(outputs(pickle.loads(pickle.dumps(base)), case.network), want)
    close(outputs(surgery.bake(copy.deepcopy(base)), case.network), want)
    outputs(base, case.network).sum().backward()
    surgery.undo(base)
    assert torch.equal(outputs(model, case.network), want)
    assert list(model.state_dict()) == keys
    assert [one.requires_grad for one in model.parameters()] == flags
    assert [type(module) for module in model.modules()] == types


def test_an_optimizer_goes_on_with_factors_of_linear_layers():
    model = wrapped(CASES["bert_lora"])
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.Adam([one for one in each.parameters() if one.requires_grad]) for each in (model, twin)]
    outputs(model, "bert").square().sum().backward()
    optimizers[0].step()
    outputs(twin, "bert").square().sum().backward()
    optimizers[1].step()
    base = surgery.adopt(model)
    for each, optimizer in zip((base, twin), optimizers, strict=True):
        optimizer.zero_grad()
        outputs(each, "bert").square().sum().backward()
        optimizer.step()
    close(outputs(base, "bert"), outputs(twin, "bert"))


def test_padding_does_not_train_the_lengths_of_dora():
    padded = nn.Sequential(nn.Embedding(5, 4, padding_idx=0))
    nn.init.ones_(padded[0].weight)  # its padding too
    theirs = peft.get_peft_model(padded, peft.LoraConfig(r=2, target_modules=["0"], use_dora=True))
    theirs(torch.tensor([0, 0])).sum().backward()
    lengths = theirs.base_model.model[0].lora_magnitude_vector["default"].weight
    assert lengths.grad.abs().sum() > 0
    base = surgery.adopt(theirs)
    base(torch.tensor([0, 0])).sum().backward()
    assert base[0].weight.raws["m"].grad.abs().sum() == 0


def test_a_scale_that_was_set_is_taken_over():
    model = wrapped(CASES["bert_lora"])
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.set_scale("default", 3)
    want = outputs(model, "bert")
    close(outputs(surgery.adopt(model), "bert"), want)


def refusal(model: nn.Module, **arguments: Any) -> str:
    keys, want = list(model.state_dict()), [id(module) for module in model.modules()]
    with pytest.raises(surgery.SurgeryError, match="nothing was changed") as error:
        surgery.adopt(model, **arguments)
    assert list(model.state_dict()) == keys
    assert [id(module) for module in model.modules()] == want
    return str(error.value)


def test_what_cannot_be_adopted_is_refused_by_name():
    merged = wrapped(CASES["bert_lora"])
    merged.merge_adapter()
    assert "query: has 'default' merged into it; call model.unmerge_adapter() first" in refusal(merged)
    several = wrapped(CASES["bert_lora"])
    several.add_adapter("other", peft.LoraConfig(r=2, target_modules=["query", "value"]))
    several.base_model.set_adapter(["default", "other"])
    assert "active adapters: 'default', 'other'; make one active" in refusal(several)
    biased = peft.get_peft_model(Words(), peft.LoraConfig(target_modules=["fc"], lora_bias=True))
    assert "fc: has lora_bias=True" in refusal(biased)
    tokens = peft.get_peft_model(
        Words(), peft.LoraConfig(target_modules=["fc"], trainable_token_indices={"embed": [1]})
    )
    assert "embed: is a TrainableTokensWrapper of PEFT" in refusal(tokens)
    other = peft.get_peft_model(Words(), peft.LoHaConfig(target_modules=["fc"]))
    assert "fc: is a peft.tuners.loha.layer.Linear; taken over are" in refusal(other)
    assert "is taken over as a whole; give no patterns" in refusal(wrapped(CASES["words_lora"]), patterns="fc.weight")
    dora = peft.LoraConfig(target_modules=["fc"], use_dora=True, lora_dropout=0.5)
    assert "torch.nn.Identity()" in refusal(peft.get_peft_model(Words(), dora))
    off = wrapped(CASES["words_lora"])
    with off.disable_adapter():
        assert "has its adapters disabled" in refusal(off)


def test_the_active_one_of_two_is_adopted():
    model = wrapped(CASES["bert_lora"])
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["query"]))
    model.set_adapter("other")
    moved(model)
    want = outputs(model, "bert")
    found = outputs(surgery.adopt(model), "bert")
    close(found, want)


def test_grouped_and_padded_convolutions_are_refused_since_peft_computes_no_weight():
    for settings in ({"groups": 2}, {"padding_mode": "circular", "padding": 1}):
        model = nn.Sequential(nn.Conv2d(4, 4, 3, **settings), nn.Flatten())
        with warnings.catch_warnings(action="ignore"):
            adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"]))
        assert "where PEFT's layer leaves that out of its first factor" in refusal(adapted)


def test_a_base_that_is_tied_is_adopted_at_the_name_that_peft_adapts():
    tied = network("words")
    tied.head = nn.Linear(8, 50, bias=False)
    tied.head.weight = tied.embed.weight
    model = peft.get_peft_model(tied, peft.LoraConfig(r=2, target_modules=["embed"]))
    moved(model)
    want, head = outputs(model, "words"), tied.head.weight.detach().clone()
    base = surgery.adopt(model)
    close(outputs(base, "words"), want)
    assert torch.equal(base.head.weight, head)
    surgery.undo(base)
    assert tied.embed.base_layer.weight is tied.head.weight


DROPPED = {
    "linear": ("words", {"r": 2, "target_modules": ["fc", "sub.fc", "sub.time"], "lora_dropout": 0.4}),
    "convolution": ("images", {"r": 2, "target_modules": ["first", "second", "head"], "lora_dropout": 0.4}),
}


@pytest.mark.parametrize("case", DROPPED)
def test_dropout_drops_what_peft_drops(case):
    name, settings = DROPPED[case]
    model = wrapped(Case(name, settings))
    twin = copy.deepcopy(model)
    ours = surgery.adopt(twin)
    for mode in (True, False):
        found = []
        for each in (model, ours):
            torch.manual_seed(3)
            each.train(mode)
            found.append(outputs(each, name))
        close(found[1], found[0])


def test_peft_is_not_imported_for_an_adoption():
    assert "peft" in sys.modules
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    assert type(surgery.adopt(layer)) is nn.Linear
    assert surgery.adopt(Images()) is not None


RULES = {"*": "frozen", "*.{q,v}_proj.weight": "lora(rank=8, alpha=16)"}


def test_two_rules_are_what_get_peft_model_does():
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    theirs = peft.get_peft_model(network("llama"), config)
    ours = surgery.apply_constraints(network("llama"), RULES)
    names = {"lora_A.default.weight": "A", "lora_B.default.weight": "B"}
    factors = {
        key.removeprefix("base_model.model."): one for key, one in theirs.named_parameters() if one.requires_grad
    }
    mapped = {}
    for key, one in factors.items():
        owner, _, rest = key.partition(".lora_")
        mapped[f"{owner}.weight.{names[f'lora_{rest}']}"] = one
    mine = {name: one for name, one in ours.named_parameters() if one.requires_grad}
    assert mine.keys() == mapped.keys()
    assert {name: one.shape for name, one in mine.items()} == {name: one.shape for name, one in mapped.items()}
    assert theirs.get_nb_trainable_parameters() == (trained(ours), sum(one.numel() for one in ours.parameters()))
    with torch.no_grad():
        for name, one in mapped.items():
            mine[name].copy_(one)
    close(outputs(ours.eval(), "llama"), outputs(theirs.eval(), "llama"))
    for each in (theirs, ours):
        outputs(each.train(), "llama").square().sum().backward()
    for name, one in mapped.items():
        torch.testing.assert_close(mine[name].grad, one.grad, rtol=1e-4, atol=1e-6)
        mine[name].grad = one.grad = None
    for each in (theirs, ours):
        steps(each, "llama")
    for name, one in mapped.items():
        torch.testing.assert_close(mine[name], one, rtol=1e-3, atol=1e-5)
    close(outputs(ours, "llama"), outputs(theirs, "llama"))
