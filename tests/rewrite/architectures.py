"""Tiny published architectures whose source files the source route is tried on, and what rules say of them live.

Those that the tests of surgery build are taken from there; the others are further families: decoders, mixtures of
experts, encoders with decoders, state space models, speech, images with text, time series.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from surgery.finding import type_names
from surgery.rules.matching import Name, Names
from surgery.rules.pattern import Pattern
from tests.life import test_transformers_models as life
from tests.quiet import quiet_transformers
from tests.surgery.graph import test_published as graphs

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'examples'")

Inputs = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """A class of transformers, options of its configuration, and inputs where they are known."""

    kind: str
    options: Mapping[str, Any] = field(repr=False)
    inputs: Inputs | None = field(default=None, repr=False)

    @property
    def model_class(self) -> Any:
        """The class."""
        return getattr(transformers, self.kind)

    def build(self, seed: int = 0, model_class: Any = None) -> nn.Module:
        """A new model, in eval mode, of the class or of one that stands for it; always the same for a seed."""
        options = copy.deepcopy(dict(self.options))  # a configuration keeps and completes what it is given
        torch.manual_seed(seed)
        with quiet_transformers(transformers.logging.ERROR):
            model: nn.Module = (model_class or self.model_class)(self.model_class.config_class(**options))
        return model.eval()


def ids() -> dict[str, Tensor]:
    """Tokens."""
    return {"input_ids": torch.tensor([[3, 7, 9, 4, 12, 11, 8, 6], [5, 3, 8, 21, 6, 4, 30, 9]])}


def both() -> dict[str, Tensor]:
    """Tokens for an encoder and for a decoder."""
    return ids() | {"decoder_input_ids": ids()["input_ids"][:, :4]}


def sound() -> dict[str, Tensor]:
    """A wave."""
    return {"input_values": torch.linspace(-1, 1, 2 * 160).sin().view(2, 160)}


def picture() -> dict[str, Tensor]:
    """Two images."""
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)}


def captioned() -> dict[str, Tensor]:
    """Two images and tokens."""
    return ids() | picture()


def video() -> dict[str, Tensor]:
    """Two films of four frames."""
    return {"pixel_values": torch.linspace(-1, 1, 2 * 4 * 3 * 32 * 32).view(2, 4, 3, 32, 32)}


def features(name: str, *shape: int) -> Inputs:
    """One tensor under a name."""
    return lambda: {name: torch.linspace(-1, 1, torch.Size(shape).numel()).sin().view(shape)}


TEXT = graphs.TEXT
VIT = graphs.VIT
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHORT = TEXT | {"max_position_embeddings": 20}
DECODER = TEXT | TOKENS | {"num_key_value_heads": 1, "head_dim": 8}
TWO_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
LOCAL_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
GPT = life.GPT2
T5 = life.T5 | {"num_layers": 2}
BART = life.BART | TOKENS | {"decoder_start_token_id": 1, "max_position_embeddings": 20}
SPEECH = life.SPEECH
CAPTIONS = SHORT | {"eos_token_id": 2}
WINDOWS = {
    "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4,
}  # fmt: skip
FORECAST = {
    "prediction_length": 4, "context_length": 4, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
    "lags_sequence": [1],
}  # fmt: skip
PATCHES = {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "d_model": 8}


def _published() -> dict[str, Architecture]:
    """Those that the tests of graphs build, without the few whose inputs or names alone differ."""
    left_out = ("PPLCNet", "MobileNetV1 padded evenly", "MobileNetV2 padded evenly")  # the first has 1.7M parameters
    found = {}
    for name, published in graphs.PUBLISHED.items():
        if name not in left_out:
            found[name] = Architecture(published.kind, published.options, _inputs_of(name, published.kind))
    return found


def _inputs_of(name: str, kind: str) -> Inputs:
    def made() -> dict[str, Tensor]:
        torch.manual_seed(1)
        return graphs.inputs(name, getattr(transformers, kind), 2)

    return made


def _life() -> dict[str, Architecture]:
    """Those of the tests of a model's life that the tests of graphs have not."""
    have = {published.kind for published in graphs.PUBLISHED.values()}
    return {
        kind if name in graphs.PUBLISHED else name: Architecture(kind, options, lambda inputs=inputs: dict(inputs))
        for name, (kind, options, inputs) in life.ARCHITECTURES.items()
        if kind not in have
    }


