"""Decoders and whole transformers, and attention without gradients: as plain twins that hold the values.

The twins and their formulas are those of test_recurrent_and_attention.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgery
from tests.computed.identity import Counting
from tests.life.test_recurrent_and_attention import (
    FORMULAS,
    assert_equal_to_the_twin,
    constrained_pair,
    counted,
    counts,
)

CAUSAL = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
PADDED = torch.tensor([[False, False, False], [False, False, True]])


def layer(**options: object) -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True, **options)


def decode(model: nn.Module, x: Tensor) -> list[Tensor]:
    """With a causal mask and padding of what is attended to, and bare."""
    memory = x[:, :3].tanh()
    return [model(x, memory, tgt_mask=CAUSAL, memory_key_padding_mask=PADDED), model(x, memory)]


def translate(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [model(x[:, :3], x, tgt_mask=CAUSAL, src_key_padding_mask=PADDED), model(x[:, 1:], x)]


DECODERS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], list[Tensor]]]] = {
    "layer": (layer, decode),
    "layer, norm first, gelu": (lambda: layer(norm_first=True, activation="gelu"), decode),
    "layer, no bias": (lambda: layer(bias=False), decode),
    "decoder": (lambda: nn.TransformerDecoder(layer(), 2, norm=nn.LayerNorm(8)), decode),
    "transformer": (lambda: nn.Transformer(8, 2, 1, 2, 12, dropout=0.0, batch_first=True), translate),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spec", FORMULAS)
@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_equal_their_twins(kind: str, spec: str, training: bool) -> None:
    """Outputs, and gradients of all raws and of all that stayed plain, in both modes."""
    build, run = DECODERS[kind]
    model, twin = constrained_pair(build(), spec)
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    assert_equal_to_the_twin(model.train(training), twin.train(training), spec, run, x)


@pytest.mark.parametrize("kind", DECODERS)
def test_each_weight_of_a_decoder_is_evaluated_once(kind: str) -> None:
    """In a step, and in as many inferences as there are."""
    build, run = DECODERS[kind]
    model, x = counted(build().double()), torch.randn(2, 4, 8, dtype=torch.float64)
    sum(output.square().sum() for output in run(model, x)).backward()
    assert counts(model) == {1}
    model.eval()
    with torch.no_grad():
        for _ in range(3):
            run(model, x)
    assert counts(model) == {1}


ATTENTIONS: dict[str, Callable[[], nn.MultiheadAttention]] = {
    "batch first": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "time first": lambda: nn.MultiheadAttention(8, 2),
    "no bias": lambda: nn.MultiheadAttention(8, 2, bias=False, batch_first=True),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("weights", [True, False], ids=["with weights", "without weights"])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_without_gradients_equals_the_fused_path_of_the_twin(
    kind: str, weights: bool, mode: Callable[[], object]
) -> None:
    """Self-attention in eval, for which torch has a fused path: on for the twin, off for ours, on again when baked."""
    assert torch.backends.mha.get_fastpath_enabled()
    twin = ATTENTIONS[kind]().eval()
    model = surgery.apply_constraints(copy.deepcopy(twin), {"*.{in_proj_weight,weight}": Counting()}).eval()
    with torch.no_grad():
        for name, weight in surgery.computed_parameters(model).items():
            twin.get_parameter(name).copy_(weight)
    assert len(surgery.computed_parameters(model)) > 0
    x = torch.randn(2, 4, 8)
    with mode():
        expected = twin(x, x, x, need_weights=weights)
        for one, other in zip(model(x, x, x, need_weights=weights), expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        surgery.bake(model)
        again = model(x, x, x, need_weights=weights)
    assert all(one is None or torch.equal(one, other) for one, other in zip(again, expected, strict=True))
