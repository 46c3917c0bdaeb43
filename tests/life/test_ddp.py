"""DistributedDataParallel over constrained models on two ranks, against one process that sees the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import computed
import surgery
from tests.computed.identity import Counting
from tests.life.distributed import RankError, Ranks, State, assert_same

WORLD = 2
RULES = {
    "spectral.weight": "spectral(bound=0.5)",
    "orthogonal.weight": "orthogonal",
    "adapted.weight": "lora(rank=2)",
    "chained.weight": "symmetric | spectral(bound=0.9)",
}
SIZES = {"small": (6, 4), "full": (64, 20)}  # the width, and the steps of a training
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(trained(model), 0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda model: torch.optim.AdamW(trained(model), 0.01),
}
Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """Four layers that the rules constrain, two plain ones, and one that a forward may leave out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.spectral = nn.Linear(width, width)
        self.orthogonal = nn.Linear(width, width)
        self.adapted = nn.Linear(width, width)
        self.chained = nn.Linear(width, width)
        self.last = nn.Linear(width, width)
        self.without = ""

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if name != self.without:
                x = torch.tanh(layer(x))
        return x


def plain(width: int) -> Net:
    """The same numbers on every rank."""
    torch.manual_seed(7)
    return Net(width)


def constrained(width: int) -> Net:
    return surgery.apply_constraints(plain(width), RULES)


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def batches(width: int, steps: int) -> list[Batch]:
    """Inputs and targets, of eight rows each."""
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(8, width, generator=generator), torch.randn(8, width, generator=generator).tanh())
        for _ in range(steps)
    ]


def share(batch: Batch, rank: int) -> Batch:
    x, y = batch
    return x[rank::WORLD], y[rank::WORLD]


def once(model: nn.Module, x: Tensor, y: Tensor) -> None:
    mse_loss(model(x), y).backward()


def two_forwards(model: nn.Module, x: Tensor, y: Tensor) -> None:
    (mse_loss(model(x), y) + mse_loss(model(0.5 * x), -y)).backward()