DECODERS = {
    "Bert with a head": Architecture("BertForMaskedLM", TEXT, ids),
    "GPT2 with a head": Architecture("GPT2LMHeadModel", GPT | {"bos_token_id": 1, "eos_token_id": 2}, ids),
    "Gemma": Architecture("GemmaModel", DECODER, ids),
    "Gemma2": Architecture("Gemma2Model", DECODER, ids),
    "Qwen2": Architecture("Qwen2Model", DECODER, ids),
    "Qwen3": Architecture("Qwen3Model", DECODER, ids),
    "Phi": Architecture("PhiModel", DECODER, ids),
    "Phi3": Architecture("Phi3ForCausalLM", DECODER, ids),
    "StableLM": Architecture("StableLmModel", DECODER, ids),
    "OLMo": Architecture("OlmoModel", DECODER, ids),
    "Cohere": Architecture("CohereModel", DECODER, ids),
    "Starcoder2": Architecture("Starcoder2Model", DECODER, ids),
    "Persimmon": Architecture("PersimmonModel", TEXT, ids),
    "Nemotron": Architecture("NemotronModel", DECODER, ids),
    "GLM": Architecture("GlmModel", DECODER, ids),
    "GPTNeoX": Architecture("GPTNeoXModel", TEXT, ids),
    "GPTNeo": Architecture(
        "GPTNeoModel", {
            "hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
            "vocab_size": 40, "max_position_embeddings": 20, "window_size": 4,
        },
        ids,
    ),
    "GPTJ": Architecture("GPTJModel", GPT | {"rotary_dim": 4}, ids),
    "CodeGen": Architecture("CodeGenModel", GPT | {"n_head": 4, "rotary_dim": 4, "n_ctx": 20}, ids),
    "GPTBigCode": Architecture("GPTBigCodeModel", GPT, ids),
    "OpenAIGPT": Architecture("OpenAIGPTModel", GPT, ids),
    "CTRL": Architecture("CTRLModel", GPT | {"dff": 32}, ids),
    "BLOOM": Architecture("BloomModel", {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40}, ids),
    "MPT": Architecture(
        "MptModel",
        {"d_model": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 40, "max_seq_len": 20, "expansion_ratio": 2}, ids,
    ),
    "Falcon": Architecture("FalconModel", TEXT, ids),
    "XGLM": Architecture(
        "XGLMModel", {
            "d_model": 16, "ffn_dim": 32, "num_layers": 2, "attention_heads": 2, "vocab_size": 40,
            "max_position_embeddings": 20,
        },
        ids,
    ),
    "BioGPT": Architecture("BioGptModel", SHORT, ids),
    "Bark": Architecture(
        "BarkSemanticModel", {
            "hidden_size": 16, "num_layers": 1, "num_heads": 2, "input_vocab_size": 40, "output_vocab_size": 40,
            "block_size": 20,
        },
        ids,
    ),
}  # fmt: skip

