"""Sharded models and files: saved by two processes and loaded by one or four, plain keys in, a plain file out.

And the order that everybody uses without a file: what an initialiser does to shards. Truth is one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import barrier
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.functional import mse_loss

import surgery
from computed.parameter import ComputedParameter
from tests.life.distributed import Ranks, State, assert_same
from tests.life.test_fsdp import PATTERN, SPECS, Net, batches, constrained, plain, said, stepper, whole

STEPS = 2
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
NO_GROUP = "ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning"


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    started = Ranks(4, tmp_path_factory.mktemp("four"))
    yield started
    started.close()


def sharded(model: Net, world: int, policy: MixedPrecisionPolicy | None = None) -> Net:
    """Each block, and the root; six rows on four processes: the last one has none of some raws."""
    mesh, settings = init_device_mesh("cpu", (world,)), {} if policy is None else {"mp_policy": policy}
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **settings)
    return fully_shard(model, mesh=mesh, **settings)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, rank: int = 0, world: int = 1) -> None:
    for x, y in batches(6, STEPS):
        mse_loss(model(x[rank::world]).float(), y[rank::world]).backward()
        optimizer.step()
        optimizer.zero_grad()


def save_trained(rank: int, spec: str, folder: str) -> State:
    """Trained on two processes, saved with its optimizer."""
    model = sharded(constrained(spec), 2)
    optimizer = stepper(model)
    train(model, optimizer, rank, 2)
    of_model, of_optimizer = get_state_dict(model, optimizer)
    dcp.save({"model": of_model, "optimizer": of_optimizer}, checkpoint_id=folder)
    return whole(model.state_dict())


def load_and_go_on(rank: int, spec: str, folder: str, world: int) -> tuple[State, State]:
    """Into a model of other numbers, split otherwise; what it holds, and what it holds after as many steps again."""
    model = sharded(constrained(spec, seed=11), world)
    optimizer = stepper(model)
    of_model, of_optimizer = get_state_dict(model, optimizer)
    dcp.load({"model": of_model, "optimizer": of_optimizer}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer)
    loaded = whole(model.state_dict())
    train(model, optimizer, rank, world)
    return loaded, whole(model.state_dict())


@pytest.mark.parametrize("spec", SPECS)
def test_what_two_processes_save_four_load_and_train_on(ranks: Ranks, four: Ranks, spec: str, tmp_path: Path):
    """Bit for bit; and on as one process that was never interrupted."""
    folder = str(tmp_path / "checkpoint")
    saved, _ = ranks(save_trained, spec, folder)
    expected = constrained(spec)
    optimizer = stepper(expected)
    for _ in range(2):
        train(expected, optimizer)
    for loaded, later in four(load_and_go_on, spec, folder, 4):
        assert_same(loaded, saved, 0.0)
        assert_same(later, expected.state_dict(), 5e-6)
    with pytest.raises(AssertionError, match=r"Tensor-likes are not close"):
        assert_same(saved, expected.state_dict(), 5e-6)


@pytest.mark.filterwarnings(NO_GROUP)
@pytest.mark.parametrize("spec", SPECS)
def test_what_four_processes_save_one_loads(four: Ranks, spec: str, tmp_path: Path):
    saved = four(save_by_four, spec, str(tmp_path / "checkpoint"))[0]
    model = constrained(spec, seed=11)
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    model.load_state_dict(state["model"], strict=True)
    assert_same(model.state_dict(), saved, 0.0)
    assert surgery.check(model.eval()).ok


def save_by_four(rank: int, spec: str, folder: str) -> State:
    model = sharded(constrained(spec), 4)
    train(model, stepper(model), rank, 4)
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder)
    return whole(model.state_dict())


def plain_in_and_out(rank: int, spec: str, source: str, target: str) -> tuple[State, Tensor]:
    """The recipe: a whole constrained twin on the first process takes and gives what has plain keys."""
    with torch.device("meta"):
        model = surgery.apply_constraints(Net(6), {PATTERN: spec})
    sharded(model, 2).to_empty(device="cpu")
    state: State = {}
    if rank == 0:
        twin = constrained(spec, seed=5)
        twin.load_state_dict(load_file(source), strict=True)
        state = twin.state_dict()
    set_model_state_dict(model, state, options=FROM_FIRST)
    loaded = whole(model.state_dict())
    train(model, stepper(model), rank, 2)
    state = get_model_state_dict(model, options=WHOLE)
    if rank == 0:
        twin = constrained(spec, seed=5)
        twin.load_state_dict(state, strict=True)
        save_file(surgery.state_dict(twin, format="plain"), target)
    return loaded, model.eval()(batches(6, 1)[0][0]).detach()


@pytest.mark.parametrize("spec", SPECS)
def test_a_plain_file_goes_in_and_comes_out(ranks: Ranks, spec: str, tmp_path: Path):
    """Into shards as into one process; out for the class without any constraint."""
    source = plain(seed=11)
    save_file(source.state_dict(), tmp_path / "in")
    answers = ranks(plain_in_and_out, spec, str(tmp_path / "in"), str(tmp_path / "out"))
    torch.manual_seed(5)  # the seed that the first process draws adapters from
    expected = surgery.apply_constraints(source, {PATTERN: spec})
    for loaded, output in answers:
        assert_same(loaded, expected.state_dict(), 0.0)
        bare = plain(seed=5)
        bare.load_state_dict(load_file(tmp_path / "out"), strict=True)
        torch.testing.assert_close(bare.eval()(batches(6, 1)[0][0]), output, rtol=0, atol=5e-6)
    train(expected, stepper(expected))
    values = surgery.state_dict(expected.eval(), format="plain")
    assert_same(load_file(tmp_path / "out"), {key: values[key] for key in sorted(values)}, 5e-6)


def read_alone(rank: int, spec: str) -> tuple[list[str], Tensor]:
    """The first process alone asks for values, writes and bakes; then both meet, and train."""
    model = sharded(constrained(spec), 2)
    optimizer, told = stepper(model), []
    weight = model.blocks[0].inner.weight
    if rank == 0:
        told = [
            said(lambda: weight + 1),
            said(lambda: str(weight)),
            said(lambda: surgery.state_dict(model, format="plain")),
            said(lambda: surgery.bake(model)),
        ]
    barrier()
    train(model, optimizer, rank, 2)
    return told, whole(model.state_dict())["head.weight"]


@pytest.mark.parametrize("spec", SPECS)
def test_one_process_that_reads_alone_waits_for_nobody(ranks: Ranks, spec: str):
    """Nothing is gathered by itself: a collective that the other does not enter would never end."""
    (told, first), (_, second) = ranks(read_alone, spec)
    assert len(told) == 4
    for message in told:
        assert message.startswith("ComputedParameterError: blocks.0.inner.weight: ")
        assert "unshard()" in message
    assert torch.equal(first, second)


def everywhere(model: Net) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()


def by_walk(model: Net) -> None:
    """As functions that are given to `Module.apply`."""

    def draw(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
            nn.init.zeros_(module.bias)

    model.apply(draw)


INITIALISERS: dict[str, Callable[[Net], None]] = {"reset_parameters": everywhere, "apply": by_walk}


def initialise(rank: int, spec: str, way: str) -> tuple[str, State]:
    """Meta, constrained, sharded in bf16, `to_empty`, initialised without any load; then loaded and trained."""
    with torch.device("meta"):
        model = surgery.apply_constraints(Net(6), {PATTERN: spec})
    sharded(model, 2, MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    model.to_empty(device="cpu")
    message = said(lambda: INITIALISERS[way](model))
    state = constrained(spec).state_dict() if rank == 0 else {}
    set_model_state_dict(model, state, options=FROM_FIRST)
    assert all(isinstance(module.weight, ComputedParameter) for module in (block.inner for block in model.blocks))
    loaded = whole(model.state_dict())
    train(model, stepper(model), rank, 2)
    return message, loaded


@pytest.mark.parametrize("way", INITIALISERS)
@pytest.mark.parametrize("spec", SPECS)
def test_an_initialiser_of_shards_raises_on_every_process_and_a_load_follows(ranks: Ranks, spec: str, way: str):
    """In everybody's order, right behind `to_empty`: never silently nothing, and nothing is spoilt."""
    (first, loaded), (second, other) = ranks(initialise, spec, way)
    assert first == second
    assert not first.startswith("no error")
    assert "blocks.0.inner.weight" in first
    assert "unshard()" in first
    for state in (loaded, other):
        assert_same(state, constrained(spec).state_dict(), 0.0)
