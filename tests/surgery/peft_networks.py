"""Small networks with the same numbers everywhere, and adapters upon them as the real PEFT writes them.

``.venv-peers/bin/python -m tests.surgery.peft_networks`` writes ``peft_files`` anew.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FILES = Path(__file__).parent / "peft_files"
EXPECTED = "expected.safetensors"


def waves(index: int, like: Tensor) -> Tensor:
    """Numbers between -1 and 1 that no generator draws, others for each ``index``."""
    steps = torch.arange(like.numel(), dtype=torch.float64)
    return torch.sin(steps * steps * 0.013 + steps * 0.7 + index).reshape(like.shape).to(like.dtype)


def numbered(model: nn.Module) -> nn.Module:
    """The model with numbers of its own for each parameter; what scales a normalisation is around one."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            scales = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(waves(index, parameter) * 0.4 + float(scales))
    return model.eval()


class Images(nn.Module):
    """Two convolutions of an image, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, (1, 3), bias=False)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()).mean((2, 3)))


class Words(nn.Module):
    """An embedding, linear layers and a convolution over time; one name is the end of another."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.fc = nn.Linear(8, 5)
        self.sub = nn.ModuleDict({"fc": nn.Linear(5, 4), "time": nn.Conv1d(4, 3, 2)})

    def forward(self, x: Tensor) -> Tensor:
        wide = self.sub["fc"](self.fc(self.embed(x)).tanh())
        return self.sub["time"](wide.transpose(1, 2))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=50, max_position_embeddings=20, num_labels=3, **sizes, **none)
    return BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=20, **none))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, max_position_embeddings=32, **sizes))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "images": Images,
    "words": Words,
}


def network(name: str) -> nn.Module:
    return numbered(NETWORKS[name]())


def outputs(model: nn.Module, name: str) -> Tensor:
    """What a network makes of a batch that is always the same."""
    if name == "images":
        return model(torch.cos(torch.arange(2 * 3 * 8 * 8) * 0.37).reshape(2, 3, 8, 8))
    # without word 0, which is BERT's padding: see `test_padding_does_not_train_the_lengths_of_dora`
    found = model(torch.arange(12).reshape(2, 6) * 7 % 49 + 1)
    return found if isinstance(found, Tensor) else found.logits


@dataclass(frozen=True)
class Case:
    """An adapter of a network, as PEFT is asked for it; ``exact`` where it goes back to PEFT tensor by tensor."""

    network: str
    settings: dict[str, Any] = field(default_factory=dict)
    ia3: bool = False
    exact: bool = True


QUERIES = {"r": 4, "lora_alpha": 6, "target_modules": ["query", "value"]}
CASES: dict[str, Case] = {
    "bert_lora": Case("bert", QUERIES),
    "bert_everything": Case(
        "bert",
        {
            **QUERIES,
            "use_rslora": True,
            "bias": "all",
            "modules_to_save": ["classifier"],
            "rank_pattern": {"0.attention.self.query": 2},
            "alpha_pattern": {"value": 3},
        },
        exact=False,  # PEFT keeps what the classifier was, too
    ),
    "bert_expression": Case("bert", {"r": 2, "target_modules": r".*layer\.1.*\.dense", "bias": "lora_only"}),
    "bert_dora": Case("bert", {"r": 3, "target_modules": ["query", "word_embeddings"], "use_dora": True}),
    "bert_pissa": Case("bert", {"r": 3, "target_modules": ["query"], "init_lora_weights": "pissa"}),
    "gpt2_lora": Case("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "gpt2_dora": Case(
        "gpt2", {"r": 3, "target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True, "use_rslora": True}
    ),
    "gpt2_ia3": Case(
        "gpt2", {"target_modules": ["mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"], "fan_in_fan_out": True}, True
    ),
    "llama_second_layer": Case(
        "llama",
        {
            "r": 4,
            "target_modules": ["q_proj", "v_proj"],
            "lora_dropout": 0.1,
            "layers_to_transform": [1],
            "layers_pattern": "layers",
        },
    ),
    "llama_all_linear": Case("llama", {"r": 2, "target_modules": "all-linear"}),
    "llama_embedding": Case("llama", {"r": 2, "target_modules": ["embed_tokens", "q_proj"]}, exact=False),
    "llama_ia3": Case(
        "llama", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, True
    ),
    "images_lora": Case("images", {"r": 2, "target_modules": ["first", "second", "head"]}),
    "images_dora": Case("images", {"r": 2, "target_modules": ["first", "second"], "use_dora": True}),
    "bert_ia3": Case(
        "bert", {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}, True
    ),
    "gpt2_ia3_outputs": Case(
        "gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": [], "fan_in_fan_out": True}, True
    ),
    "images_ia3_biases": Case("images", {"target_modules": ["first", "head"], "feedforward_modules": []}, True),
    "images_ia3": Case("images", {"target_modules": ["second"], "feedforward_modules": []}, True),
    "words_lora": Case(
        "words", {"r": 2, "target_modules": ["embed", "fc", "sub.time"], "rank_pattern": {"sub.fc": 3}, "lora_alpha": 4}
    ),
}
WRITTEN = ("bert_everything", "bert_dora", "bert_ia3", "gpt2_lora", "gpt2_ia3", "llama_second_layer", "llama_ia3")
WRITTEN += ("images_lora", "words_lora")


def wrapped(case: Case, base: nn.Module | None = None) -> Any:
    """A network with an adapter by PEFT, its trained numbers away from their start."""
    from peft import IA3Config, LoraConfig, get_peft_model

    config = (IA3Config if case.ia3 else LoraConfig)(**copy.deepcopy(case.settings))
    model = get_peft_model(network(case.network) if base is None else base, config)
    moved(model)
    return model.eval()


def moved(model: nn.Module) -> None:
    """Give factors that train numbers of their own, and move what else trains."""
    factors = ("lora_A", "lora_B", "lora_embedding")
    with torch.no_grad():
        trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
        for index, (name, parameter) in enumerate(trained):
            if any(each in name for each in factors) or name.endswith((".A", ".B")):
                parameter.zero_()
            parameter.add_(waves(index + 1000, parameter) * 0.3)


def write(name: str, folder: Path) -> None:
    """What PEFT writes for a case, and what its model answers."""
    model = wrapped(CASES[name])
    model.save_pretrained(folder)
    folder.joinpath("README.md").unlink(missing_ok=True)
    save_file({"outputs": outputs(model, CASES[name].network).detach().contiguous()}, folder / EXPECTED)


if __name__ == "__main__":
    shutil.rmtree(FILES, ignore_errors=True)
    for each in WRITTEN:
        write(each, FILES / each)
        told = FILES / each / "adapter_config.json"
        told.write_text(json.dumps(json.loads(told.read_text()), indent=1, sort_keys=True) + "\n")
