"""Accelerate prepares, trains, saves and restores constrained models, on one process and on two.

Truth is one process without it. `make peers` installs Accelerate, and this file runs there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import surgery
from tests.life.distributed import Ranks, State, assert_same
from tests.life.test_ddp import WORLD, Batch, Net, batches, constrained, share, trained

pytest.importorskip("accelerate", reason="accelerate is installed by `make peers` alone")

STEPS, PARTS = 3, 2


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Accelerate keeps what it was first asked for in the process."""
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def stepper(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trained(model), 0.01)


def accelerator(rank: int | None, **options: Any) -> Any:
    """On the CPU; several processes are told by their environment, as `accelerate launch` does."""
    from accelerate import Accelerator

    if rank is not None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(WORLD))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")  # the ranks are joined already
    return Accelerator(cpu=True, **options)


def train(prepared: Any, model: nn.Module, optimizer: Any, data: list[Batch]) -> None:
    """In micro-batches, which `accumulate` adds up."""
    for x, y in data:
        for part, target in zip(x.chunk(PARTS), y.chunk(PARTS), strict=True):
            with prepared.accumulate(model):
                prepared.backward(mse_loss(model(part).float(), target))
                optimizer.step()
                optimizer.zero_grad()


def alone(steps: int = STEPS) -> Net:
    model = constrained(6)
    optimizer = stepper(model)
    for x, y in batches(6, steps):
        mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def by_accelerate(rank: int | None, folder: str) -> tuple[State, State, State, bool]:
    """After training, after training on, and after the saved state of everything has come back."""
    prepared = accelerator(rank, gradient_accumulation_steps=PARTS)
    bare = constrained(6)
    model, optimizer = prepared.prepare(bare, stepper(bare))
    assert isinstance(model, DistributedDataParallel) is (rank is not None)
    data = batches(6, STEPS)
    train(prepared, model, optimizer, data if rank is None else [share(batch, rank) for batch in data])
    prepared.save_state(folder)
    saved = {name: tensor.clone() for name, tensor in prepared.unwrap_model(model).state_dict().items()}
    more = [data[0]] if rank is None else [share(data[0], rank)]
    train(prepared, model, optimizer, more)
    later = {name: tensor.clone() for name, tensor in bare.state_dict().items()}
    prepared.load_state(folder)
    back = {name: tensor.clone() for name, tensor in bare.state_dict().items()}
    train(prepared, model, optimizer, more)
    assert_same(bare.state_dict(), later, 0.0)
    return saved, later, back, surgery.check(bare.eval()).ok


def assert_right(answer: tuple[State, State, State, bool]) -> None:
    saved, later, back, inside = answer
    assert_same(saved, alone().state_dict(), 2e-6)
    assert_same(back, saved, 0.0)
    with pytest.raises(AssertionError, match=r"Tensor-likes are not"):
        assert_same(later, saved, 2e-6)
    assert inside


def test_one_process_trains_as_without_it_and_goes_back_to_what_it_saved(tmp_path: Path):
    """And goes on from there as it had gone on: optimizer and random numbers are in the folder too."""
    assert_right(by_accelerate(None, str(tmp_path)))


def test_two_processes_do_so_too(ranks: Ranks, tmp_path: Path):
    first, second = ranks(by_accelerate, str(tmp_path))
    assert_right(first)
    assert_right(second)
    assert_same(second[1], first[1], 0.0)


def test_bfloat16_by_autocast_leaves_raws_and_sets_in_full_precision():
    prepared = accelerator(None, mixed_precision="bf16")
    bare = constrained(6)
    model, optimizer = prepared.prepare(bare, stepper(bare))
    for x, y in batches(6, STEPS):
        prepared.backward(mse_loss(model(x).float(), y))
        optimizer.step()
        optimizer.zero_grad()
    assert {raw.dtype for raw in bare.parameters()} == {torch.float32}
    weight = bare.eval().orthogonal.weight.detach().double()
    torch.testing.assert_close(weight.T @ weight, torch.eye(6, dtype=torch.float64), rtol=0, atol=5e-6)
    # AdamW moves a raw by its rate at most, whichever sign bf16 gives to a gradient near zero
    raws = {name: raw.detach() for name, raw in alone().named_parameters()}
    assert_same({name: raw.detach() for name, raw in bare.named_parameters()}, raws, 2 * STEPS * 0.01 + 1e-3)
    assert surgery.check(bare).ok
