"""Adapters that the real PEFT has written: loaded without it, they answer what its models answered."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import surgery
from tests.surgery.peft_networks import CASES, EXPECTED, FILES, WRITTEN, Images, Words, moved, network, outputs
from tests.surgery.picture import differences, picture


def expected(name: str) -> Tensor:
    return load_file(FILES / name / EXPECTED)["outputs"]


def edited(tmp_path: Path, name: str, /, **fields: object) -> Path:
    """A copy of a written adapter, with other fields."""
    folder = tmp_path / "edited"
    shutil.copytree(FILES / name, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def with_tensors(folder: Path, **tensors: Tensor | None) -> Path:
    """Other tensors in the file; None takes one out. A key is written with _ for its dots, as far as that is unique."""
    path = folder / "adapter_model.safetensors"
    held = load_file(path)
    for key, tensor in tensors.items():
        if tensor is None:
            del held[key]
        else:
            held[key] = tensor
    save_file(held, path)
    return folder


def refused(model: nn.Module, folder: Path, **arguments: Any) -> str:
    """The message of a refusal, which changes nothing."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    objects = {name: id(one) for name, one in model.named_parameters()}
    flags = [one.requires_grad for one in model.parameters()]
    with pytest.raises(surgery.SurgeryError, match=r"the model is as it was|nothing was changed") as error:
        surgery.load_peft(model, folder, **arguments)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert {name: id(one) for name, one in model.named_parameters()} == objects
    assert [one.requires_grad for one in model.parameters()] == flags
    return str(error.value)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_written_adapter_answers_as_it_did(name):
    model = network(CASES[name].network)
    plain = outputs(model, CASES[name].network)
    assert surgery.load_peft(model, FILES / name) is model
    found = outputs(model, CASES[name].network)
    torch.testing.assert_close(found, expected(name), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, plain, atol=1e-4)
    surgery.undo(model)
    assert torch.equal(outputs(model, CASES[name].network), plain)
    assert all(one.requires_grad for one in model.parameters())


@pytest.mark.parametrize("name", WRITTEN)
def test_a_written_adapter_is_saved_again_tensor_by_tensor(name, tmp_path):
    model = surgery.load_peft(network(CASES[name].network), FILES / name)
    surgery.save_peft(model, tmp_path / "again")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (FILES / name, tmp_path / "again"))
    assert set(after) <= set(before)
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())
    assert set(after) == set(before) or not CASES[name].exact
    again = surgery.load_peft(network(CASES[name].network), tmp_path / "again")
    torch.testing.assert_close(outputs(again, CASES[name].network), expected(name), rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_what_trains_is_what_the_configuration_says():
    model = surgery.load_peft(network("bert"), FILES / "bert_everything")
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    adapters = {name for name in trained if name.endswith((".A", ".B"))}
    assert len(adapters) == 2 * 2 * 2
    rest = trained - adapters
    assert rest == {name for name, _ in network("bert").named_parameters() if name.endswith(".bias")} | {
        "classifier.weight"
    }
    other = surgery.load_peft(network("words"), FILES / "words_lora")
    assert {name.rpartition(".")[2] for name, one in other.named_parameters() if one.requires_grad} == {"A", "B"}


def test_specs_say_ranks_scales_and_dropout():
    bert = surgery.load_peft(network("bert"), FILES / "bert_everything")
    layer = bert.bert.encoder.layer
    assert layer[0].attention.self.query.weight.spec == "lora(rank=2, alpha=6.0, rslora=True)"
    assert layer[1].attention.self.value.weight.spec == "lora(rank=4, alpha=3.0, rslora=True)"
    llama = surgery.load_peft(network("llama"), FILES / "llama_second_layer")
    assert list(surgery.computed_parameters(llama)) == [
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.v_proj.weight",
    ]
    assert llama.model.layers[1].self_attn.q_proj.weight.spec == "lora(rank=4, alpha=8.0, dropout=0.1)"
    quiet = surgery.load_peft(network("llama"), FILES / "llama_second_layer", dropout=0.0)
    assert quiet.model.layers[1].self_attn.q_proj.weight.spec == "lora(rank=4, alpha=8.0)"
    gpt2 = surgery.load_peft(network("gpt2"), FILES / "gpt2_ia3")
    assert gpt2.transformer.h[0].mlp.c_proj.weight.spec == "ia3(inputs=True, dim=1)"


def test_a_trained_model_goes_on_from_its_files(tmp_path):
    model = surgery.load_peft(network("words"), FILES / "words_lora")
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.1)
    outputs(model.train(), "words").square().sum().backward()
    optimizer.step()
    want = outputs(model.eval(), "words")
    surgery.save_peft(model, tmp_path)
    found = outputs(surgery.load_peft(network("words"), tmp_path), "words")
    assert torch.equal(found, want)
    assert not torch.allclose(want, expected("words_lora"), atol=1e-3)


