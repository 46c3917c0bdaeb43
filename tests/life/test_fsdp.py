"""Sharded models on two ranks, against one process that sees the whole batch.

`fully_shard` (FSDP2), tensor parallelism, torch.distributed.checkpoint, and the older FullyShardedDataParallel.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.nn.functional import mse_loss

import computed
import surgery
from tests.life.distributed import Ranks, State, assert_same

WORLD = 2
SPECS = (
    "positive", "weight_norm", "lora(rank=2)", "spectral(bound=0.5)", "orthogonal", "symmetric | spectral(bound=0.9)",
)  # fmt: skip
WITHOUT_STATE = SPECS[:3]
WITHOUT_GRADIENTS = SPECS  # what a forward under no_grad may have
REFUSED = SPECS  # what refuses to be read while it is sharded
SIZES = {"small": (6, 3), "full": (64, 10)}  # the width, and the steps of a training
PATTERN = "blocks.*.inner.weight"


class Block(nn.Module):
    """A layer that the rules constrain, and a plain one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.outer(torch.tanh(self.inner(x))))


class Net(nn.Module):
    """Two blocks and a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def plain(width: int = 6, seed: int = 7) -> Net:
    """The same numbers on every rank."""
    torch.manual_seed(seed)
    return Net(width)


def constrained(spec: str, width: int = 6, seed: int = 7) -> Net:
    return surgery.apply_constraints(plain(width, seed), {PATTERN: spec})


def mesh_of_ranks() -> DeviceMesh:
    return init_device_mesh("cpu", (WORLD,))


def by_layers(model: Net) -> Net:
    """Each Linear, and the root."""
    mesh = mesh_of_ranks()
    for module in [module for module in model.modules() if isinstance(module, nn.Linear)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def by_blocks(model: Net, policy: MixedPrecisionPolicy | None = None) -> Net:
    """Each block, and the root."""
    mesh, settings = mesh_of_ranks(), {} if policy is None else {"mp_policy": policy}
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **settings)
    fully_shard(model, mesh=mesh, **settings)
    return model


def by_root(model: Net) -> Net:
    return fully_shard(model, mesh=mesh_of_ranks())


def kept(model: Net) -> Net:
    """The root alone, and its parameters stay whole between forward and backward."""
    return fully_shard(model, mesh=mesh_of_ranks(), reshard_after_forward=False)


SHARDINGS: dict[str, Callable[[Net], Net]] = {
    sharding.__name__: sharding for sharding in (by_layers, by_blocks, by_root, kept)
}


def batches(width: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets, of eight rows each."""
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(8, width, generator=generator), torch.randn(8, width, generator=generator)) for _ in range(steps)
    ]


def stepper(model: nn.Module) -> torch.optim.Optimizer:
    """Made before the first forward, after which a root that was not split again would list whole parameters."""
    return torch.optim.AdamW([raw for raw in model.parameters() if raw.requires_grad], 0.01)


