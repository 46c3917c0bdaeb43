"""Random numbers of our own: the same for the same weight and seed, and none drawn from the global generators."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from computed.randomness import SAMPLED, generator_for, kaiming_uniform

SHAPE = torch.Size((64, 100))


def draw(value: torch.Tensor, role: str = "A", seed: int | None = None) -> torch.Tensor:
    return torch.rand(8, generator=generator_for(value, role, seed))


def test_numbers_depend_on_seed_value_and_role_alone():
    value = torch.randn(5, 4)
    torch.manual_seed(3)
    first = draw(value)
    torch.randn(100)
    assert torch.equal(draw(value.clone()), first)
    assert not torch.equal(draw(value, "B"), first)
    assert not torch.equal(draw(value + 1e-6), first)
    assert not torch.equal(draw(value.T.contiguous()), first)
    assert not torch.equal(draw(value.flatten()), first)
    assert not torch.equal(draw(-torch.zeros(5, 4)), draw(torch.zeros(5, 4)))
    torch.manual_seed(4)
    assert not torch.equal(draw(value), first)


def test_a_seed_takes_the_place_of_the_global_one():
    value = torch.randn(5, 4)
    torch.manual_seed(3)
    first = draw(value, seed=7)
    torch.manual_seed(4)
    assert torch.equal(draw(value, seed=7), first)
    assert not torch.equal(draw(value, seed=8), first)
    assert not torch.equal(draw(2 * value, seed=7), first)
    torch.manual_seed(7)
    assert torch.equal(draw(value), first)


def test_layout_does_not_matter():
    value = torch.randn(6, 4)
    torch.manual_seed(0)
    assert torch.equal(draw(value.T.contiguous().T), draw(value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_and_the_meta_device_have_numbers(dtype):
    assert draw(torch.ones(3, dtype=dtype)).shape == (8,)
    assert torch.equal(draw(torch.empty(3, device="meta")), draw(torch.empty(3, device="meta")))


def test_large_values_are_sampled_over_their_whole_length():
    value = torch.zeros(5 * SAMPLED)
    first = draw(value)
    value[-SAMPLED:] = 1
    assert not torch.equal(draw(value), first)


def test_no_global_generator_moves():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    kaiming_uniform(SHAPE, generator_for(torch.ones(3), "A"), torch.ones(1))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_kaiming_uniform_has_the_bound_and_variance_of_a_linear_layer():
    found = kaiming_uniform(SHAPE, generator_for(torch.ones(3), "A"), torch.ones(1))
    bound = 1 / math.sqrt(100)
    assert float(found.abs().max()) <= bound
    assert float(found.var()) == pytest.approx(bound**2 / 3, rel=0.05)
    layer = torch.nn.Linear(100, 64).weight
    assert float(found.std()) == pytest.approx(float(layer.detach().std()), rel=0.05)


def test_kaiming_uniform_is_the_same_in_every_dtype():
    numbers = [
        kaiming_uniform(SHAPE, generator_for(torch.ones(3), "A"), torch.ones(1, dtype=dtype))
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    ]
    assert [each.dtype for each in numbers] == [torch.float32, torch.float64, torch.bfloat16]
    assert torch.equal(numbers[0].double(), numbers[1])
    assert torch.equal(numbers[0].bfloat16(), numbers[2])
