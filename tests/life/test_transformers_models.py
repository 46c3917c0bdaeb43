"""Models of transformers are initialised, run, tied, saved and loaded with constrained weights as with plain ones.

Truth is the same library on a plain model, under the same seed; everything is compared bit for bit.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import surgery
from tests.computed.identity import Counting, Identity
from tests.quiet import quiet_transformers

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'examples'")

IDS = {"input_ids": torch.tensor([[3, 7, 9, 4, 2, 11], [5, 3, 8, 2, 6, 4]])}
PICTURE = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)}
SOUND = {"input_values": torch.linspace(-1, 1, 2 * 160).sin().view(2, 160)}
BOTH = IDS | {"decoder_input_ids": IDS["input_ids"][:, :4]}

BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
LLAMA = BERT | {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 20}
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 40,
}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
SPEECH = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
}  # fmt: skip

ARCHITECTURES: dict[str, tuple[str, dict[str, Any], dict[str, Tensor]]] = {
    "Bert": ("BertModel", BERT, IDS),
    "Roberta": ("RobertaModel", BERT | {"max_position_embeddings": 20}, IDS),
    "Distilbert": (
        "DistilBertModel",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 40},
        IDS,
    ),
    "GPT2": ("GPT2Model", GPT2, IDS),
    "Llama": ("LlamaModel", LLAMA, IDS),
    "Mistral": ("MistralModel", LLAMA, IDS),
    "T5": ("T5Model", T5, BOTH),
    "Bart": ("BartModel", BART, BOTH),
    "ViT": ("ViTModel", BERT | {"image_size": 8, "patch_size": 4}, PICTURE),
    "Wav2Vec2": ("Wav2Vec2Model", SPEECH, SOUND),
    "DebertaV2": ("DebertaV2Model", BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, IDS),
    "Albert": ("AlbertModel", BERT | {"embedding_size": 8}, IDS),
    "OPT": (
        "OPTModel",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32, "vocab_size": 40}
        | {"word_embed_proj_dim": 16, "max_position_embeddings": 20},
        IDS,
    ),
    "CLIP text": ("CLIPTextModel", BERT | {"max_position_embeddings": 20, "eos_token_id": 2}, IDS),
}
QUERIES = "*.{q,query,q_proj,q_lin,query_proj,c_attn}.weight"
VALUES = "*.{v,value,v_proj,v_lin,value_proj,c_proj}.weight"
RULES = {"*@{Linear,Conv1D}.weight": "spectral(bound=0.1)", QUERIES: "orthogonal", VALUES: "lora(rank=2)"}


def parts(name: str) -> tuple[type[nn.Module], Any, dict[str, Tensor]]:
    """The class of an architecture, a small configuration without dropout, and inputs."""
    kind, options, inputs = ARCHITECTURES[name]
    cls = getattr(transformers, kind)
    return cls, cls.config_class(**options), inputs


def built(name: str, seed: int = 0) -> nn.Module:
    cls, config, _ = parts(name)
    torch.manual_seed(seed)
    return cls(config).eval()


def outputs(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """All tensors that the model returns."""
    return [output for output in model(**inputs).to_tuple() if isinstance(output, Tensor)]


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_transformers(transformers.logging.ERROR):
        yield


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_with_everything_computed_by_an_identity_are_those_of_the_plain_model(name: str) -> None:
    """Every parameter there is; in eval and train mode, a copy too, gradients as well; undone, the same model again.

    But for what torch's weight norm holds in wav2vec2, which `test_adopting_transformers` is about.
    """
    plain, inputs = built(name), parts(name)[2]
    rules = {"*": Identity, "*.pos_conv_embed.conv.weight": None}
    model = surgery.apply_constraints(copy.deepcopy(plain), rules, strict=False)
    expected = outputs(plain, inputs)
    for one in (model, copy.deepcopy(model)):
        assert all(map(torch.equal, outputs(one, inputs), expected))
    results = []
    for one in (model, plain):
        one.train()
        torch.manual_seed(1)
        results.append(outputs(one, inputs))
        sum(output.square().sum() for output in results[-1]).backward()
    assert all(map(torch.equal, *results))
    gradients = {raw_name.removesuffix(".raw"): raw.grad for raw_name, raw in model.named_parameters()}
    for parameter_name, parameter in plain.named_parameters():
        ours = gradients[parameter_name]
        assert (ours is None) == (parameter.grad is None), parameter_name
        assert ours is None or torch.equal(ours, parameter.grad), parameter_name
    surgery.undo(model)
    assert_same_bits(model.state_dict(), plain.state_dict())


def constrained_class(cls: type[nn.Module], rules: dict[str, Any], way: str) -> type[nn.Module]:
    """A subclass that constrains itself in its ``__init__``, before transformers initialises it."""

    class Constrained(cls):
        def post_init(self) -> None:
            if way == "apply_constraints":
                surgery.apply_constraints(self, rules, strict=False)
            else:
                rows = surgery.plan(self, rules, strict=False).sites
                surgery.constrain(self, {row.name: row.constraint for row in rows if row.changes})
            super().post_init()

    # transformers skips layers of other people's classes whose own parameters have marks, or that have none
    Constrained.__module__ = cls.__module__
    return Constrained


def initialised_again(model: nn.Module, seed: int) -> nn.Module:
    """The library's `init_weights` once more, under a seed."""
    for module in model.modules():
        vars(module).pop("_is_hf_initialized", None)
    torch.manual_seed(seed)
    model.init_weights()
    return model