EXPERTS = {
    "Mixtral": Architecture("MixtralModel", DECODER | LOCAL_EXPERTS, ids),
    "Qwen2MoE": Architecture(
        "Qwen2MoeModel",
        DECODER | TWO_EXPERTS | {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}, ids,
    ),
    "Qwen3MoE": Architecture("Qwen3MoeModel", DECODER | TWO_EXPERTS | {"moe_intermediate_size": 8}, ids),
    "OLMoE": Architecture("OlmoeModel", DECODER | TWO_EXPERTS, ids),
    "GraniteMoE": Architecture("GraniteMoeModel", DECODER | LOCAL_EXPERTS, ids),
    "GPT-OSS": Architecture("GptOssModel", DECODER | LOCAL_EXPERTS, ids),
    "DeepseekV2": Architecture(
        "DeepseekV2Model", TEXT | {
            "num_key_value_heads": 2, "kv_lora_rank": 4, "q_lora_rank": 4, "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 2, "num_experts_per_tok": 1,
            "moe_intermediate_size": 8, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
            "n_shared_experts": 1,
        },
        ids,
    ),
    "SwitchTransformers": Architecture(
        "SwitchTransformersModel", T5 | {
            "num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_decoder_layers": 2,
        },
        both,
    ),
    "NLLB-MoE": Architecture(
        "NllbMoeModel", BART | {
            "num_experts": 2, "encoder_layers": 2, "decoder_layers": 2, "encoder_sparse_step": 2,
            "decoder_sparse_step": 2, "expert_capacity": 4,
        },
        both,
    ),
}  # fmt: skip

ENCODERS = {
    "Electra": Architecture("ElectraModel", SHORT | {"embedding_size": 8}, ids),
    "DeBERTa": Architecture("DebertaModel", TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, ids),
    "MPNet": Architecture("MPNetModel", TEXT, ids),
    "RoFormer": Architecture("RoFormerModel", TEXT | {"embedding_size": 16}, ids),
    "XLMRoberta": Architecture("XLMRobertaModel", TEXT, ids),
    "Camembert with a head": Architecture("CamembertForMaskedLM", TEXT, ids),
    "MobileBERT": Architecture(
        "MobileBertModel", TEXT | {
            "embedding_size": 8, "intra_bottleneck_size": 8, "intermediate_size": 16, "true_hidden_size": 8,
        },
        ids,
    ),
    "SqueezeBERT": Architecture(
        "SqueezeBertModel", TEXT | {
            "embedding_size": 16, "q_groups": 2, "k_groups": 2, "v_groups": 2, "post_attention_groups": 1,
            "intermediate_groups": 2, "output_groups": 2,
        },
        ids,
    ),
    "ConvBERT": Architecture("ConvBertModel", TEXT | {"embedding_size": 16}, ids),
    "Funnel": Architecture(
        "FunnelModel", {
            "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32,
            "vocab_size": 40,
        },
        ids,
    ),
    "XLNet": Architecture(
        "XLNetModel", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "vocab_size": 40}, ids,
    ),
    "XLM": Architecture(
        "XLMModel", {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "n_words": 40, "max_position_embeddings": 20}, ids,
    ),
    "Longformer": Architecture("LongformerModel", SHORT | {"attention_window": 4}, ids),
    "BigBird": Architecture("BigBirdModel", SHORT | {"attention_type": "original_full"}, ids),
    "Nystromformer": Architecture("NystromformerModel", SHORT),
    "YOSO": Architecture("YosoModel", SHORT),
    "MRA": Architecture("MraModel", TEXT),
    "Reformer": Architecture(
        "ReformerModel", {
            "hidden_size": 16, "num_attention_heads": 2, "attention_head_size": 8, "feed_forward_size": 32,
            "vocab_size": 40, "axial_pos_shape": [4, 4], "axial_pos_embds_dim": [8, 8],
            "attn_layers": ["local", "lsh"], "num_buckets": 2,
        },
    ),
    "Canine": Architecture(
        "CanineModel", {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "num_hash_buckets": 32, "num_hash_functions": 2, "max_position_embeddings": 32,
        },
    ),
    "LayoutLM": Architecture("LayoutLMModel", TEXT | {"max_2d_position_embeddings": 32}, ids),
    "LayoutLMv3": Architecture(
        "LayoutLMv3Model", VIT | TEXT | {
            "max_2d_position_embeddings": 32, "coordinate_size": 2, "shape_size": 4, "input_size": 32,
            "max_position_embeddings": 40,
        },
    ),
    "MarkupLM": Architecture("MarkupLMModel", TEXT | {"max_depth": 4, "xpath_unit_hidden_size": 4}),
    "TAPAS": Architecture("TapasModel", TEXT),
    "IBERT": Architecture("IBertModel", TEXT, ids),
    "ERNIE": Architecture("ErnieModel", TEXT, ids),
    "ModernBERT": Architecture("ModernBertModel", TEXT | TOKENS | {"cls_token_id": 1, "sep_token_id": 2}, ids),
    "DPR": Architecture("DPRQuestionEncoder", TEXT, ids),
    "Splinter": Architecture("SplinterModel", TEXT, ids),
    "LUKE": Architecture("LukeModel", TEXT | {"entity_vocab_size": 20, "entity_emb_size": 8}, ids),
    "ESM": Architecture(
        "EsmModel", SHORT | {
            "pad_token_id": 1, "mask_token_id": 3, "position_embedding_type": "rotary",
            "emb_layer_norm_before": False,
        },
        ids,
    ),
}  # fmt: skip

