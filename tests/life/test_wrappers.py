"""The wrappers of docs/distributed.md that are neither DistributedDataParallel nor FSDP2: they work, or say what to do.

Truth is one process that sees the whole batch.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

import surgery
from tests.life.distributed import Ranks, State, assert_same
from tests.life.test_fsdp import PATTERN, SPECS, WITHOUT_STATE, batches, constrained, plain, said, train

STEPS = 3
WITH_STATE = [spec for spec in SPECS if spec not in WITHOUT_STATE]


@pytest.mark.parametrize("spec", SPECS)
def test_data_parallel_without_devices_is_the_model_with_a_prefix(spec: str):
    model, twin = constrained(spec), constrained(spec)
    wrapped = nn.DataParallel(model)
    assert list(wrapped.state_dict()) == [f"module.{key}" for key in twin.state_dict()]
    train(wrapped, 6, STEPS)
    train(twin, 6, STEPS)
    assert_same(model.state_dict(), twin.state_dict(), 0.0)
    x = batches(6, 1)[0][0]
    assert torch.equal(wrapped.eval()(x), twin.eval()(x))
    wrapped.load_state_dict({f"module.{key}": tensor for key, tensor in plain(seed=11).state_dict().items()})
    assert surgery.check(wrapped).ok
    assert not torch.equal(wrapped(x), twin(x))


def by_older(rank: int, spec: str, original: bool) -> State:
    model = constrained(spec)
    with warnings.catch_warnings():
        # this wrapper is deprecated, and not meant for the CPU
        warnings.simplefilter("ignore")
        wrapped = FullyShardedDataParallel(model, use_orig_params=original, device_id=torch.device("cpu"))
        train(wrapped, 6, STEPS, rank)
        with FullyShardedDataParallel.summon_full_params(wrapped):
            return {name: tensor.clone() for name, tensor in wrapped.module.state_dict().items()}


def older(rank: int, spec: str, original: bool) -> State | str:
    """FullyShardedDataParallel: the state after training, or what is said."""
    found: State = {}
    message = said(lambda: found.update(by_older(rank, spec, original)))
    return found or message


@pytest.mark.parametrize("spec", SPECS)
def test_the_older_wrapper_trains_as_one_process_or_says_why_not(ranks: Ranks, spec: str):
    expected = constrained(spec)
    train(expected, 6, STEPS)
    first, second = ranks(older, spec, True)
    for found in (first, second):
        assert isinstance(found, str) or list(found) == list(expected.state_dict())
        if isinstance(found, str):
            assert found.startswith("ComputedParameterError")
        else:
            assert_same(found, expected.state_dict(), 5e-6)


# of adapters torch says it itself: trained and fixed raws do not fit into one flat parameter
OF_TORCH = {"lora(rank=2)": "ValueError: Must flatten tensors with uniform `requires_grad` when"}


@pytest.mark.parametrize("spec", SPECS)
def test_flat_parameters_of_the_older_wrapper_are_refused_with_the_way_out(ranks: Ranks, spec: str):
    for message in ranks(older, spec, False):
        assert isinstance(message, str)
        assert "use_orig_params" in message
        assert message.startswith(OF_TORCH.get(spec, "ComputedParameterError: "))


def test_the_pattern_of_this_file_matches():
    assert len(surgery.computed_parameters(constrained(SPECS[0]))) == 2
    assert surgery.plan(plain(), {PATTERN: "positive"}).ok
