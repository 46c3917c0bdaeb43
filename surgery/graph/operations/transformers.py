"""torch's Transformer family, written with the operations that its layers are made of.

Their own forwards choose between a fused inference path and this one by what the inputs are. Masks go to attention as
they are given, which brings both kinds into one form itself. A mask is not searched for being causal: ``is_causal`` is
what the caller says, and only decides on the kernel.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

Value = Any  # a Tensor, or the proxy of one


def encoder_layer(
    layer: nn.TransformerEncoderLayer,
    src: Value,
    src_mask: Value = None,
    src_key_padding_mask: Value = None,
    is_causal: bool = False,
) -> Value:
    """`nn.TransformerEncoderLayer`, by the path that trains."""

    def attend(x: Value) -> Value:
        attended = layer.self_attn(
            x,
            x,
            x,
            attn_mask=src_mask,
            key_padding_mask=src_key_padding_mask,
            need_weights=False,
            is_causal=is_causal,
        )
        return layer.dropout1(attended[0])

    if layer.norm_first:
        x = src + attend(layer.norm1(src))
        return x + _fed_forward(layer, layer.norm2(x), layer.dropout2)
    x = layer.norm1(src + attend(src))
    return layer.norm2(x + _fed_forward(layer, x, layer.dropout2))


def encoder(
    stack: nn.TransformerEncoder,
    src: Value,
    mask: Value = None,
    src_key_padding_mask: Value = None,
    is_causal: bool | None = None,
) -> Value:
    """`nn.TransformerEncoder`: its layers one after the other."""
    for layer in stack.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(is_causal))
    return src if stack.norm is None else stack.norm(src)


def decoder_layer(
    layer: nn.TransformerDecoderLayer,
    tgt: Value,
    memory: Value,
    tgt_mask: Value = None,
    memory_mask: Value = None,
    tgt_key_padding_mask: Value = None,
    memory_key_padding_mask: Value = None,
    tgt_is_causal: bool = False,
    memory_is_causal: bool = False,
) -> Value:
    """`nn.TransformerDecoderLayer`: attention to itself, to the memory, and a network on each position."""

    def attend(x: Value) -> Value:
        settings = {"attn_mask": tgt_mask, "key_padding_mask": tgt_key_padding_mask, "is_causal": tgt_is_causal}
        return layer.dropout1(layer.self_attn(x, x, x, need_weights=False, **settings)[0])

    def remember(x: Value) -> Value:
        settings = {
            "attn_mask": memory_mask,
            "key_padding_mask": memory_key_padding_mask,
            "is_causal": memory_is_causal,
        }
        return layer.dropout2(layer.multihead_attn(x, memory, memory, need_weights=False, **settings)[0])

    if layer.norm_first:
        x = tgt + attend(layer.norm1(tgt))
        x = x + remember(layer.norm2(x))
        return x + _fed_forward(layer, layer.norm3(x), layer.dropout3)
    x = layer.norm1(tgt + attend(tgt))
    x = layer.norm2(x + remember(x))
    return layer.norm3(x + _fed_forward(layer, x, layer.dropout3))


def decoder(
    stack: nn.TransformerDecoder,
    tgt: Value,
    memory: Value,
    tgt_mask: Value = None,
    memory_mask: Value = None,
    tgt_key_padding_mask: Value = None,
    memory_key_padding_mask: Value = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Value:
    """`nn.TransformerDecoder`: its layers one after the other."""
    for layer in stack.layers:
        tgt = layer(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=bool(tgt_is_causal),
            memory_is_causal=memory_is_causal,
        )
    return tgt if stack.norm is None else stack.norm(tgt)


def transformer(
    model: nn.Transformer,
    src: Value,
    tgt: Value,
    src_mask: Value = None,
    tgt_mask: Value = None,
    memory_mask: Value = None,
    src_key_padding_mask: Value = None,
    tgt_key_padding_mask: Value = None,
    memory_key_padding_mask: Value = None,
    src_is_causal: bool | None = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Value:
    """`nn.Transformer`: the encoder's output is the decoder's memory."""
    memory = model.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
    return model.decoder(
        tgt,
        memory,
        tgt_mask=tgt_mask,
        memory_mask=memory_mask,
        tgt_key_padding_mask=tgt_key_padding_mask,
        memory_key_padding_mask=memory_key_padding_mask,
        tgt_is_causal=tgt_is_causal,
        memory_is_causal=memory_is_causal,
    )


def _fed_forward(layer: Any, x: Value, last: Callable[[Value], Value]) -> Value:
    hidden = layer.dropout(layer.activation(layer.linear1(x)))
    return last(layer.linear2(hidden))