def accumulated(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Micro-batches of one row; DistributedDataParallel reduces at the last one only."""
    parts = list(zip(x.split(1), y.split(1), strict=True))
    for i, (part, target) in enumerate(parts):
        quiet = isinstance(model, DistributedDataParallel) and i < len(parts) - 1
        with model.no_sync() if quiet else contextlib.nullcontext():
            (mse_loss(model(part), target) / len(parts)).backward()


def checkpointed(model: nn.Module, x: Tensor, y: Tensor) -> None:
    mse_loss(checkpoint(model, x, use_reentrant=False), y).backward()


PASSES = {run.__name__: run for run in (once, two_forwards, accumulated, checkpointed)}


def train(model: nn.Module, run: str, optimizer: str, data: list[Batch]) -> None:
    stepper = OPTIMIZERS[optimizer](model)
    for x, y in data:
        stepper.zero_grad()
        PASSES[run](model, x, y)
        stepper.step()


def alone(run: str, optimizer: str, size: str) -> Net:
    """One process, the whole batch, nothing held."""
    width, steps = SIZES[size]
    model = computed.caching(constrained(width), False)
    train(model, run, optimizer, batches(width, steps))
    return model


def train_wrapped(rank: int, run: str, optimizer: str, size: str, options: dict[str, bool]) -> tuple[State, bool, bool]:
    """The state after training, whether `surgery.check` found everything inside, and whether raws saw gradients."""
    width, steps = SIZES[size]
    model = constrained(width)
    wrapped = DistributedDataParallel(model, **options)
    train(wrapped, run, optimizer, [share(batch, rank) for batch in batches(width, steps)])
    with_gradients = all(parameter.grad is not None for parameter in trained(model))
    return model.state_dict(), surgery.check(wrapped).ok, with_gradients


def assert_equal_on_all(states: list[State]) -> None:
    """Bit for bit."""
    for state in states[1:]:
        assert_same(state, states[0], 0.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("run", PASSES)
@pytest.mark.parametrize("synchronised", [True, False], ids=["buffers synchronised", "buffers not synchronised"])
def test_training_is_that_of_one_process(ranks: Ranks, size: str, run: str, optimizer: str, synchronised: bool):
    options = {"forward_sync_buffers": synchronised}
    answers = ranks(train_wrapped, run, optimizer, size, options)
    expected = alone(run, optimizer, size).state_dict()
    assert_equal_on_all([state for state, _, _ in answers])
    for state, inside, with_gradients in answers:
        assert_same(state, expected, 2e-6 if size == "small" else 2e-5)
        assert inside
        assert with_gradients


@pytest.mark.parametrize(
    "options",
    [{"static_graph": True}, {"gradient_as_bucket_view": True}, {"find_unused_parameters": True}],
    ids=lambda options: next(iter(options)),
)
def test_other_settings_of_the_wrapper_change_nothing(ranks: Ranks, size: str, options: dict[str, bool]):
    answers = ranks(train_wrapped, "once", "SGD", size, options)
    expected = alone("once", "SGD", size).state_dict()
    assert_equal_on_all([state for state, _, _ in answers])
    assert_same(answers[0][0], expected, 2e-6 if size == "small" else 2e-5)
    assert answers[0][1]


def test_a_training_that_differs_is_seen(ranks: Ranks):
    """The comparison has teeth: one more step ends elsewhere."""
    ((state, _, _), _) = ranks(train_wrapped, "once", "SGD", "small", {})
    width, steps = SIZES["small"]
    model = constrained(width)
    train(model, "once", "SGD", batches(width, steps + 1))
    with pytest.raises(AssertionError, match=r"Tensor-likes are not close"):
        assert_same(state, model.state_dict(), 2e-6)


def unused_gradients(rank: int, without: str, steps: int) -> tuple[dict[str, str], dict[str, str], bool]:
    """What the gradients of a layer that is left out are, constrained and plain; whether its raws moved."""
    found = []
    for model in (constrained(6), plain(6)):
        model.without = without
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
        layer = getattr(model, without)
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        optimizer = torch.optim.Adam(trained(model), 0.1, weight_decay=0.1)
        for batch in batches(6, steps):
            optimizer.zero_grad()
            once(wrapped, *share(batch, rank))
            optimizer.step()
        kinds = {
            name: "None" if raw.grad is None else "zero" if not raw.grad.any() else "some"
            for name, raw in layer.named_parameters()
            if raw.requires_grad
        }
        moved = any(not torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
        found.append((kinds, moved))
    (ours, ours_moved), (theirs, theirs_moved) = found
    return ours, theirs, ours_moved or theirs_moved


@pytest.mark.parametrize("without", ["spectral", "orthogonal", "adapted", "chained"])
def test_a_layer_that_is_left_out_gets_no_gradient_and_stays(ranks: Ranks, without: str):
    for ours, theirs, moved in ranks(unused_gradients, without, 3):
        assert set(theirs.values()) == {"None"}
        assert set(ours.values()) == {"None"}
        assert not moved


def used_on_one_rank(rank: int) -> State:
    """Only rank 1 leaves a layer out: rank 0's gradient is halved and given to both."""
    model = constrained(6)
    model.without = "spectral" if rank else ""
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    once(wrapped, *batches(6, 1)[0])
    return {name: raw.grad for name, raw in model.named_parameters() if raw.grad is not None}


def test_a_layer_that_one_rank_leaves_out_gets_half_of_the_gradient(ranks: Ranks):
    whole, part = constrained(6), constrained(6)
    part.without = "spectral"
    for model in (whole, part):
        once(model, *batches(6, 1)[0])
    expected = {
        name: 0.5 * (raw.grad + (torch.zeros_like(raw) if other.grad is None else other.grad))
        for (name, raw), other in zip(whole.named_parameters(), part.parameters(), strict=True)
        if raw.grad is not None
    }
    for state in ranks(used_on_one_rank):
        assert_same(state, expected, 1e-7)


def gradients_of_each(rank: int, run: str) -> State:
    model = constrained(6)
    wrapped = DistributedDataParallel(model)
    PASSES[run](wrapped, *share(batches(6, 1)[0], rank))
    return {name: raw.grad for name, raw in model.named_parameters() if raw.grad is not None}


@pytest.mark.parametrize("run", PASSES)
def test_gradients_are_those_of_one_process_and_equal_on_all_ranks(ranks: Ranks, run: str):
    model = constrained(6)
    PASSES[run](model, *batches(6, 1)[0])
    expected = {name: raw.grad for name, raw in model.named_parameters() if raw.grad is not None}
    states = ranks(gradients_of_each, run)
    assert_equal_on_all(states)
    assert_same(states[0], expected, 1e-7)


def values_inside(rank: int) -> dict[str, float]:
    """How far each constrained weight is outside its set after training in eval, by torch's own functions."""
    model = constrained(6)
    wrapped = DistributedDataParallel(model)
    train(wrapped, "once", "SGD", [share(batch, rank) for batch in batches(6, 8)])
    wrapped.eval()
    with torch.no_grad():
        wrapped(torch.randn(2, 6))
    weights = {name: getattr(model, name).weight.detach().double() for name in ("spectral", "orthogonal", "chained")}
    gram = weights["orthogonal"].T @ weights["orthogonal"]
    return {
        "spectral": float(torch.linalg.matrix_norm(weights["spectral"], 2)) / 0.5 - 1,
        "orthogonal": float((gram - torch.eye(6, dtype=torch.float64)).abs().max()),
        "symmetric": float((weights["chained"] - weights["chained"].T).abs().max()),
        "chained": float(torch.linalg.matrix_norm(weights["chained"], 2)) / 0.9 - 1,
    }


def test_weights_are_inside_their_sets_on_all_ranks(ranks: Ranks):
    for outside in ranks(values_inside):
        assert outside["spectral"] <= 1e-3
        assert outside["orthogonal"] <= 5e-6
        assert outside["symmetric"] == 0.0
        assert outside["chained"] <= 1e-3


def from_another_seed(rank: int, held: bool) -> tuple[State, State]:
    """Raws, state and values after wrapping a model that each rank has drawn for itself."""
    torch.manual_seed(100 + rank)
    model = surgery.apply_constraints(Net(6), RULES)
    if held:
        model(torch.randn(2, 6)).sum()
    DistributedDataParallel(model)
    return model.state_dict(), surgery.state_dict(model, format="plain")


@pytest.mark.parametrize("held", [True, False])
def test_wrapping_gives_all_ranks_the_values_of_the_first(ranks: Ranks, held: bool):
    answers = ranks(from_another_seed, held)
    torch.manual_seed(100)
    expected = surgery.apply_constraints(Net(6), RULES).state_dict()
    assert_equal_on_all([own for own, _ in answers])
    assert_equal_on_all([values for _, values in answers])
    assert_same(answers[1][0], expected, 1e-6)


def load_into_wrapped(rank: int, format: str, held: bool) -> tuple[State, State]:
    """A state dict of another model, with the wrapper's prefix, into a wrapped one that has trained."""
    torch.manual_seed(11)
    other = surgery.apply_constraints(Net(6), RULES)
    source = plain(6) if format == "unconstrained" else other
    state = source.state_dict() if format == "unconstrained" else surgery.state_dict(source, format=format)
    model = constrained(6)
    wrapped = DistributedDataParallel(model)
    train(wrapped, "once", "SGD", [share(batch, rank) for batch in batches(6, 2)])
    if held:
        wrapped(torch.randn(2, 6)).sum()
    wrapped.load_state_dict({f"module.{key}": tensor for key, tensor in state.items()}, strict=True)
    expected = constrained(6) if format == "unconstrained" else other
    return surgery.state_dict(model, format="plain"), surgery.state_dict(expected, format="plain")


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("format", ["own", "plain", "unconstrained"])
def test_a_wrapped_model_loads_strictly(ranks: Ranks, format: str, held: bool):
    for found, expected in ranks(load_into_wrapped, format, held):
        assert_same(found, expected, 1e-6)


def keys_of_wrapped(rank: int) -> tuple[list[str], list[str]]:
    model = constrained(6)
    wrapped = DistributedDataParallel(model)
    return list(wrapped.state_dict()), list(surgery.state_dict(wrapped, format="plain"))


def test_the_keys_of_a_wrapped_model_are_the_models_own_with_a_prefix(ranks: Ranks):
    own, values = ranks(keys_of_wrapped)[0]
    assert own == [f"module.{key}" for key in constrained(6).state_dict()]
    assert values == [f"module.{key}" for key in plain(6).state_dict()]


def evaluations(rank: int, synchronised: bool, quiet: bool) -> tuple[list[int], int]:
    """Evaluations in each of three steps of four micro-batches, and in four forwards of eval."""
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    surgery.constrain(model[0], weight=Counting())
    counting = model[0].weight.constraints[0]
    wrapped = DistributedDataParallel(model, forward_sync_buffers=synchronised)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    counts = []
    for _ in range(3):
        counting.evaluations.clear()
        for i in range(4):
            with wrapped.no_sync() if quiet and i < 3 else contextlib.nullcontext():
                wrapped(torch.randn(4, 6)).sum().backward()
        optimizer.step()
        counts.append(len(counting.evaluations))
    wrapped.eval()
    counting.evaluations.clear()
    with torch.no_grad():
        for _ in range(4):
            wrapped(torch.randn(4, 6))
    return counts, len(counting.evaluations)


@pytest.mark.parametrize("quiet", [True, False], ids=["no_sync", "all reduced"])
@pytest.mark.parametrize("synchronised", [True, False], ids=["buffers synchronised", "buffers not synchronised"])
def test_a_value_without_state_is_held_for_a_step(ranks: Ranks, synchronised: bool, quiet: bool):
    """Whatever the wrapper does with buffers: this value depends on none."""
    for in_training, in_eval in ranks(evaluations, synchronised, quiet):
        assert in_training == [1, 1, 1]
        assert in_eval == 1


def baked_after_training(rank: int) -> tuple[State, float]:
    """Plain weights, and how far the outputs move."""
    model = constrained(6)
    wrapped = DistributedDataParallel(model)
    train(wrapped, "once", "SGD", [share(batch, rank) for batch in batches(6, 4)])
    x = batches(6, 1)[0][0]
    wrapped.eval()
    with torch.no_grad():
        before = wrapped(x)
        with pytest.warns(UserWarning, match="baked inside DistributedDataParallel"):
            surgery.bake(wrapped)
        return model.state_dict(), float((wrapped(x) - before).abs().max())


def test_baking_after_training_gives_every_rank_the_same_plain_model(ranks: Ranks):
    answers = ranks(baked_after_training)
    assert_equal_on_all([state for state, _ in answers])
    assert list(answers[0][0]) == list(plain(6).state_dict())
    assert all(distance <= 1e-6 for _, distance in answers)
    bare = plain(6)
    bare.load_state_dict(answers[0][0])


def raise_on_one(rank: int) -> int:
    if rank == 1:
        raise ValueError("this rank alone")
    return rank


def hang_on_one(rank: int) -> int:
    if rank == 1:
        torch.distributed.barrier()
    return rank


def warn_on_one(rank: int) -> None:
    if rank == 1:
        torch.nn.functional.mse_loss(torch.ones(2, 1), torch.ones(2, 2))


def rank_of(rank: int) -> int:
    return torch.distributed.get_rank()


FAILURES = {
    raise_on_one: r"raise_on_one:\nrank 0: done\nrank 1: Traceback[\s\S]*ValueError: this rank alone",
    hang_on_one: r"hang_on_one:\nrank 0: done\nrank 1: ended\nTimeout[\s\S]*in hang_on_one",
    warn_on_one: r"warn_on_one:\nrank 0: done\nrank 1: Traceback[\s\S]*UserWarning: Using a target size",
}


def test_a_rank_that_fails_hangs_or_warns_is_told_and_the_next_call_has_new_ones(
    tmp_path_factory: pytest.TempPathFactory,
):
    ranks = Ranks(WORLD, tmp_path_factory.mktemp("ranks"), seconds=2)
    for function, message in FAILURES.items():
        with pytest.raises(RankError, match=message):
            ranks(function)
    assert ranks(rank_of) == [0, 1]
    ranks.close()