UNSUPPORTED = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 2},
    "corda_config": {"cache_file": "x"},
    "ensure_weight_tying": True,
    "eva_config": {"rho": 2.0},
    "kasa_config": {"a": 1},
    "layer_replication": [[0, 1]],
    "loftq_config": {"loftq_bits": 4},
    "lora_bias": True,
    "lora_ga_config": {"scale": "stable"},
    "megatron_config": {"a": 1},
    "target_parameters": ["weight"],
    "trainable_token_indices": [0],
    "use_bdlora": {"a": 1},
    "use_qalora": True,
    "velora_config": {"a": 1},
    "a_field_of_tomorrow": 3,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_field_that_changes_numbers_is_refused_by_name(name, tmp_path):
    message = refused(network("words"), edited(tmp_path, "words_lora", **{name: UNSUPPORTED[name]}))
    assert f"{name}={UNSUPPORTED[name]!r}, which changes what is computed or trained" in message


@pytest.mark.parametrize("start", ["olora", "corda", "loftq", "pissa_niter_4", "lora_ga", "mica"])
def test_a_start_that_has_changed_the_base_is_refused(start, tmp_path):
    message = refused(network("words"), edited(tmp_path, "words_lora", init_lora_weights=start))
    assert f"init_lora_weights={start!r}, which has changed the base or what trains" in message


@pytest.mark.parametrize("start", [False, "gaussian", "eva", "orthogonal", None])
def test_a_start_that_leaves_the_base_is_taken(start, tmp_path):
    model = surgery.load_peft(network("words"), edited(tmp_path, "words_lora", init_lora_weights=start))
    torch.testing.assert_close(outputs(model, "words"), expected("words_lora"), rtol=1e-5, atol=1e-6)


def test_all_fields_are_refused_at_once(tmp_path):
    message = refused(
        network("words"), edited(tmp_path, "words_lora", lora_bias=True, bias="some", target_modules=None)
    )
    assert "lora_bias=True" in message
    assert "bias='some'; it is one of 'none', 'all', 'lora_only'" in message
    assert "target_modules=None" in message
    other = edited(tmp_path / "b", "words_lora", peft_type="LOHA")
    assert "peft_type='LOHA'; it is one of 'LORA', 'IA3'" in refused(network("words"), other)


def test_what_is_missing_left_over_or_of_another_shape_is_said_at_once(tmp_path):
    prefix = "base_model.model."
    folder = with_tensors(
        edited(tmp_path, "words_lora"),
        **{
            f"{prefix}fc.lora_A.weight": torch.zeros(3, 8),
            f"{prefix}sub.time.lora_B.weight": None,
            f"{prefix}fc.lora_magnitude_vector": torch.zeros(5),
            f"{prefix}nowhere.lora_A.weight": torch.zeros(2, 2),
        },
    )
    message = refused(network("words"), folder)
    assert "fc.lora_A.weight: shape (3, 8) in the file, (2, 8) needed" in message
    assert "sub.time.lora_B.weight: is missing in the file" in message
    assert "fc.lora_magnitude_vector: belongs to nothing" in message
    assert "nowhere.lora_A.weight: belongs to nothing" in message