def train(
    model: nn.Module,
    width: int,
    steps: int,
    rank: int | None = None,
    parts: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
) -> torch.optim.Optimizer:
    """Steps on a rank's share of the batches, or on all of them, in ``parts`` micro-batches."""
    optimizer = stepper(model) if optimizer is None else optimizer
    for x, y in batches(width, steps):
        mine = slice(None) if rank is None else slice(rank, None, WORLD)
        pairs = list(zip(x[mine].chunk(parts), y[mine].chunk(parts), strict=True))
        for i, (part, target) in enumerate(pairs):
            if isinstance(model, FSDPModule):
                model.set_requires_gradient_sync(i == len(pairs) - 1)
            (mse_loss(model(part).to(target.dtype), target) / parts).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def whole(state: State) -> State:
    """A copy of every tensor, gathered: a collective, in the order of the keys."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone() for name, tensor in state.items()
    }


def said(function: Callable[[], object]) -> str:
    """The error that a call raises, or what it gives."""
    try:
        return f"no error: {function()!r}"
    except (RuntimeError, KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def train_sharded(rank: int, spec: str, sharding: str, size: str, parts: int) -> State:
    width, steps = SIZES[size]
    model = SHARDINGS[sharding](constrained(spec, width))
    train(model, width, steps, rank, parts)
    return whole(model.state_dict())


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("spec", SPECS)
def test_training_is_that_of_one_process(ranks: Ranks, size: str, spec: str, sharding: str):
    width, steps = SIZES[size]
    model = computed.caching(constrained(spec, width), False)
    train(model, width, steps)
    for state in ranks(train_sharded, spec, sharding, size, 1):
        assert_same(state, model.state_dict(), 2e-6 if size == "small" else 2e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_micro_batches_that_are_reduced_at_the_last_are_those_of_one_process(ranks: Ranks, size: str, spec: str):
    width, steps = SIZES[size]
    model = computed.caching(constrained(spec, width), False)
    train(model, width, steps, parts=4)
    for state in ranks(train_sharded, spec, "by_layers", size, 4):
        assert_same(state, model.state_dict(), 2e-6 if size == "small" else 2e-5)


def test_a_training_that_differs_is_seen(ranks: Ranks):
    """The comparison has teeth: one more step ends elsewhere."""
    width, steps = SIZES["small"]
    state, _ = ranks(train_sharded, SPECS[0], "by_layers", "small", 1)
    model = constrained(SPECS[0])
    train(model, width, steps + 1)
    with pytest.raises(AssertionError, match=r"Tensor-likes are not close"):
        assert_same(state, model.state_dict(), 2e-6)


def outputs_in_eval(rank: int, spec: str, sharding: str, gradients: bool) -> list[Tensor]:
    """Before a training and after one, twice each."""
    model = SHARDINGS[sharding](constrained(spec))
    optimizer = stepper(model)
    found = []
    for _ in range(2):
        model.eval()
        with torch.set_grad_enabled(gradients):
            found += [model(batches(6, 1)[0][0]).detach() for _ in range(2)]
        train(model.train(), 6, 2, rank, optimizer=optimizer)
    return found


@pytest.mark.parametrize("sharding", ["by_blocks", "kept"])
@pytest.mark.parametrize(
    ("spec", "gradients"), [(spec, True) for spec in SPECS] + [(spec, False) for spec in WITHOUT_GRADIENTS]
)
def test_outputs_in_eval_are_those_of_one_process(ranks: Ranks, spec: str, sharding: str, gradients: bool):
    model = computed.caching(constrained(spec), False)
    expected, optimizer = [], stepper(model)
    for _ in range(2):
        with torch.no_grad():
            expected += 2 * [model.eval()(batches(6, 1)[0][0])]
        train(model.train(), 6, 2, optimizer=optimizer)
    for found in ranks(outputs_in_eval, spec, sharding, gradients):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def load_full(rank: int, spec: str, from_first: bool) -> tuple[State, Tensor]:
    """A whole state dict into a sharded model that has trained: from every rank, or from the first alone."""
    other = constrained(spec, seed=11)
    model = by_layers(constrained(spec))
    train(model, 6, 2, rank)
    state = {} if from_first and rank else other.state_dict()
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=from_first))
    return whole(model.state_dict()), model.eval()(batches(6, 1)[0][0]).detach()


@pytest.mark.parametrize("from_first", [False, True])
@pytest.mark.parametrize("spec", SPECS)
def test_a_whole_state_dict_is_loaded_into_shards(ranks: Ranks, spec: str, from_first: bool):
    expected = constrained(spec, seed=11)
    for state, output in ranks(load_full, spec, from_first):
        assert_same(state, expected.state_dict(), 0.0)
        torch.testing.assert_close(output, expected.eval()(batches(6, 1)[0][0]).detach(), rtol=0, atol=2e-6)


def plain_into_shards(rank: int, spec: str) -> tuple[str, bool]:
    """A plain state dict cannot be split, since raws are computed from whole values: torch says so on every rank."""
    model = by_layers(constrained(spec))
    before = whole(dict(model.blocks[0].inner.weight.named_parameters()))
    options = StateDictOptions(full_state_dict=True)
    message = said(lambda: set_model_state_dict(model, plain(seed=11).state_dict(), options=options))
    after = whole(dict(model.blocks[0].inner.weight.named_parameters()))
    return message, all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("spec", ["positive", "spectral", "lora(rank=2)"])
def test_a_plain_state_dict_is_refused_by_shards_on_every_rank(ranks: Ranks, spec: str):
    for message, untouched in ranks(plain_into_shards, spec):
        assert message.startswith("RuntimeError: Error(s) in loading state_dict")
        assert "blocks.0.inner.weight." in message
        assert untouched


READERS: dict[str, Callable[[Net], object]] = {
    "an operation": lambda model: model.blocks[0].inner.weight + 1,
    "detach": lambda model: model.blocks[0].inner.weight.detach(),
    "str": lambda model: str(model.blocks[0].inner.weight),
    "state_dict plain": lambda model: surgery.state_dict(model, format="plain"),
    "bake": surgery.bake,
}


def read_sharded(rank: int, spec: str, reader: str) -> tuple[str, str, bool]:
    """What a reader is told, the first time and the second, and whether a training after it is right."""
    model = by_layers(constrained(spec))
    answers = said(lambda: READERS[reader](model)), said(lambda: READERS[reader](model))
    train(model, 6, 2, rank)
    expected = constrained(spec)
    train(expected, 6, 2)
    found = whole(model.state_dict()).values()
    same = all(torch.allclose(a, b, atol=2e-6) for a, b in zip(found, expected.state_dict().values(), strict=True))
    return *answers, same


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("spec", REFUSED)
def test_reading_what_is_sharded_is_refused_on_every_rank(ranks: Ranks, spec: str, reader: str):
    first, second = ranks(read_sharded, spec, reader)
    assert first == second
    for message in first[:2]:
        assert message.startswith("ComputedParameterError: blocks.0.inner.weight: ")
        assert "unshard()" in message
    assert first[2]


def look_without_values(rank: int, spec: str) -> tuple[str, list[str], list[tuple[int, ...]], list[bool]]:
    """What needs no value may be asked for while it is sharded."""
    model = by_layers(constrained(spec))
    weight = model.blocks[0].inner.weight
    check = surgery.check(model)
    own = list(surgery.state_dict(model))
    return repr(weight), own, [tuple(weight.shape)], [row.ok for row in check]


@pytest.mark.parametrize("spec", REFUSED)
def test_what_needs_no_value_is_answered_while_sharded(ranks: Ranks, spec: str):
    expected = constrained(spec)
    for text, own, shapes, inside in ranks(look_without_values, spec):
        assert text == repr(expected.blocks[0].inner.weight)
        assert own == list(expected.state_dict())
        assert shapes == [(6, 6)]
        assert inside == [False, False]


def read_unsharded(rank: int, spec: str, gradients: bool) -> tuple[Tensor, Tensor]:
    """The value between unshard and reshard, and the outputs afterwards."""
    model = by_layers(constrained(spec)).eval()
    with torch.set_grad_enabled(gradients):
        layer = model.blocks[0].inner
        layer.unshard()
        value = layer.weight.detach().clone()
        layer.reshard()
        return value, model(batches(6, 1)[0][0]).detach()


@pytest.mark.parametrize(
    ("spec", "gradients"), [(spec, True) for spec in SPECS] + [(spec, False) for spec in WITHOUT_GRADIENTS]
)
def test_a_value_is_read_between_unshard_and_reshard(ranks: Ranks, spec: str, gradients: bool):
    model = constrained(spec).eval()
    for value, output in ranks(read_unsharded, spec, gradients):
        torch.testing.assert_close(value, model.blocks[0].inner.weight.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(output, model(batches(6, 1)[0][0]).detach(), rtol=0, atol=2e-6)


def constrain_sharded(rank: int) -> tuple[list[str], bool]:
    """Every way in, on a model that is sharded."""
    model = by_layers(plain())
    before = [(name, id(raw)) for name, raw in model.named_parameters()]
    messages = [
        said(lambda: surgery.apply_constraints(model, {PATTERN: "spectral", "head.weight": "lora(2)"})),
        said(lambda: surgery.constrain(model.blocks[0].inner, weight="orthogonal")),
        said(lambda: surgery.apply_constraints(model, {"head.*": "frozen"})),
        "; ".join(surgery.plan(model, {PATTERN: "positive"}).problems),
    ]
    return messages, before == [(name, id(raw)) for name, raw in model.named_parameters()]


def test_rules_are_refused_by_what_is_sharded_already(ranks: Ranks):
    for (many, one, frozen, planned), untouched in ranks(constrain_sharded):
        assert many.startswith("PlanError: 2 problems, nothing was changed")
        for text in (many, one, planned):
            assert "is sharded (a DTensor), and its projection needs the full value; constrain before" in text
        assert "is sharded, by a wrapper that has noted which parameters train; freeze first, then wrap" in frozen
        assert untouched


def in_tensor_parallel(rank: int, style: type[ParallelStyle]) -> str:
    model = parallelize_module(plain(), mesh_of_ranks(), {"blocks.0.inner": style()})
    return said(lambda: surgery.apply_constraints(model, {PATTERN: "spectral"}))


@pytest.mark.parametrize("style", [ColwiseParallel, RowwiseParallel])
def test_rules_are_refused_by_tensor_parallel_weights(ranks: Ranks, style: type[ParallelStyle]):
    for message in ranks(in_tensor_parallel, style):
        assert message.startswith("PlanError: 1 problem, nothing was changed")
        assert "blocks.0.inner.weight (Linear), rule" in message
        assert "is sharded (a DTensor), and its projection needs the full value" in message


def constrained_before_tensor_parallel(rank: int, spec: str, style: type[ParallelStyle]) -> str:
    model = constrained(spec)
    return said(lambda: parallelize_module(model, mesh_of_ranks(), {"blocks.0.inner": style()}))


@pytest.mark.parametrize("style", [ColwiseParallel, RowwiseParallel])
@pytest.mark.parametrize("spec", ["positive", "spectral", "lora(rank=2)"])
def test_tensor_parallelism_does_not_split_a_constrained_weight(ranks: Ranks, spec: str, style: type[ParallelStyle]):
    """torch refuses, on every rank: it splits Parameters by their own names, and this one's raws have longer ones."""
    first, second = ranks(constrained_before_tensor_parallel, spec, style)
    assert first == second
    assert first.startswith(("KeyError: ", "RuntimeError: "))
    assert "parameter name can" in first or "distribute leaf tensors" in first