ENCODERS_WITH_DECODERS = {
    "Bart with a head": Architecture("BartForConditionalGeneration", BART, both),
    "Marian": Architecture("MarianModel", BART, both),
    "Pegasus": Architecture("PegasusModel", BART, both),
    "MBart": Architecture("MBartModel", BART, both),
    "BlenderbotSmall": Architecture("BlenderbotSmallModel", BART, both),
    "Blenderbot": Architecture("BlenderbotModel", BART, both),
    "M2M100": Architecture("M2M100Model", BART, both),
    "PLBart": Architecture("PLBartModel", BART, both),
    "MVP": Architecture("MvpModel", BART, both),
    "LED": Architecture(
        "LEDModel", BART | {
            "attention_window": 4, "max_encoder_position_embeddings": 20, "max_decoder_position_embeddings": 20,
        },
        both,
    ),
    "BigBirdPegasus": Architecture("BigBirdPegasusModel", BART | {"attention_type": "original_full"}, both),
    "ProphetNet": Architecture(
        "ProphetNetModel", {
            "hidden_size": 16, "num_encoder_layers": 1, "num_decoder_layers": 1, "num_encoder_attention_heads": 2,
            "num_decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 40,
            "max_position_embeddings": 20,
        },
        both,
    ),
    "LongT5": Architecture("LongT5Model", T5 | {"local_radius": 3}, both),
    "mT5": Architecture("MT5Model", T5, both),
    "UMT5": Architecture("UMT5Model", T5, both),
    "TrOCR": Architecture(
        "TrOCRForCausalLM", {
            "d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32,
            "vocab_size": 40, "max_position_embeddings": 20,
        },
        ids,
    ),
}  # fmt: skip

STATE_SPACES = {
    "RWKV": Architecture(
        "RwkvModel", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "context_length": 16}, ids,
    ),
    "Mamba2": Architecture(
        "Mamba2Model", {
            "hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "state_size": 4, "num_heads": 4,
            "head_dim": 8, "n_groups": 1, "chunk_size": 4,
        },
        ids,
    ),
    "FalconMamba": Architecture(
        "FalconMambaModel", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "state_size": 4}, ids,
    ),
    "RecurrentGemma": Architecture(
        "RecurrentGemmaModel", TEXT | {"num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 4}, ids,
    ),
    "Jamba": Architecture(
        "JambaModel", DECODER | TWO_EXPERTS | {
            "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
            "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
        },
        ids,
    ),
}  # fmt: skip