def test_a_kept_module_must_be_whole(tmp_path):
    key = "base_model.model.classifier.weight"
    folder = with_tensors(edited(tmp_path, "bert_everything"), **{key: None})
    assert "classifier.weight: is missing in the file" in refused(network("bert"), folder)
    wider = with_tensors(edited(tmp_path / "b", "bert_everything"), **{key: torch.zeros(9, 16)})
    assert "classifier.weight: shape (9, 16) in the file, (3, 16) needed" in refused(network("bert"), wider)


def test_another_model_is_refused_by_its_layers(tmp_path):
    assert "means no module of this Images" in refused(Images(), edited(tmp_path, "words_lora", target_modules=["no"]))
    unlike = Words()
    unlike.sub["time"] = nn.Conv1d(4, 3, 2, dilation=2)
    assert "sub.time: is a Conv1d with dilation=(2,), where PEFT's layer leaves" in refused(
        unlike, FILES / "words_lora"
    )
    normed = Words()
    normed.fc = nn.LayerNorm(8)
    message = refused(normed, FILES / "words_lora")
    assert "fc: is a LayerNorm; PEFT's adapters that are known here are for Linear, Embedding" in message


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert "adapter_config.json: cannot be read" in refused(Words(), tmp_path)
    folder = edited(tmp_path, "words_lora")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "adapter_model.safetensors: cannot be read" in refused(Words(), folder)
    weights.rename(folder / "adapter_model.bin")
    assert "adapter_model.bin: is a pickle, which could run anything" in refused(Words(), folder)
    with pytest.raises(surgery.SurgeryError, match="tie='share'; it is 'error' or 'split'"):
        surgery.load_peft(Words(), FILES / "words_lora", tie="share")


def test_dropout_where_no_rule_does_it_is_refused_and_can_be_left_out(tmp_path):
    folder = edited(tmp_path, "gpt2_lora", lora_dropout=0.1)
    message = refused(network("gpt2"), folder)
    assert "attn.c_attn: dropout=0.1 of the inputs of a Conv1D is not done here" in message
    assert "pass dropout=0.0 to leave it out" in message
    model = surgery.load_peft(network("gpt2"), folder, dropout=0.0)
    torch.testing.assert_close(outputs(model, "gpt2"), expected("gpt2_lora"), rtol=1e-5, atol=1e-6)
    dora = edited(tmp_path / "b", "bert_dora", lora_dropout=0.1)
    assert "dropout=0.1 of the inputs of DoRA is not done here" in refused(network("bert"), dora)


def test_an_embedding_has_no_dropout_as_in_peft(tmp_path):
    model = surgery.load_peft(network("words"), edited(tmp_path, "words_lora", lora_dropout=0.25))
    specs = [parameter.spec for parameter in surgery.computed_parameters(model).values()]
    assert ["dropout" in spec for spec in specs] == [False, True, True, True]