def beside_tensor_parallel(rank: int, spec: str) -> Tensor:
    """The weights that are not constrained may be split."""
    model = constrained(spec)
    parallelize_module(model, mesh_of_ranks(), {f"blocks.{i}.outer": ColwiseParallel() for i in range(2)})
    for block in model.blocks:
        block.outer.register_forward_hook(lambda _, __, output: gathered(output))
    return model.eval()(batches(6, 1)[0][0]).detach()


def gathered(output: Tensor) -> Tensor:
    """The columns of all ranks, side by side."""
    parts = [torch.empty_like(output) for _ in range(WORLD)]
    torch.distributed.all_gather(parts, output.detach().contiguous())
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize("spec", ["positive", "spectral", "lora(rank=2)"])
def test_constrained_weights_stand_beside_tensor_parallel_ones(ranks: Ranks, spec: str):
    expected = constrained(spec).eval()(batches(6, 1)[0][0]).detach()
    for output in ranks(beside_tensor_parallel, spec):
        torch.testing.assert_close(output, expected, rtol=0, atol=2e-6)


def save_trained(rank: int, spec: str, folder: str) -> State:
    model = by_layers(constrained(spec))
    train(model, 6, 2, rank)
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder)
    return whole(model.state_dict())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
@pytest.mark.parametrize("spec", SPECS)
def test_what_two_ranks_save_one_process_loads(ranks: Ranks, spec: str, tmp_path: Path):
    saved, _ = ranks(save_trained, spec, str(tmp_path / "checkpoint"))
    model = constrained(spec, seed=11)
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    model.load_state_dict(state["model"], strict=True)
    assert_same(model.state_dict(), saved, 0.0)
    expected = constrained(spec)
    train(expected, 6, 2)
    x = batches(6, 1)[0][0]
    torch.testing.assert_close(model.eval()(x), expected.eval()(x), rtol=0, atol=5e-6)
    assert surgery.check(model).ok