SPEECHES = {
    "HuBERT": Architecture("HubertModel", SPEECH, sound),
    "WavLM": Architecture("WavLMModel", SPEECH, sound),
    "UniSpeech": Architecture("UniSpeechModel", SPEECH, sound),
    "Data2VecAudio": Architecture(
        "Data2VecAudioModel", SPEECH | {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 1}, sound,
    ),
    "SEW": Architecture("SEWModel", SPEECH | {"squeeze_factor": 1}, sound),
    "Wav2Vec2Conformer": Architecture(
        "Wav2Vec2ConformerModel", SPEECH | {"conv_depthwise_kernel_size": 3}, sound,
    ),
    "Wav2Vec2BERT": Architecture(
        "Wav2Vec2BertModel", {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
            "feature_projection_input_dim": 8, "conv_depthwise_kernel_size": 3,
        },
        features("input_features", 2, 12, 8),
    ),
    "Speech2Text": Architecture(
        "Speech2TextModel", BART | {
            "num_conv_layers": 1, "conv_kernel_sizes": [3], "conv_channels": 8, "input_feat_per_channel": 8,
            "max_source_positions": 20, "max_target_positions": 20,
        },
        lambda: features("input_features", 2, 12, 8)() | {"decoder_input_ids": ids()["input_ids"]},
    ),
    "SpeechT5": Architecture(
        "SpeechT5ForTextToSpeech", BART | {
            "hidden_size": 16, "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2),
            "num_feat_extract_layers": 2, "speech_decoder_prenet_units": 8, "speech_decoder_postnet_units": 8,
            "num_mel_bins": 8, "speaker_embedding_dim": 8, "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2, "encoder_max_relative_position": 8, "max_speech_positions": 40,
            "max_text_positions": 40,
        },
    ),
    "EnCodec": Architecture(
        "EncodecModel", {
            "num_filters": 4, "hidden_size": 8, "num_residual_layers": 1, "upsampling_ratios": [2, 2],
            "codebook_size": 8, "codebook_dim": 8, "num_lstm_layers": 1,
        },
        features("input_values", 2, 1, 64),
    ),
    "Mimi": Architecture(
        "MimiModel", {
            "num_filters": 4, "hidden_size": 8, "upsampling_ratios": [2, 2], "codebook_size": 8, "codebook_dim": 4,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 8,
            "vector_quantization_hidden_dimension": 4, "head_dim": 4, "num_quantizers": 2,
            "num_semantic_quantizers": 1, "frame_rate": 6000.0, "upsample_groups": 8,
        },
    ),
    "VITS": Architecture(
        "VitsModel", {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "flow_size": 8,
            "spectrogram_bins": 9, "upsample_initial_channel": 8, "upsample_rates": [2, 2],
            "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]],
            "prior_encoder_num_flows": 1, "prior_encoder_num_wavenet_layers": 1,
            "posterior_encoder_num_wavenet_layers": 1, "duration_predictor_num_flows": 2,
            "depth_separable_num_layers": 1, "vocab_size": 40,
        },
    ),
    "UnivNet": Architecture(
        "UnivNetModel", {
            "model_in_channels": 4, "model_hidden_channels": 4, "num_mel_bins": 8, "resblock_kernel_sizes": [3],
            "resblock_stride_sizes": [2], "resblock_dilation_sizes": [[1, 3]], "kernel_predictor_num_blocks": 1,
            "kernel_predictor_hidden_channels": 4,
        },
    ),
    "HiFiGAN": Architecture(
        "SpeechT5HifiGan", {
            "model_in_dim": 8, "upsample_initial_channel": 8, "upsample_rates": [2, 2],
            "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
        },
        features("spectrogram", 2, 6, 8),
    ),
    "FastSpeech2": Architecture(
        "FastSpeech2ConformerModel", {
            "hidden_size": 16, "vocab_size": 40, "num_mel_bins": 8, "encoder_num_attention_heads": 2,
            "encoder_layers": 1, "encoder_linear_units": 16, "decoder_layers": 1, "decoder_num_attention_heads": 2,
            "decoder_linear_units": 16, "speech_decoder_postnet_units": 8, "speech_decoder_postnet_layers": 2,
            "pitch_predictor_channels": 8, "energy_predictor_channels": 8, "duration_predictor_channels": 8,
            "speaker_embed_dim": None,
        },
    ),
    "Moonshine": Architecture(
        "MoonshineModel", TOKENS | {
            "hidden_size": 16, "intermediate_size": 16, "encoder_num_hidden_layers": 1,
            "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
            "vocab_size": 40,
        },
    ),
    "Musicgen": Architecture(
        "MusicgenForCausalLM", {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "vocab_size": 40,
            "num_codebooks": 2,
        },
    ),
    "CLAP": Architecture(
        "ClapAudioModel", {
            "spec_size": 32, "patch_size": 4, "patch_stride": [4, 4], "num_mel_bins": 8,
            "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "window_size": 4,
            "hidden_size": 16,
        },
    ),
}  # fmt: skip