@pytest.mark.parametrize("way", ["apply_constraints", "constrain"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_constrained_then_initialised_is_initialised_then_constrained(name: str, way: str) -> None:
    """Keys, raws and state bit for bit, and as many random numbers: while it is built, and by `init_weights` again."""
    cls, config, inputs = parts(name)
    torch.manual_seed(3)
    early = constrained_class(cls, RULES, way)(config).eval()
    drawn = torch.get_rng_state()
    late = built(name, seed=3)
    assert torch.equal(torch.get_rng_state(), drawn)
    surgery.apply_constraints(late, RULES, strict=False)
    assert torch.equal(torch.get_rng_state(), drawn)
    kinds = {weight.spec.split("(")[0] for weight in surgery.computed_parameters(early).values()}
    assert kinds == {"spectral", "orthogonal", "lora"}
    assert_same_bits(early.state_dict(), late.state_dict())
    assert all(map(torch.equal, outputs(early, inputs), outputs(late, inputs)))

    first = {key: tensor.clone() for key, tensor in early.state_dict().items()}
    initialised_again(early, seed=4)
    again = surgery.apply_constraints(initialised_again(built(name, seed=3), seed=4), RULES, strict=False)
    assert_same_bits(early.state_dict(), again.state_dict())
    assert any(not torch.equal(tensor, first[key]) for key, tensor in early.state_dict().items())
    assert surgery.check(early).ok


def test_a_decorated_class_is_constrained_after_the_library_has_initialised_it() -> None:
    cls, config, inputs = parts("Bert")

    @surgery.constrained({"*@Linear.weight": "spectral(bound=0.1)"})
    class Capped(cls):
        pass

    torch.manual_seed(3)
    model = Capped(config).eval()
    expected = surgery.apply_constraints(built("Bert", seed=3), {"*@Linear.weight": "spectral(bound=0.1)"})
    assert_same_bits(model.state_dict(), expected.state_dict())
    assert all(map(torch.equal, outputs(model, inputs), outputs(expected, inputs)))


SPECS = ("spectral(bound=0.1)", "orthogonal", "lora(2)", "weight_norm", "unit_norm", "positive", "interval(-1, 1)")


@pytest.mark.parametrize("spec", SPECS)
def test_making_constraints_draws_no_random_numbers(spec: str) -> None:
    """Of torch, of NumPy, of Python; reading, copying, writing and checking draw none either."""
    model = built("Bert")
    state, others = torch.get_rng_state(), (random.getstate(), repr(np.random.get_state()))
    surgery.apply_constraints(model, {"*.dense.weight": spec})
    outputs(model, IDS)
    copy.deepcopy(model).state_dict()
    with torch.no_grad():
        model.pooler.dense.weight.mul_(0.5)
    model.state_dict()
    surgery.check(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), repr(np.random.get_state())) == others


TIED: dict[str, tuple[str, dict[str, Any], dict[str, Tensor]]] = {
    "GPT2": ("GPT2LMHeadModel", GPT2 | {"bos_token_id": 1, "eos_token_id": 2}, IDS),
    "Bert": ("BertForMaskedLM", BERT, IDS),
    "Llama": ("LlamaForCausalLM", LLAMA | {"tie_word_embeddings": True}, IDS),
    "Bart": ("BartForConditionalGeneration", BART, BOTH),
}


def tied(name: str) -> tuple[nn.Module, str]:
    """A model whose head is its embedding, and the name of the embedding's weight."""
    kind, options, _ = TIED[name]
    return head_of(kind, options)


def head_of(kind: str, options: dict[str, Any]) -> tuple[nn.Module, str]:
    """A model of class ``kind`` whose head is its embedding, and the name of the embedding's weight."""
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    model = cls(cls.config_class(**options)).eval()
    weight = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is weight
    return model, next(other for other, parameter in model.named_parameters() if parameter is weight)


@pytest.mark.parametrize("name", TIED)
def test_a_tie_is_kept_through_copies_training_and_what_ties_again(name: str) -> None:
    """One computed parameter in all places, one evaluation a step; the assignment that ties is a no-op."""
    model, weight_name = tied(name)
    inputs = TIED[name][2]
    surgery.apply_constraints(model, {weight_name: Counting()})
    weight, keys = model.get_input_embeddings().weight, list(model.state_dict())
    assert list(surgery.computed_parameters(model)) == [weight_name]
    model.get_output_embeddings().weight = weight
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight is weight
    assert list(model.state_dict()) == keys
    copied = copy.deepcopy(model)
    assert copied.get_output_embeddings().weight is copied.get_input_embeddings().weight is not weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    counting = weight.constraints[0]
    model.train()
    for _ in range(2):
        counting.evaluations.clear()
        outputs(model, inputs)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert len(counting.evaluations) == 1
    assert model.get_output_embeddings().weight is weight


@pytest.mark.parametrize("name", TIED)
def test_a_plain_tie_beside_constraints_is_tied_and_initialised_by_the_library(name: str) -> None:
    """`tie_weights` and `init_weights` on a model whose other weights are constrained."""
    model, weight_name = tied(name)
    surgery.apply_constraints(model, {"*@{Linear,Conv1D}.weight": "spectral(bound=0.1)", weight_name: None})
    weight, keys = model.get_input_embeddings().weight, list(model.state_dict())
    model.tie_weights()
    initialised_again(model, seed=1)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight is weight
    assert type(weight) is nn.Parameter
    assert list(model.state_dict()) == keys
    assert surgery.check(model).ok


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("size", [60, 30])
def test_resizing_a_constrained_embedding_is_refused_before_anything_changes(name: str, size: int) -> None:
    """Undone or baked, it is resized as always."""
    model, weight_name = tied(name)
    surgery.apply_constraints(model, {weight_name: "spectral(bound=0.2)"})
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weight = model.get_input_embeddings().weight
    with pytest.raises(ValueError, match=rf"{weight_name}: .* cannot set data of shape \({size}, 16\); the shape of a"):
        model.resize_token_embeddings(size)
    assert_same_bits(model.state_dict(), before)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight is weight
    assert (model.config.vocab_size, model.get_input_embeddings().num_embeddings) == (40, 40)
    for freed in (surgery.bake(copy.deepcopy(model)), model):
        if freed is model:
            surgery.undo(freed)
        freed.resize_token_embeddings(size)
        assert freed.get_input_embeddings().weight is freed.get_output_embeddings().weight
        assert freed.get_output_embeddings().weight.shape == (size, 16)


def saved(model: nn.Module, folder: Path, **options: Any) -> set[str]:
    """Save as the library does; the keys of the file."""
    model.save_pretrained(folder, **options)
    return set(load_file(folder / "model.safetensors"))


def loaded(cls: type[nn.Module], folder: Path) -> tuple[nn.Module, set[str], set[str]]:
    """Load as the library does; what it says was missing and what it did not expect."""
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    return model.eval(), set(report["missing_keys"]), set(report["unexpected_keys"])


ENCODER_RULES = {
    "encoder.*.query.weight": "spectral(bound=0.1)",
    "encoder.*.key.weight": "weight_norm",
    "encoder.*.value.weight": "lora(2)",
    "encoder.*.output.dense.weight": "orthogonal",
}


def test_save_pretrained_keeps_raws_that_a_constrained_class_loads(tmp_path: Path) -> None:
    """Keys are those of the state dict; outputs and check are those of the model that was saved."""
    model = surgery.apply_constraints(built("Bert"), ENCODER_RULES)

    @surgery.constrained(ENCODER_RULES)
    class Constrained(transformers.BertModel):
        pass

    assert saved(model, tmp_path) == set(model.state_dict())
    again, missing, unexpected = loaded(Constrained, tmp_path)
    assert (missing, unexpected) == (set(), set())
    assert_same_bits(again.state_dict(), model.state_dict())
    assert all(map(torch.equal, outputs(again, IDS), outputs(model, IDS)))
    assert surgery.check(again).ok


def test_the_plain_format_and_a_baked_model_are_loaded_by_the_plain_class(tmp_path: Path) -> None:
    model = surgery.apply_constraints(built("Bert"), ENCODER_RULES)
    plain_keys = set(built("Bert").state_dict())
    kept = saved(model, tmp_path / "plain", state_dict=surgery.state_dict(model, format="plain"))
    expected = outputs(model, IDS)
    baked = surgery.bake(model)
    assert kept == saved(baked, tmp_path / "baked") == plain_keys
    for folder in ("plain", "baked"):
        again, missing, unexpected = loaded(transformers.BertModel, tmp_path / folder)
        assert (missing, unexpected) == (set(), set())
        assert_same_bits(again.state_dict(), baked.state_dict())
        for one, other in zip(outputs(again, IDS), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_plain_class_says_which_constrained_keys_it_does_not_know(tmp_path: Path) -> None:
    """transformers reports both sides and initialises the weights anew: nothing is converted behind anybody's back."""
    model = surgery.apply_constraints(built("Bert"), ENCODER_RULES)
    saved(model, tmp_path)
    _, missing, unexpected = loaded(transformers.BertModel, tmp_path)
    assert missing == set(surgery.computed_parameters(model))
    assert unexpected == set(model.state_dict()) - set(built("Bert").state_dict())


def test_training_goes_on_from_save_pretrained(tmp_path: Path) -> None:
    """Two steps, saved, loaded, two steps: raws and state as after four steps."""
    rules = {"encoder.*@Linear.weight": "spectral"}

    @surgery.constrained(rules)
    class Constrained(transformers.BertModel):
        pass

    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    straight = Constrained(transformers.BertConfig(**BERT, **calm))
    interrupted = copy.deepcopy(straight)

    def train(model: nn.Module, steps: int) -> nn.Module:
        optimizer = torch.optim.SGD(model.train().parameters(), 0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            outputs(model, IDS)[0][:, :, :8].square().sum().backward()
            optimizer.step()
        return model

    train(interrupted, 2).save_pretrained(tmp_path)
    interrupted = train(loaded(Constrained, tmp_path)[0], 2)
    start, end = straight.state_dict(), train(copy.deepcopy(straight), 4).state_dict()
    key = "encoder.layer.0.output.dense.weight.constraints.0.u"
    assert float((end[key] - start[key]).abs().max()) > 1e-4
    for name, tensor in interrupted.state_dict().items():
        torch.testing.assert_close(tensor, end[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_of_the_library_changes_no_gradient(reentrant: bool) -> None:
    model = surgery.apply_constraints(built("Llama"), {"*@Linear.weight": "spectral(bound=0.1)"}).train()
    twin = copy.deepcopy(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert [one.layers[0].gradient_checkpointing for one in (model, twin)] == [True, False]
    for one in (model, twin):
        embedded = one.get_input_embeddings()(IDS["input_ids"])
        one(inputs_embeds=embedded, use_cache=False).last_hidden_state.square().sum().backward()
    expected = dict(twin.named_parameters())
    for name, raw in model.named_parameters():
        torch.testing.assert_close(raw.grad, expected[name].grad, msg=lambda m, n=name: f"{n}: {m}")


def test_generation_evaluates_each_weight_once() -> None:
    """Twelve tokens, one after the other: those of the baked model."""
    model, weight_name = tied("GPT2")
    surgery.apply_constraints(model, {"*@Conv1D.weight": Counting(), weight_name: Counting()})
    weights = surgery.computed_parameters(model)
    for weight in weights.values():
        weight.constraints[0].evaluations.clear()
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones(2, 6)}
    tokens = model.generate(IDS["input_ids"], **options)
    assert {len(weight.constraints[0].evaluations) for weight in weights.values()} == {1}
    assert len(weights) == 9
    assert torch.equal(surgery.bake(model).generate(IDS["input_ids"], **options), tokens)


@pytest.mark.parametrize("name", ["Bert", "Llama", "ViT"])
def test_a_constrained_model_is_one_graph(name: str) -> None:
    """torch.compile(fullgraph=True) gives what the model gives."""
    torch.compiler.reset()
    model, inputs = surgery.apply_constraints(built(name), RULES, strict=False), parts(name)[2]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for one, other in zip(outputs(compiled, inputs), outputs(model, inputs), strict=True):
        torch.testing.assert_close(one, other)
    torch.compiler.reset()