def everybodys_order(rank: int, spec: str, folder: str) -> tuple[State, State, list[str]]:
    """On meta, constrained, sharded in bf16, materialised, initialised by the first rank, trained, saved."""
    with torch.device("meta"):
        model = Net(6)
    surgery.apply_constraints(model, {PATTERN: spec})
    by_blocks(model, MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    model.to_empty(device="cpu")
    state = constrained(spec).state_dict() if rank == 0 else {}
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    started = whole(model.state_dict())
    optimizer = train(model, 6, 2, rank)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    return started, whole(model_state), sorted(optimizer_state["state"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
@pytest.mark.parametrize("spec", SPECS)
def test_the_order_that_everybody_uses(ranks: Ranks, spec: str, tmp_path: Path):
    answers = ranks(everybodys_order, spec, str(tmp_path / "checkpoint"))
    expected = constrained(spec)
    for started, _, keys in answers:
        assert_same(started, expected.state_dict(), 0.0)
        assert keys == sorted(name for name, raw in expected.named_parameters() if raw.requires_grad)
    train(expected, 6, 2)
    model = constrained(spec, seed=11)
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    model.load_state_dict(state["model"], strict=True)
    assert_same(model.state_dict(), answers[0][1], 0.0)
    assert_same(answers[1][1], answers[0][1], 0.0)
    # AdamW moves a raw by its rate at most, whichever sign bf16 gives to a gradient near zero
    raws = {name: raw.detach() for name, raw in expected.named_parameters()}
    assert_same({name: raw.detach() for name, raw in model.named_parameters()}, raws, 2 * 2 * 0.01 + 1e-3)
    assert surgery.check(model).ok


INITIALISERS: dict[str, Callable[[Tensor], object]] = {
    "constant_": lambda weight: nn.init.constant_(weight, 0.3),
    "copy_": lambda weight: weight.copy_(torch.full((6, 6), 0.3)),
    "fill_": lambda weight: weight.fill_(0.3),
    "data": lambda weight: weight.data.fill_(0.3),
}


def initialised(rank: int, spec: str, initialiser: str) -> tuple[str, Tensor | None]:
    """What an initialiser says of shards, and the value that a forward then uses."""
    with torch.device("meta"):
        model = Net(6)
    surgery.apply_constraints(model, {PATTERN: spec})
    by_layers(model).to_empty(device="cpu")
    state = constrained(spec).state_dict() if rank == 0 else {}
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))

    def write() -> None:
        with torch.no_grad():
            INITIALISERS[initialiser](model.blocks[0].inner.weight)
            next(iter(model.parameters()))

    message = said(write)
    if not message.startswith("no error"):
        return message, None
    layer = model.blocks[0].inner
    layer.unshard()
    value = layer.weight.detach().clone()
    layer.reshard()
    return message, value


@pytest.mark.parametrize("initialiser", INITIALISERS)
@pytest.mark.parametrize("spec", SPECS)
def test_initialising_shards_is_exact_or_refused_on_every_rank(ranks: Ranks, spec: str, initialiser: str):
    model = constrained(spec)
    with torch.no_grad():
        model.blocks[0].inner.weight.copy_(torch.full((6, 6), 0.3))
    (first, value), (second, other) = ranks(initialised, spec, initialiser)
    assert first == second
    if value is None:
        assert "DTensor" in first or "unshard()" in first
    else:
        torch.testing.assert_close(value, model.blocks[0].inner.weight.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(other, value, rtol=0, atol=0)


def older_wrapper(rank: int, spec: str) -> State:
    """FullyShardedDataParallel with the original parameters, on the CPU."""
    model = constrained(spec)
    with warnings.catch_warnings():
        # this wrapper is deprecated, and not meant for the CPU
        warnings.simplefilter("ignore")
        wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
        train(wrapped, 6, 3, rank)
        with FullyShardedDataParallel.summon_full_params(wrapped):
            return {name: tensor.clone() for name, tensor in wrapped.module.state_dict().items()}


@pytest.mark.parametrize("spec", WITHOUT_STATE)
def test_the_older_wrapper_trains_as_one_process(ranks: Ranks, spec: str):
    model = constrained(spec)
    train(model, 6, 3)
    for state in ranks(older_wrapper, spec):
        assert_same(state, model.state_dict(), 2e-6)


def older_wrapper_already(rank: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = FullyShardedDataParallel(plain(), use_orig_params=True, device_id=torch.device("cpu"))
        return said(lambda: surgery.apply_constraints(wrapped, {"*.inner.weight": "spectral"}))


def test_rules_are_refused_by_the_older_wrapper(ranks: Ranks):
    for message in ranks(older_wrapper_already):
        assert message.startswith("PlanError: ")
        assert "belongs to a model wrapped by FullyShardedDataParallel; constrain first, then wrap" in message