IMAGES_WITH_TEXT = {
    "CLIP": Architecture(
        "CLIPModel", {"text_config": CAPTIONS, "vision_config": VIT, "projection_dim": 8}, captioned,
    ),
    "SigLIP": Architecture(
        "SiglipModel", {"text_config": SHORT | {"projection_size": 16}, "vision_config": VIT}, captioned,
    ),
    "CLIPSeg": Architecture(
        "CLIPSegForImageSegmentation", {
            "text_config": CAPTIONS, "vision_config": VIT, "projection_dim": 16, "extract_layers": [0, 1],
            "reduce_dim": 8, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 16,
        },
        captioned,
    ),
    "OWLViT": Architecture(
        "OwlViTModel", {"text_config": SHORT, "vision_config": VIT, "projection_dim": 8}, captioned,
    ),
    "GroupViT": Architecture(
        "GroupViTModel", {
            "text_config": CAPTIONS,
            "vision_config": VIT | {
                "depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 2],
                "num_hidden_layers": 3,
            },
            "projection_dim": 8, "projection_intermediate_dim": 8,
        },
    ),
    "BLIP": Architecture(
        "BlipModel", {
            "text_config": SHORT | TOKENS | {"encoder_hidden_size": 16, "sep_token_id": 2}, "vision_config": VIT,
            "projection_dim": 8,
        },
        captioned,
    ),
    "AltCLIP": Architecture(
        "AltCLIPModel", {"text_config": SHORT | {"project_dim": 8}, "vision_config": VIT, "projection_dim": 8},
        captioned,
    ),
    "ViLT": Architecture("ViltModel", SHORT | {"image_size": 32, "patch_size": 8}, captioned),
    "VisualBERT": Architecture("VisualBertModel", TEXT | {"visual_embedding_dim": 8}, ids),
    "LXMERT": Architecture(
        "LxmertModel", {
            "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40, "l_layers": 1,
            "x_layers": 1, "r_layers": 1, "visual_feat_dim": 8,
        },
    ),
    "FLAVA": Architecture(
        "FlavaModel", {
            "image_config": VIT, "text_config": TEXT, "hidden_size": 16, "projection_dim": 8,
            "multimodal_config": {name: value for name, value in TEXT.items() if name != "vocab_size"},
        },
    ),
    "LLaVA": Architecture(
        "LlavaModel", {
            "vision_config": VIT | {"model_type": "clip_vision_model"},
            "text_config": DECODER | {"model_type": "llama"}, "vision_feature_layer": -1, "image_token_index": 39,
        },
        ids,
    ),
    "GIT": Architecture("GitModel", SHORT | {"vision_config": VIT}, captioned),
}  # fmt: skip

