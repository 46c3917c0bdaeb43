"""Masks: zeros to the bit, whatever the raw is behind them."""

from __future__ import annotations

import pytest
import torch

from computed.constraints.masks import Mask, SparsePattern
from computed.parameter import ComputedParameter


@pytest.mark.parametrize("make", [lambda: Mask(0.5), lambda: SparsePattern(2, 4)], ids=["mask", "n_m"])
def test_what_is_masked_is_zero_to_the_bit_whatever_stands_behind_it(make):
    parameter = ComputedParameter.from_value(torch.tensor([[3.0, -4.0, -0.5, 0.25]]), make())
    assert parameter.detach().view(torch.int32).tolist()[0][2:] == [0, 0]
    with torch.no_grad():
        parameter.raws["raw"][0, 2:] = torch.tensor([torch.nan, -torch.inf])
    assert parameter.detach().tolist() == [[3.0, -4.0, 0.0, 0.0]]
    parameter.sum().backward()
    assert parameter.raws["raw"].grad.tolist() == [[1.0, 1.0, 0.0, 0.0]]
