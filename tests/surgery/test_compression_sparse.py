"""What zeros are good for: 2:4 is what torch packs; masks leave shapes as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass as packed,
)
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_to_dense_cutlass as unpacked,
)

import surgery
from computed.constraints.masks import Mask

HALVES = [torch.float16, torch.bfloat16]


def baked(dtype: torch.dtype) -> Tensor:
    """The weight of a layer that was trained sparse, and baked."""
    model = surgery.apply_constraints(nn.Linear(128, 64).to(dtype), {"weight": "n_m(2, 4)"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 128, dtype=dtype)).square().mean().backward()
        optimizer.step()
    return surgery.bake(model).weight.detach()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_baked_weight_is_packed_and_unpacked_bit_for_bit(dtype: torch.dtype):
    weight = baked(dtype)
    assert ((weight.reshape(64, 32, 4) != 0).sum(-1) == 2).all()
    kept, places = packed(weight)
    assert kept.shape == (64, 64)
    assert torch.equal(unpacked(kept, places), weight)
    assert kept.nbytes + places.nbytes == weight.nbytes * 9 // 16  # two of four numbers, and two bits for each


@pytest.mark.parametrize("dtype", HALVES)
def test_a_weight_with_three_of_four_would_not_come_back(dtype: torch.dtype):
    """What the packing is worth as a truth: it drops what the pattern has no room for."""
    weight = baked(dtype).clone()
    weight[0, :4] = 1
    assert not torch.equal(unpacked(*packed(weight)), weight)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.sparse.to_sparse_semi_structured needs CUDA")
@pytest.mark.parametrize("dtype", HALVES)
def test_torch_takes_a_baked_weight_as_semi_structured(dtype: torch.dtype):
    weight = baked(dtype).cuda()
    sparse = to_sparse_semi_structured(weight)
    assert torch.equal(sparse.to_dense(), weight)
    x = torch.randn(128, 128, dtype=dtype, device="cuda")
    torch.testing.assert_close(nn.functional.linear(x, sparse), nn.functional.linear(x, weight), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("dim", "kept"), [(0, (5, 8, 3, 3)), (1, (16, 2, 3, 3))])
def test_a_structured_mask_zeroes_slices_and_shrinks_nothing(dim: int, kept: tuple[int, ...]):
    model, x = nn.Conv2d(8, 16, 3), torch.randn(2, 8, 6, 6)
    surgery.apply_constraints(model, {"weight": f"mask(0.7, dim={dim})"})
    output = model.eval()(x)
    surgery.bake(model)
    assert model.weight.shape == (16, 8, 3, 3)
    assert (model.out_channels, model.in_channels) == (16, 8)
    lengths = model.weight.detach().movedim(dim, 0).flatten(1).norm(dim=1)
    assert int((lengths > 0).sum()) == kept[dim]
    assert sum(parameter.numel() for parameter in model.parameters()) == 16 * 8 * 9 + 16
    assert torch.equal(model(x), output)
    if dim == 0:  # an output without a filter is its bias
        gone = lengths == 0
        assert torch.equal(output[:, gone], model.bias[gone].view(1, -1, 1, 1).expand_as(output[:, gone]))


def test_the_documentation_says_that_nothing_shrinks():
    assert "layers keep their shapes" in " ".join((Mask.__doc__ or "").split())