OTHERS = {
    "VideoMAE": Architecture("VideoMAEModel", VIT | {"num_frames": 4}, video),
    "TimeSformer": Architecture("TimesformerModel", VIT | {"num_frames": 4}, video),
    "ViViT": Architecture(
        "VivitModel", {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "image_size": 32, "num_frames": 4, "tubelet_size": [2, 8, 8],
        },
        video,
    ),
    "MaskFormerSwin": Architecture("MaskFormerSwinModel", WINDOWS, picture),
    "DonutSwin": Architecture("DonutSwinModel", WINDOWS, picture),
    "DETR": Architecture(
        "DetrModel", {
            "backbone_config": transformers.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
            ),
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 4,
        },
        picture,
    ),
    "ImageGPT": Architecture("ImageGPTModel", GPT, ids),
    "Perceiver": Architecture(
        "PerceiverModel", {
            "num_latents": 4, "d_latents": 16, "d_model": 8, "num_blocks": 1, "num_self_attends_per_block": 1,
            "num_self_attention_heads": 2, "num_cross_attention_heads": 2,
        },
        features("inputs", 2, 6, 8),
    ),
    "DecisionTransformer": Architecture(
        "DecisionTransformerModel",
        {"state_dim": 4, "act_dim": 2, "hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": 20},
    ),
    "PatchTST": Architecture(
        "PatchTSTModel", PATCHES | {"num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 8},
        features("past_values", 2, 16, 2),
    ),
    "PatchTSMixer": Architecture("PatchTSMixerModel", PATCHES | {"num_layers": 1}, features("past_values", 2, 16, 2)),
    "TimeSeriesTransformer": Architecture("TimeSeriesTransformerModel", FORECAST),
    "Autoformer": Architecture("AutoformerModel", FORECAST | {"label_length": 2, "moving_average": 3}),
}  # fmt: skip


FAMILIES: dict[str, dict[str, Architecture]] = {
    "published": _published(),
    "life": _life(),
    "decoders": DECODERS,
    "experts": EXPERTS,
    "encoders": ENCODERS,
    "encoders with decoders": ENCODERS_WITH_DECODERS,
    "state spaces": STATE_SPACES,
    "speech": SPEECHES,
    "images with text": IMAGES_WITH_TEXT,
    "images, films, series": OTHERS,
}
ARCHITECTURES: dict[str, Architecture] = {name: each for family in FAMILIES.values() for name, each in family.items()}

RULES = (
    "*.conv*.weight",
    "*.query.weight",
    "*@Linear.weight",
    "encoder.*.weight",
    "*.0.weight",
    "*.weight",
    "*.bias",
    "*@{Conv1d,Conv2d}.weight",
    "*.{q,k,v}_proj.weight",
    "*.layers.0.*.weight",
    "*norm*.weight",
    "*.embed*.weight",
)


def outputs(name: str, model: nn.Module) -> list[Tensor] | None:
    """All tensors that a model of an architecture returns for its inputs; None where no inputs are known."""
    inputs = ARCHITECTURES[name].inputs
    if inputs is None:
        return None
    given = inputs()
    torch.manual_seed(1)  # some draw random numbers in eval mode too
    with torch.no_grad(), quiet_transformers(transformers.logging.ERROR):
        return [leaf for leaf in tree_leaves(model(**given)) if isinstance(leaf, Tensor)]


def build(name: str, seed: int = 0) -> nn.Module:
    """The model of an architecture, always the same for a seed."""
    return ARCHITECTURES[name].build(seed)


def modeling_file(name: str) -> Path:
    """The file that defines the class of an architecture."""
    file = sys.modules[ARCHITECTURES[name].model_class.__module__].__file__
    assert file is not None
    return Path(file)


def live_names(model: nn.Module) -> list[Name]:
    """Every dotted name of every parameter, then of every buffer, as rules see it."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def seen(name: str, *, buffer: bool) -> Name:
        return Name(name, type_names(modules[name.rpartition(".")[0]]), buffer)

    parameters = [seen(name, buffer=False) for name, _ in model.named_parameters(remove_duplicate=False)]
    return parameters + [seen(name, buffer=True) for name, _ in model.named_buffers(remove_duplicate=False)]


def truth(model: nn.Module, pattern: str) -> dict[str, bool]:
    """For every dotted name of a live model, parameters first, whether the pattern matches it."""
    names = live_names(model)
    matched = set(Names(names).matched(Pattern.parse(pattern)))
    return {name.text: row in matched for row, name in enumerate(names)}
