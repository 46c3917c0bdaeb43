"""`transformers.Trainer` saves, resumes and goes back to its best model with constrained weights as with plain ones.

Truth is the same Trainer: on the plain model, whose training one with every parameter computed by an identity repeats
bit for bit; and without an interruption. `make peers` installs what the Trainer needs, and this file runs there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import surgery
from tests.computed.identity import Identity
from tests.quiet import quiet_transformers

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'examples'")
pytest.importorskip("accelerate", reason="accelerate is installed by `make peers` alone")

WORDS, ROWS = 40, 12
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
SIGNS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": WORDS}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}

# the class, its configuration, what its labels are, and rules of its own; the last four constrain a tie
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str, dict[str, str]]] = {
    "Bert": ("BertForSequenceClassification", TEXT | {"vocab_size": WORDS, "num_labels": 3}, "classes", {}),
    "Distilbert": ("DistilBertForSequenceClassification", DISTILBERT | {"num_labels": 3}, "classes", {}),
    "T5": ("T5ForConditionalGeneration", T5 | SIGNS | {"vocab_size": WORDS, "decoder_start_token_id": 0}, "text", {}),
    "GPT2": (
        "GPT2LMHeadModel",
        SIGNS | {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": WORDS, "n_positions": 20},
        "text",
        {"transformer.wte.weight": "spectral(bound=0.3)"},
    ),
    "Llama": (
        "LlamaForCausalLM",
        TEXT | SIGNS | {"vocab_size": WORDS, "num_key_value_heads": 1, "tie_word_embeddings": True},
        "text",
        {"lm_head.weight": "unit_norm"},
    ),
    "Bart": (
        "BartForConditionalGeneration",
        BART | SIGNS | {"vocab_size": WORDS},
        "text",
        {"lm_head.weight": "lora(2)"},
    ),
}
TIED = ("T5", "GPT2", "Llama", "Bart")
RULES = {
    "*@{Linear,Conv1D}.weight": "spectral(bound=0.2)",
    "*.{q,query,q_proj,q_lin,c_attn}.weight": "orthogonal",
    "*.{k,key,k_proj,k_lin}.weight": "weight_norm",
    "*.{v,value,v_proj,v_lin,c_proj}.weight": "lora(2)",
}
Rows = list[dict[str, Tensor]]


def rows(kind: str) -> Rows:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(ROWS):
        ids, label = torch.randint(3, WORDS, (6,), generator=generator), torch.randint(3, (), generator=generator)
        found.append({"input_ids": ids, "labels": label if kind == "classes" else ids.clone()})
    return found


def built(name: str, rules: dict[str, Any] | None, seed: int = 0, *, dropout: bool = True) -> nn.Module:
    kind, options, _, own = ARCHITECTURES[name]
    cls = getattr(transformers, kind)
    config = cls.config_class(**options)
    for key, rate in vars(config).items():
        if "drop" in key and isinstance(rate, float) and not dropout:
            setattr(config, key, 0.0)
    torch.manual_seed(seed)
    model = cls(config)
    return model if rules is None else surgery.apply_constraints(model, {**rules, **own}, strict=False)


def trainer(name: str, model: nn.Module, folder: Path, **options: Any) -> Any:
    """Four steps, with a checkpoint at every second one; weight decay, and two micro-batches to a step."""
    settings = transformers.TrainingArguments(
        str(folder), max_steps=4, save_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        learning_rate=1e-2, weight_decay=0.1, seed=3, data_seed=3, use_cpu=True, report_to="none",
        disable_tqdm=True, logging_steps=1, **options,
    )  # fmt: skip
    data = rows(ARCHITECTURES[name][2])
    return transformers.Trainer(model, settings, train_dataset=data, eval_dataset=data)


def losses(finished: Any) -> list[float]:
    return [entry["loss"] for entry in finished.state.log_history if "loss" in entry]


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


def optimizer_state(folder: Path) -> dict[int, dict[str, Tensor]]:
    found: dict[int, dict[str, Tensor]] = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    return found


def assert_same_optimizers(one: Path, other: Path) -> None:
    first, second = optimizer_state(one), optimizer_state(other)
    assert list(first) == list(second) != []
    for position, state in first.items():
        assert_same_bits(second[position], state)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_transformers(transformers.logging.ERROR):
        yield


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_rules_reach_what_they_are_meant_for(name: str):
    """Every kind of constraint, and the tie where there is one."""
    model = built(name, RULES)
    kinds = {weight.spec.split("(")[0] for weight in surgery.computed_parameters(model).values()}
    assert kinds >= {"spectral", "orthogonal", "lora"}
    if name in TIED:
        weight = model.get_input_embeddings().weight
        assert model.get_output_embeddings().weight is weight
        assert weight in surgery.computed_parameters(model).values()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_that_is_computed_by_identities_trains_as_the_plain_one(name: str, tmp_path: Path):
    """Every parameter, ties too: losses and weights, with the same ones left out of the decay of weights."""
    ours, plain = built(name, None), built(name, None)
    surgery.apply_constraints(ours, {"*": Identity})
    # norms of gradients are summed in the order of parameters, which is another: they are not clipped
    finished = []
    for model in (ours, plain):
        finished.append(trainer(name, model, tmp_path / type(model).__name__ / str(len(finished)), max_grad_norm=0))
        finished[-1].train()
    assert losses(finished[0]) == losses(finished[1])
    assert len(losses(finished[0])) == 4
    assert_same_bits(surgery.state_dict(ours, format="plain"), plain.state_dict())
    start = built(name, None).state_dict()
    assert any(not torch.equal(tensor, start[key]) for key, tensor in plain.state_dict().items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_that_is_resumed_ends_where_one_ends_that_was_not_interrupted(name: str, tmp_path: Path):
    """Raws, state and moments bit for bit, from a model of another seed."""
    straight, resumed = built(name, RULES), built(name, RULES, seed=9)
    before = {key: tensor.clone() for key, tensor in straight.state_dict().items()}
    whole, rest = trainer(name, straight, tmp_path / "whole"), trainer(name, resumed, tmp_path / "rest")
    whole.train()
    rest.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert rest.state.global_step == 4
    assert_same_bits(resumed.state_dict(), straight.state_dict())
    assert_same_optimizers(tmp_path / "whole" / "checkpoint-4", tmp_path / "rest" / "checkpoint-4")
    assert losses(rest)[-2:] == losses(whole)[-2:]
    raws = [key for key, raw in straight.named_parameters() if raw.requires_grad and key.endswith((".raw", ".g", ".B"))]
    assert [key for key in raws if torch.equal(straight.state_dict()[key], before[key])] == []
    for model in (straight, resumed):
        assert surgery.check(model.eval()).ok


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_best_model_comes_back_and_looking_for_it_changes_no_training(name: str, tmp_path: Path):
    """The first of two checkpoints is the best; the last is that of a training that nobody evaluated.

    Without dropout: an evaluation of the Trainer draws random numbers, for plain models too.
    """
    scores = iter([2.0, 1.0])
    model, undisturbed = (built(name, RULES, dropout=False) for _ in range(2))
    finished = trainer(
        name, model, tmp_path / "best", eval_strategy="steps", eval_steps=2, load_best_model_at_end=True,
        metric_for_best_model="score", greater_is_better=True,
    )  # fmt: skip
    finished.compute_metrics = lambda predictions: {"score": next(scores)}
    finished.train()
    assert finished.state.best_model_checkpoint == str(tmp_path / "best" / "checkpoint-2")
    best, last = (load_file(tmp_path / "best" / f"checkpoint-{step}" / "model.safetensors") for step in (2, 4))
    own = model.state_dict()
    assert set(best) <= set(own)
    assert [key for key, tensor in best.items() if not torch.equal(own[key], tensor)] == []
    assert any(not torch.equal(tensor, last[key]) for key, tensor in best.items())
    trainer(name, undisturbed, tmp_path / "alone").train()
    assert_same_bits(last, load_file(tmp_path / "alone" / "checkpoint-4" / "model.safetensors"))
    # the values are those of the raws that came back
    again = built(name, RULES, seed=9)  # dropout is off in eval
    again.load_state_dict(own, strict=True)
    for key, weight in surgery.computed_parameters(model.eval()).items():
        assert torch.equal(weight.detach(), surgery.computed_parameters(again.eval())[key].detach()), key
    assert surgery.check(model).ok


def test_what_the_trainer_saves_last_is_loaded_by_the_plain_class_when_it_is_baked(tmp_path: Path):
    """`save_model` writes raws; after a bake, what `from_pretrained` of the plain class reads."""
    model = built("Bert", RULES)
    finished = trainer("Bert", model, tmp_path / "run")
    finished.train()
    finished.save_model(str(tmp_path / "raws"))
    assert set(load_file(tmp_path / "raws" / "model.safetensors")) == set(model.state_dict())
    batch = torch.stack([row["input_ids"] for row in rows("classes")])
    with torch.no_grad():
        expected = model.eval()(batch).logits
    surgery.bake(model)
    finished.save_model(str(tmp_path / "plain"))
    kind = getattr(transformers, ARCHITECTURES["Bert"][0])
    again, report = kind.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(batch).logits, expected, rtol=1e-5, atol=1e-6)