def test_ia3_of_outputs_scales_the_bias_by_the_same_gains(tmp_path):
    plain = network("bert")
    model = surgery.load_peft(copy.deepcopy(plain), FILES / "bert_ia3")
    key = model.bert.encoder.layer[0].attention.self.key
    gains = key.weight.raws["gains"]
    assert key.bias.constraints[0].gains is gains
    base = plain.bert.encoder.layer[0].attention.self.key.bias.detach()
    torch.testing.assert_close(key.bias.detach() + 0.0, base * gains.detach(), rtol=0, atol=0)
    assert sum(one.numel() for one in model.parameters() if one.requires_grad) == 2 * (16 + 16 + 24 + 16)
    twin = copy.deepcopy(model)
    own = twin.bert.encoder.layer[0].attention.self.key
    assert own.bias.constraints[0].gains is own.weight.raws["gains"] is not gains
    before = gains.detach().clone()
    with torch.no_grad():
        key.bias.fill_(1.0)
    torch.testing.assert_close(key.bias.detach() + 0.0, torch.ones(16))
    assert torch.equal(gains.detach(), before)  # a write to the bias leaves the weight's gains
    surgery.save_peft(twin, tmp_path)
    again = surgery.load_peft(copy.deepcopy(plain), tmp_path)
    for one, other in zip(again.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    expected = picture(plain, identities=False)
    surgery.undo(again)
    assert not differences(expected, picture(again, identities=False))


def test_gains_of_a_weight_alone_are_not_what_peft_loads(tmp_path):
    model = surgery.apply_constraints(network("words"), {"*": "frozen", "fc.weight": "ia3"})
    with pytest.raises(
        surgery.SurgeryError, match=r"fc\.weight: PEFT's IA3 scales the bias of a layer with its outputs"
    ):
        surgery.save_peft(model, tmp_path / "new")


def test_a_tie_is_refused_or_split():
    tied = network("words")
    tied.head = nn.Linear(8, 50, bias=False)
    tied.head.weight = tied.embed.weight
    assert "embed.weight: is tied to head.weight, and PEFT adapts it alone" in refused(tied, FILES / "words_lora")
    before = tied.head.weight.detach().clone()
    surgery.load_peft(tied, FILES / "words_lora", tie="split")
    torch.testing.assert_close(outputs(tied, "words"), expected("words_lora"), rtol=1e-5, atol=1e-6)
    assert torch.equal(tied.head.weight, before)
    surgery.undo(tied)
    assert tied.head.weight is tied.embed.weight


def test_a_tie_that_would_train_is_refused(tmp_path):
    class Twice(Words):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(8, 5)
            self.other.weight = self.fc.weight

    folder = with_tensors(
        edited(tmp_path, "words_lora", target_modules=["embed"], modules_to_save=["other"], rank_pattern={}),
        **{
            **{
                key: None for key in load_file(FILES / "words_lora" / "adapter_model.safetensors") if "embed" not in key
            },
            "base_model.model.other.weight": torch.zeros(5, 8),
            "base_model.model.other.bias": torch.zeros(5),
        },
    )
    assert "other.weight: is tied to fc.weight, and PEFT has a copy of its own" in refused(Twice(), folder)


def test_numbers_that_are_rounded_are_told(caplog):
    model = network("words").to(torch.bfloat16)
    surgery.load_peft(model, FILES / "words_lora")
    assert "adapters stored in torch.float32 were rounded to torch.bfloat16" in caplog.text
    found = outputs(model, "words").float()
    torch.testing.assert_close(found, expected("words_lora"), rtol=0.05, atol=0.05)


def test_a_base_without_data_is_refused():
    with torch.device("meta"):
        empty = Words()
    with pytest.raises(surgery.SurgeryError, match="fc: its weight has no data yet; load an adapter when the base is"):
        surgery.load_peft(empty, FILES / "words_lora")
    lazy = network("words")
    lazy.fc = nn.LazyLinear(5)
    with pytest.raises(surgery.SurgeryError, match="fc: its weight has no data yet"):
        surgery.load_peft(lazy, FILES / "words_lora")


def test_a_constrained_layer_is_refused():
    model = surgery.apply_constraints(network("words"), {"fc.weight": "spectral"})
    with pytest.raises(surgery.SurgeryError, match="fc: is meant by target_modules, and has no plain weight"):
        surgery.load_peft(model, FILES / "words_lora")


def test_an_optimizer_of_the_base_is_told(tmp_path):
    model = network("words")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surgery.load_peft(model, FILES / "words_lora")
    outputs(model, "words").sum().backward()
    with pytest.raises(surgery.StaleOptimizerError):
        optimizer.step()


REFUSED_TO_SAVE = {
    "spectral": ({"fc.weight": "spectral"}, "fc.weight: spectral.* is no lora, dora or ia3"),
    "chain": ({"fc.weight": "spectral | lora(2)"}, "fc.weight: spectral.* is no lora, dora or ia3"),
    "kinds": ({"fc.weight": "lora(2)", "sub.fc.weight": "dora(2)"}, "several kinds of adapters, and PEFT has one"),
    "dropouts": ({"fc.weight": "lora(2)", "sub.fc.weight": "lora(2, dropout=0.5)"}, "several dropouts of adapters"),
    "starts": ({"fc.weight": "lora(2)", "sub.fc.weight": "lora(2, alpha=1, init='pissa')"}, "several starts"),
    "pissa": ({"embed.weight": "lora(2, alpha=1, init='pissa')"}, "PEFT has init='pissa' for Linear"),
    "crossed": ({"sub.fc.weight": "dora(2, dim=1)"}, r"sub.fc.weight: dora\(.* has rows along another dimension"),
    "a half": ({"fc.weight": "lora(2)"}, "sub.time.weight: trains beside the adapters, and PEFT keeps whole modules"),
    "nothing": ({}, "has no computed parameters that are adapters"),
}


@pytest.mark.parametrize("case", REFUSED_TO_SAVE)
def test_what_peft_cannot_hold_is_refused_by_name(case, tmp_path):
    rules, message = REFUSED_TO_SAVE[case]
    everything = {} if case == "a half" else {"*": "frozen"}
    model = surgery.apply_constraints(network("words"), {**everything, **rules})
    if case == "a half":
        model.sub["time"].bias.requires_grad_(False)
        model.fc.bias.requires_grad_(False)
    with pytest.raises(surgery.SurgeryError, match=rf"(?s)PEFT cannot hold all of this model:.*{message}"):
        surgery.save_peft(model, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_compiled_model_is_saved_by_what_is_inside(tmp_path):
    model = surgery.apply_constraints(network("words"), {"*": "frozen", "fc.weight": "lora(2)"})
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(surgery.SurgeryError, match=r"a OptimizedModule has names of its own; save model._orig_mod"):
        surgery.save_peft(compiled, tmp_path)
    surgery.save_peft(compiled._orig_mod, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == "fc"


@pytest.mark.parametrize("spec", ["lora(2, alpha=3)", "lora(3)", "lora(2, alpha=3, rslora=True)", "lora(2, dim=1)"])
@pytest.mark.parametrize("name", ["fc", "embed"])
def test_any_reading_of_a_weight_is_saved_and_loaded(spec, name, tmp_path):
    model = surgery.apply_constraints(network("words"), {"*": "frozen", f"{name}.weight": spec})
    moved(model)
    want = outputs(model, "words")
    surgery.save_peft(model, tmp_path)
    torch.testing.assert_close(outputs(surgery.load_peft(network("words"), tmp_path), "words"), want)


def test_ranks_and_scales_that_differ_become_patterns_that_mean_one_module_each(tmp_path):
    rules = {
        "*": "frozen",
        "fc.weight": "lora(2, alpha=3)",
        "sub.fc.weight": "lora(3, alpha=5, rslora=True)",
        "sub.time.weight": "lora(3, alpha=7)",
    }
    model = surgery.apply_constraints(network("words"), rules)
    moved(model)
    surgery.save_peft(model, tmp_path)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert told["target_modules"] == r"fc|sub\.fc|sub\.time" or told["target_modules"] == ["fc", "time"]
    again = surgery.load_peft(network("words"), tmp_path)
    assert {name: one.constraints[0].rank for name, one in surgery.computed_parameters(again).items()} == {
        "fc.weight": 2,
        "sub.fc.weight": 3,
        "sub.time.weight": 3,
    }
    torch.testing.assert_close(outputs(again, "words"), outputs(model, "words"))


def test_a_name_that_ends_another_one_is_not_meant(tmp_path):
    model = surgery.apply_constraints(network("words"), {"*": "frozen", "fc.weight": "lora(2, alpha=3)"})
    moved(model)
    surgery.save_peft(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == "fc"
    again = surgery.load_peft(network("words"), tmp_path)
    assert list(surgery.computed_parameters(again)) == ["fc.weight"]


def test_what_trains_whole_is_kept_whole(tmp_path):
    rules = {"*": "frozen", "fc.weight": "lora(2)", "sub.time.*": "none"}
    model = surgery.apply_constraints(network("words"), rules)
    moved(model)
    surgery.save_peft(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == ["sub.time"]
    again = surgery.load_peft(network("words"), tmp_path)
    assert torch.equal(outputs(again, "words"), outputs(model, "words"))
    trained = {name for name, one in again.named_parameters() if one.requires_grad}
    assert trained == {"fc.weight.A", "fc.weight.B", "sub.time.weight", "sub.time.bias"}
