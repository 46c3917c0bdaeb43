"""Published architectures as their authors wrote them: each is a graph that is right, or refused with its reason.

Tiny configurations with random weights; truth is the tree route, whose own truth is in `tests/life`.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import computed
import surgery
from tests.quiet import quiet_transformers

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'examples'")

TRACES = "it is a graph"

# what stands in the way, as the error tells it: the statement, or what was found
WINDOW = "if min(input_resolution) <= self.window_size:"
WINDOW_SET = "sets self.window_size: a graph does not do that"
PADDED = "was_padded = pad_values[3] > 0 or pad_values[5] > 0"
BIASES_SET = "sets self.attention_bias_cache"
NOISE = "noise = torch.rand(batch_size, seq_length, device=sequence.device)"
QUANTIZERS = "n_quantizers[:n_dropout] = dropout[:n_dropout]"
KEYPOINTS = "for image_hidden_state in last_hidden_state"
LOWEST = "min_dtype = torch.finfo(key.dtype).min"
DROPPED = "draws random numbers from torch"
CACHE = "argument of type: <class 'transformers.cache_utils."  # in what the model returns
LOAD_HOOKS = "has load_state_dict_pre_hooks"
HOOKS = "has forward_hooks"  # transformers collects hidden states by them
OPTIONAL = "the graph is not the model, it has"  # a module that is kept whole gives None where others give a tensor
NO_PLACE = (HOOKS, LOAD_HOOKS, OPTIONAL)


class Published(NamedTuple):
    """A class of transformers, options of its configuration, and what each set of rules comes to."""

    kind: str
    options: dict[str, Any]
    outcomes: dict[str, str]


ALL = ("everything", "convolutions", "linear", "deep")
NO_LINEAR = ("everything", "convolutions", "deep")  # the sets of an architecture without linear layers
NO_CONVOLUTION = ("everything", "linear", "deep")


def each(outcome: str, sets: tuple[str, ...] = ALL, **others: str) -> dict[str, str]:
    """What these sets of rules come to: one outcome, but for ``others``."""
    assert set(others) <= set(sets)
    return dict.fromkeys(sets, outcome) | others


def alike(kinds: dict[str, str], options: dict[str, Any], outcomes: dict[str, str]) -> dict[str, Published]:
    """Rows that differ in the class alone."""
    return {name: Published(kind, options, outcomes) for name, kind in kinds.items()}


VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40,
}  # fmt: skip
FOUR = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
UPERNET = {
    "backbone_config": transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=STAGES
    ),
    "hidden_size": 8, "pool_scales": [1, 2], "auxiliary_in_channels": 16, "auxiliary_channels": 8, "num_labels": 3,
}  # fmt: skip
DEPTH = {
    "backbone_config": transformers.Dinov2Config(
        **VIT | {"num_hidden_layers": 4}, out_features=STAGES, apply_layernorm=True, reshape_hidden_states=False
    ),
    "reassemble_hidden_size": 16, "patch_size": 8, "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8,
    "head_hidden_size": 8,
}  # fmt: skip

PUBLISHED = {
    "ResNet": Published(
        "ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"},
        each(TRACES, NO_LINEAR),
    ),
    "ResNet classifier": Published(
        "ResNetForImageClassification", {
            "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3,
        },
        each(TRACES),
    ),
    "RegNet": Published(
        "RegNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
        each(TRACES, NO_LINEAR),
    ),
    **alike(
        {"ConvNext": "ConvNextModel", "ConvNextV2": "ConvNextV2Model"},
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "drop_path_rate": 0.3},
        each(TRACES),
    ),
    "DINOv3 ConvNext": Published(
        "DINOv3ConvNextModel", {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "drop_path_rate": 0.3},
        each(TRACES),
    ),
    **alike(
        {"MobileNetV1": "MobileNetV1Model", "MobileNetV2": "MobileNetV2Model"},
        {"depth_multiplier": 0.25, "min_depth": 8}, each(TRACES, NO_LINEAR),
    ),
    **alike(
        {"MobileNetV1 padded evenly": "MobileNetV1Model", "MobileNetV2 padded evenly": "MobileNetV2Model"},
        {"depth_multiplier": 0.25, "min_depth": 8, "tf_padding": False},
        each(TRACES, NO_LINEAR),
    ),
    "EfficientNet": Published(
        "EfficientNetModel", {
            "width_coefficient": 0.25, "depth_coefficient": 0.3, "image_size": 32, "hidden_dim": 320,
            "kernel_sizes": [3, 3], "in_channels": [8, 8], "out_channels": [8, 16], "strides": [1, 2],
            "num_block_repeats": [1, 2], "expand_ratios": [1, 6], "depthwise_padding": [],
        },
        each(TRACES, NO_LINEAR),
    ),
    "PoolFormer": Published(
        "PoolFormerModel", {
            "hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "patch_sizes": [7, 3],
            "strides": [4, 2], "padding": [2, 1], "drop_path_rate": 0.3,
        },
        each(TRACES, NO_LINEAR),
    ),
    "Bit": Published(
        "BitModel", {
            "embedding_size": 8, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 4, "drop_path_rate": 0.3,
        },
        each(TRACES, NO_LINEAR),
    ),
    "LeViT": Published(
        "LevitModel", {
            "image_size": 64, "hidden_sizes": [16, 16, 16], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
            "key_dim": [4, 4, 4], "attention_ratio": [2, 2, 2], "mlp_ratio": [2, 2, 2],
        },
        each(TRACES, everything=BIASES_SET, linear=BIASES_SET),
    ),
    "CvT": Published(
        "CvtModel", {
            "embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "drop_rate": [0.0, 0.0, 0.0],
            "attention_drop_rate": [0.0, 0.0, 0.0], "mlp_ratio": [2.0, 2.0, 2.0], "depth": [1, 2, 3],
            "drop_path_rate": [0.0, 0.0, 0.3],
        },
        each(TRACES),
    ),
    "SegFormer": Published("SegformerModel", FOUR | {"decoder_hidden_size": 8}, each(TRACES)),
    "Swin": Published(
        "SwinModel", {
            "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4,
        },
        each(WINDOW, everything=WINDOW_SET, convolutions=OPTIONAL),
    ),
    "Swinv2": Published(
        "Swinv2Model", {
            "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4,
        },
        each(TRACES, linear=PADDED, deep=PADDED),
    ),
    "Swin2SR": Published(
        "Swin2SRModel", {"image_size": 16, "embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 4},
        each(TRACES, linear=PADDED),
    ),
    **alike(
        {"DINOv2": "Dinov2Model", "DINOv2 with registers": "Dinov2WithRegistersModel"}, VIT | {"drop_path_rate": 0.3},
        each(TRACES, convolutions=OPTIONAL),
    ),
    "DINOv3": Published("DINOv3ViTModel", VIT, each(TRACES, convolutions=OPTIONAL)),
    **alike(
        {
            "BEiT": "BeitModel", "Data2VecVision": "Data2VecVisionModel", "DeiT": "DeiTModel", "ViT": "ViTModel",
            "I-JEPA": "IJepaModel", "ViTMSN": "ViTMSNModel", "CLIP vision": "CLIPVisionModel",
            "SigLIP vision": "SiglipVisionModel", "AIMv2 vision": "Aimv2VisionModel", "BLIP vision": "BlipVisionModel",
        },
        VIT, each(TRACES),
    ),
    "ViT classifier": Published("ViTForImageClassification", VIT, each(TRACES, deep=OPTIONAL)),
    "ViTMAE": Published("ViTMAEModel", VIT, each(TRACES, everything=NOISE, convolutions=NOISE)),
    "ViTDet": Published(
        "VitDetModel", {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
            "pretrain_image_size": 32,
        },
        each(TRACES),
    ),
    "ViTPose": Published(
        "VitPoseBackbone", {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        each(HOOKS, convolutions=OPTIONAL),
    ),
    "Hiera": Published(
        "HieraModel", {
            "embed_dim": 8, "image_size": [64, 64], "depths": [1, 1], "num_heads": [1, 2], "query_stride": [2, 2],
            "num_query_pool": 1, "masked_unit_size": [8, 8],
        },
        each(TRACES, ("everything", "convolutions")),
    ),
    **alike(
        {"PVT": "PvtModel", "PVTv2": "PvtV2Model"}, FOUR | {"image_size": 32, "mlp_ratios": [2, 2, 2, 2]}, each(TRACES),
    ),
    "FocalNet": Published(
        "FocalNetModel", {
            "image_size": 32, "embed_dim": 8, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3],
            "hidden_sizes": [8, 16],
        },
        each(TRACES),
    ),
    "HGNetV2": Published(
        "HGNetV2ForImageClassification", {
            "embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 8, 16, 16], "stage_mid_channels": [8, 8, 8, 8],
            "stage_out_channels": [8, 16, 16, 16], "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [2, 2, 2, 2], "stage_kernel_size": [3, 3, 3, 3], "num_labels": 3,
        },
        each(TRACES),
    ),
    "TextNet": Published(
        "TextNetModel", {
            "stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 16, 16],
            "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[3, 1]], [[1, 3]]],
            "conv_layer_strides": [[1], [2], [2], [1]],
        },
        each(TRACES, NO_LINEAR),
    ),
    "DPT": Published("DPTModel", VIT, each(TRACES, linear=OPTIONAL, deep=OPTIONAL)),
    "GLPN": Published("GLPNModel", FOUR, each(TRACES)),
    "MobileViT": Published(
        "MobileViTModel", {
            "image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
            "num_attention_heads": 2,
        },
        each(TRACES),
    ),
    "MobileViTV2": Published(
        "MobileViTV2Model", {
            "image_size": 64, "width_multiplier": 0.25, "base_attn_unit_dims": [32, 32, 32], "n_attn_blocks": [1, 1, 1],
        },
        each(TRACES, NO_LINEAR),
    ),
    "UperNet": Published("UperNetForSemanticSegmentation", UPERNET, each(HOOKS, deep=TRACES)),
    "SwiftFormer": Published(
        "SwiftFormerModel", {
            "image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 16, 16], "drop_path_rate": 0.3,
        },
        each(TRACES),
    ),
    "SuperPoint": Published(
        "SuperPointForKeypointDetection", {
            "encoder_hidden_sizes": [8, 8, 8, 8], "decoder_hidden_size": 8, "descriptor_decoder_dim": 8,
        },
        each(KEYPOINTS, NO_LINEAR),
    ),
    "PPLCNet": Published("PPLCNetForImageClassification", {}, each(TRACES, linear=OPTIONAL, deep=OPTIONAL)),
    "DepthAnything": Published(
        "DepthAnythingForDepthEstimation", DEPTH, each(TRACES, everything=HOOKS, linear=HOOKS),
    ),
    "RT-DETR ResNet": Published(
        "RTDetrResNetBackbone", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        each(TRACES, NO_LINEAR),
    ),
    "YOLOS": Published("YolosModel", VIT | {"image_size": [32, 32], "num_detection_tokens": 4}, each(TRACES)),
    "SAM vision": Published(
        "SamVisionModel", {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
            "output_channels": 8, "global_attn_indexes": [0], "mlp_dim": 16, "window_size": 2,
        },
        each(TRACES),
    ),
    "DAC": Published(
        "DacModel", {
            "encoder_hidden_size": 8, "downsampling_ratios": [2, 2], "decoder_hidden_size": 16, "n_codebooks": 2,
            "codebook_size": 8, "codebook_dim": 4, "upsampling_ratios": [2, 2],
        },
        each(QUANTIZERS, ("everything", "convolutions")),
    ),
    "BERT": Published("BertModel", TEXT, each(TRACES, NO_CONVOLUTION, deep=OPTIONAL)),
    "GPT2": Published(
        "GPT2Model", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 20},
        {"everything": TRACES},
    ),
    "T5": Published(
        "T5EncoderModel", {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40},
        each(LOWEST, NO_CONVOLUTION, deep=TRACES),
    ),
    "Llama": Published(
        "LlamaModel", TEXT | {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        each(TRACES, NO_CONVOLUTION),
    ),
    "DistilBERT": Published(
        "DistilBertModel", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 40},
        each(TRACES, NO_CONVOLUTION),
    ),
    "Albert": Published("AlbertModel", TEXT | {"embedding_size": 8}, each(TRACES, NO_CONVOLUTION)),
    "Wav2Vec2": Published(
        "Wav2Vec2Model", {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
            "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
        },
        each(DROPPED, ("linear", "deep")),
    ),
    "AST (audio)": Published("ASTModel", VIT | {"max_length": 32, "num_mel_bins": 16}, each(TRACES)),
    "Whisper": Published(
        "WhisperModel", {
            "vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_source_positions": 20,
            "max_target_positions": 20, "num_mel_bins": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        each(TRACES, convolutions=OPTIONAL, deep=OPTIONAL),
    ),
    "FNet": Published(
        "FNetModel", {
            "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 40,
            "max_position_embeddings": 20,
        },
        each(TRACES, NO_CONVOLUTION),
    ),
    "Mamba": Published(
        "MambaModel", {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 40, "state_size": 4}, each(LOAD_HOOKS),
    ),
}  # fmt: skip


def halved(raw: Tensor) -> Tensor:
    return raw / 2


RULES: dict[str, dict[str, Any]] = {
    "everything": {"*": computed.function(halved)},
    "convolutions": {"*@{Conv1d,Conv2d}.weight": "spectral(bound=0.5)"},
    "linear": {"*@Linear.weight": "spectral(bound=0.5)"},
}
CASES = [(name, rules) for name, published in PUBLISHED.items() for rules in published.outcomes]
TRACED = [case for case in CASES if PUBLISHED[case[0]].outcomes[case[1]] == TRACES]
REFUSED = [case for case in CASES if case not in TRACED]
WHAT = {
    "everything": "all parameters",
    "convolutions": "all convolutions",
    "linear": "all linear layers",
    "deep": "the last layer alone",
}
ALWAYS = ("deep",)  # the set of rules of a small run

CACHING = ("GPT2", "Llama", "Whisper")
BIG_IMAGES = ("MobileNetV1", "MobileNetV2", "CvT", "SegFormer")
INPUTS: dict[str, Callable[[int], dict[str, Tensor]]] = {
    "Wav2Vec2": lambda batch: {"input_values": torch.randn(batch, 160)},
    "AST (audio)": lambda batch: {"input_values": torch.randn(batch, 32, 16)},
    "DAC": lambda batch: {"input_values": torch.randn(batch, 1, 64)},
    "Whisper": lambda batch: {
        "input_features": torch.randn(batch, 8, 40),
        "decoder_input_ids": torch.randint(3, 40, (batch, 4)),
    },
}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.ERROR, logger="surgery")
    with quiet_transformers(transformers.logging.ERROR):
        yield


def built(name: str) -> nn.Module:
    cls = getattr(transformers, PUBLISHED[name].kind)
    torch.manual_seed(0)
    return cls(cls.config_class(**copy.deepcopy(PUBLISHED[name].options))).eval()


def inputs(name: str, model: nn.Module, batch: int) -> dict[str, Tensor]:
    """Random inputs of the size that the configuration is for."""
    if name in INPUTS:
        return INPUTS[name](batch)
    if model.main_input_name == "input_ids":
        return {"input_ids": torch.randint(3, 40, (batch, 7))}
    given = PUBLISHED[name].options.get("image_size", 64 if name in BIG_IMAGES else 32)
    height = given[0] if isinstance(given, list) else given
    return {"pixel_values": torch.randn(batch, 3, height, height)}


def constants(name: str) -> dict[str, Any]:
    """Arguments beside the inputs: plain outputs, without a cache of keys and values, which no graph can return."""
    return {"return_dict": False} | ({"use_cache": False} if name in CACHING else {})


def rules_for(model: nn.Module, rules: str) -> dict[str, Any]:
    """A set of rules; "deep" is the last convolution or linear map, so that all before it is kept whole."""
    if rules != "deep":
        return RULES[rules]
    weights = (f"{name}.weight" for name, one in model.named_modules() if isinstance(one, nn.Conv2d | nn.Linear))
    return {list(weights)[-1]: "spectral(bound=0.5)"}


def not_at(size: str, rules: str) -> None:
    if size == "small" and rules not in ALWAYS:
        pytest.skip(f"{rules}: in a full run")


def run(module: nn.Module, given: dict[str, Tensor], training: bool, **constants: Any) -> list[Tensor]:
    """All tensors that come out."""
    torch.manual_seed(1)
    leaves = pytree.tree_leaves(module.train(training)(**given, **constants))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@pytest.mark.parametrize(("name", "rules"), TRACED)
def test_a_published_architecture_that_traces_does_what_the_tree_does(name: str, rules: str, size: str) -> None:
    """In training and in eval, on another batch than the example too, with the buffers that follow."""
    not_at(size, rules)
    plain = built(name)
    chosen = rules_for(plain, rules)
    example = ((), inputs(name, plain, 2) | constants(name))
    graph = surgery.apply_constraints(plain, chosen, via="fx", example=example)
    tree = surgery.apply_constraints(plain, chosen)
    assert list(graph.state_dict()) == list(tree.state_dict())
    for batch in (2, 3):
        given = inputs(name, plain, batch)
        for training in (True, False):
            found, expected = run(graph, given, training), run(tree, given, training, **constants(name))
            assert expected
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(list(graph.state_dict().values()), list(tree.state_dict().values()))


@pytest.mark.parametrize(("name", "rules"), REFUSED)
def test_a_published_architecture_that_does_not_trace_is_refused_with_its_reason(
    name: str, rules: str, size: str
) -> None:
    """By file, line and statement where one stands in the way; the model is untouched."""
    not_at(size, rules)
    plain, reason = built(name), PUBLISHED[name].outcomes[rules]
    before = copy.deepcopy(plain.state_dict())
    modules = list(plain.modules())
    example = ((), inputs(name, plain, 2) | constants(name))
    with pytest.raises(surgery.TraceRefusedError, match=re.escape(reason)) as refusal:
        surgery.apply_constraints(plain, rules_for(plain, rules), via="fx", example=example)
    if reason not in NO_PLACE:
        assert re.search(r"transformers/[\w/]+\.py:\d+: `", str(refusal.value))
    assert list(plain.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[key]) for key, tensor in plain.state_dict().items())
    assert all(map(lambda one, other: one is other, plain.modules(), modules))


def test_the_table_counts_what_traces(evidence: Callable[[str, str], None]) -> None:
    """How many of the architectures trace under each set of rules, and under any."""
    assert len(PUBLISHED) >= 50
    for rules, what in WHAT.items():
        outcomes = [published.outcomes[rules] for published in PUBLISHED.values() if rules in published.outcomes]
        count = f"{outcomes.count(TRACES)} of {len(outcomes)}"
        evidence(f"published architectures that trace by fx, {what} constrained", count)
    some = [name for name, published in PUBLISHED.items() if TRACES in published.outcomes.values()]
    evidence("published architectures that trace by fx under some of these rules", f"{len(some)} of {len(PUBLISHED)}")


def test_a_cache_is_no_output_of_a_graph():
    """As the models come, they return one; the error says of what type."""
    plain = built("GPT2")
    example = ((), inputs("GPT2", plain, 2) | {"return_dict": False})
    with pytest.raises(surgery.TraceRefusedError, match=re.escape(CACHE)):
        surgery.apply_constraints(plain, RULES["everything"], via="fx", example=example)


def test_the_class_of_an_output_is_kept():
    """A dataclass of transformers is made anew at each call; parts that are None are left out, as the library does."""
    outputs = pytest.importorskip("transformers.modeling_outputs", reason="transformers is in the extra 'examples'")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Any:
            return outputs.BaseModelOutput(last_hidden_state=self.lin(x), attentions=None)

    x = torch.randn(2, 3)
    model = Model()
    graph = surgery.apply_constraints(model, {"lin.weight": "positive"}, via="fx", example=(x,))
    tree = surgery.apply_constraints(model, {"lin.weight": "positive"})
    found = graph(x)
    assert type(found) is outputs.BaseModelOutput
    torch.testing.assert_close(found.last_hidden_state, tree(x).last_hidden_state)
    assert list(found) == ["last_hidden_state"]
