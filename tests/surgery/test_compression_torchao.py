"""Integers of ours and of torchao: which are equal, and how to hand them over exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.graph.integers import IntegerWeight
from surgery.graph.passes.integer_weights import with_integer_weights

REASON = "torchao is in the environment of `make peers`"


def both(spec: str) -> tuple[IntegerWeight, nn.Module]:
    """Our integers of a layer, and the layer baked."""
    model = nn.Sequential(nn.Linear(64, 48))
    graph = surgery.apply_constraints(model, {"0.weight": spec}, via="fx").eval()
    stored = with_integer_weights(graph).get_submodule("0.weight")
    assert isinstance(stored, IntegerWeight)
    return stored, surgery.bake(graph)


def quantised(model: nn.Module, config: Any) -> Any:
    """The weight that torchao makes of a baked layer."""
    ao = pytest.importorskip("torchao.quantization", reason=REASON)
    ao.quantize_(model, config, filter_fn=lambda module, _: isinstance(module, nn.Linear))
    return model.get_submodule("0").weight


def assert_equal_but_for_the_end(theirs: Any, ours: IntegerWeight, levels: int) -> None:
    """torchao's scale is the largest entry over ``levels + 1/2``: the end of a grid falls between two integers."""
    differs = theirs.qdata != ours.numbers
    assert not differs[ours.numbers != -levels].any()
    assert ((theirs.qdata == -levels - 1) == differs).all()
    torch.testing.assert_close(theirs.scale.reshape(ours.scale.shape), ours.scale * levels / (levels + 0.5))
    moved = torch.linalg.vector_norm(theirs.dequantize() - ours()) / torch.linalg.vector_norm(ours())
    assert float(moved) == pytest.approx(0.5 / (levels + 0.5), rel=0.05)


def test_eight_bits_by_channel_are_torchao_s_but_for_the_end_and_the_scale():
    ao = pytest.importorskip("torchao.quantization", reason=REASON)
    stored, baked = both("fake_quant(8)")
    assert_equal_but_for_the_end(quantised(baked, ao.Int8WeightOnlyConfig()), stored, 127)


def test_four_bits_by_group_are_torchao_s_but_for_the_end_and_the_scale():
    ao = pytest.importorskip("torchao.quantization", reason=REASON)
    stored, baked = both("fake_quant(4, group=32)")
    config = ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=ao.PerGroup(32))
    assert_equal_but_for_the_end(quantised(baked, config), stored, 7)


def test_with_our_scale_torchao_has_our_integers_bit_for_bit():
    ao = pytest.importorskip("torchao.quantization", reason=REASON)
    stored, baked = both("fake_quant(8)")
    layer, x = baked.get_submodule("0"), torch.randn(3, 64)
    expected = baked(x)
    theirs = ao.Int8Tensor.from_hp(layer.weight.detach(), ao.PerRow(), scale=stored.scale.unsqueeze(1))
    assert torch.equal(theirs.qdata, stored.numbers)
    assert torch.equal(theirs.dequantize(), stored())
    layer.weight = nn.Parameter(theirs, requires_grad=False)
    torch.testing.assert_close(baked(x), expected, rtol=1e-5, atol=1e-6)


def test_our_groups_of_four_bits_are_a_weight_of_torchao_bit_for_bit():
    ao = pytest.importorskip("torchao.quantization", reason=REASON)
    stored, baked = both("fake_quant(4, group=32)")
    layer, x = baked.get_submodule("0"), torch.randn(3, 64)
    expected = baked(x)
    numbers, scale = stored.numbers, stored.scale
    zeros = torch.zeros_like(scale, dtype=torch.int8)
    theirs: Tensor = ao.IntxUnpackedToInt8Tensor(numbers, scale, zeros, torch.int4, (1, 32), torch.float32, None)
    assert torch.equal(theirs.dequantize(), stored())
    layer.weight = nn.Parameter(theirs, requires_grad=False)
    torch.testing.assert_close(baked(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bits", "dtype"), [(8, torch.int8), (4, torch.int4), (2, torch.int2)])
@pytest.mark.parametrize("group", [None, 32, 8])
def test_the_whole_range_is_torchao_s_bit_for_bit(bits: int, dtype: torch.dtype, group: int | None):
    """With its mapping without clipping: integers, scales and values, from the baked weight alone."""
    ao = pytest.importorskip("torchao.quantization", reason=REASON)
    spec = f"fake_quant({bits}, narrow=False)" if group is None else f"fake_quant({bits}, group={group}, narrow=False)"
    stored, baked = both(spec)
    granularity = ao.PerAxis(0) if group is None else ao.PerGroup(group)
    mapping = ao.MappingType.SYMMETRIC_NO_CLIPPING_ERR
    config = ao.IntxWeightOnlyConfig(weight_dtype=dtype, granularity=granularity, mapping_type=mapping)
    theirs = quantised(baked, config)
    assert torch.equal(theirs.qdata, stored.numbers)
    assert torch.equal(theirs.scale.reshape(stored.scale.shape), stored.scale)
    assert torch.equal(theirs.dequantize(), stored())
