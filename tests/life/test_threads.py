"""Several at once: threads that read one model in mixed grad modes, and workers that load data through one.

Threads get the right values, of as many evaluations as one thread makes. Workers by fork and by spawn get a model of
their own, or the memory that they share, and answer as the main process does.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import computed
import surgery
from computed.parameter import ComputedParameter
from tests.computed.identity import Counting
from tests.surgery.models import MODELS

THREADS = 8
ROUNDS = {"small": 5, "full": 100}
# newer Python warns of each fork of a process with threads, and torch has some
FORKS = pytest.mark.filterwarnings(r"ignore:This process \(pid=\d+\) is multi-threaded:DeprecationWarning")
MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "grad": torch.enable_grad,
}


def counted() -> tuple[nn.Module, list[Counting]]:
    """Two layers whose evaluations are counted; the projections are over."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    surgery.apply_constraints(model, {"*.weight": Counting})
    counters = [constraint for one in surgery.computed_parameters(model).values() for constraint in one.constraints]
    forget(model, counters)
    return model, counters


def forget(model: nn.Module, counters: list[Counting]) -> None:
    for parameter in surgery.computed_parameters(model).values():
        parameter.forget()
    for counter in counters:
        counter.evaluations.clear()


def evaluations(counters: list[Counting]) -> list[int]:
    return [len(counter.evaluations) for counter in counters]


def truth(model: nn.Module, batch: Tensor) -> np.ndarray:
    """tanh(raw) by hand, in float64."""
    first, second = model[0], model[2]
    weights = [np.tanh(layer.weight.raws["raw"].detach().double().numpy()) for layer in (first, second)]
    biases = [layer.bias.detach().double().numpy() for layer in (first, second)]
    hidden = np.tanh(batch.double().numpy() @ weights[0].T + biases[0])
    return hidden @ weights[1].T + biases[1]


def at_once(works: list[Callable[[], object]]) -> list[object]:
    """What ``works`` give, each in a thread of its own, started together; an error of one is raised."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(run, work) for work in works]]


def in_modes(model: nn.Module, batch: Tensor, modes: list[str]) -> list[Callable[[], Tensor]]:
    def reader(mode: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with MODES[mode]():
                return model(batch)

        return read

    return [reader(mode) for mode in modes]


MIXES = {
    "no_grad": ["no_grad"] * THREADS,
    "inference_mode": ["inference_mode"] * THREADS,
    "grad": ["grad"] * THREADS,
    "mixed": ["no_grad", "inference_mode", "grad", "inference_mode", "no_grad", "grad", "grad", "inference_mode"],
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("mix", MIXES)
def test_eight_threads_get_the_right_values_of_as_few_evaluations_as_one_makes(mix: str, training: bool, size: str):
    model, counters = counted()
    model.train(training)
    batch = torch.randn(3, 6)
    alone = set()
    for order in (MIXES[mix], MIXES[mix][::-1]):
        forget(model, counters)
        for read in in_modes(model, batch, order):
            read()
        alone.add(tuple(evaluations(counters)))
    most = max(alone)
    expected = truth(model, batch)
    for _ in range(ROUNDS[size]):
        forget(model, counters)
        outputs = at_once(in_modes(model, batch, MIXES[mix]))
        for output, mode in zip(outputs, MIXES[mix], strict=True):
            assert isinstance(output, Tensor)
            np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(output, outputs[0])
            assert output.requires_grad == (mode == "grad")
            assert output.is_inference() == (mode == "inference_mode")
        # whether a value without a graph is made before one with a graph depends on who comes first
        assert all(1 <= number <= highest for number, highest in zip(evaluations(counters), most, strict=True))


def test_one_thread_evaluates_once_in_training_and_twice_at_most_in_eval():
    """What the threads are compared with."""
    model, counters = counted()
    batch = torch.randn(3, 6)
    for training, most in ((True, 1), (False, 2)):
        model.train(training)
        forget(model, counters)
        for read in in_modes(model, batch, MIXES["mixed"]):
            read()
        assert evaluations(counters) == [most, most]


@pytest.mark.parametrize("name", MODELS)
def test_threads_read_every_kind_of_model(name: str):
    make, draw, rules = MODELS[name]
    model, batch = surgery.apply_constraints(make(), rules).eval(), draw()
    with torch.no_grad():
        expected = model(batch)
    for parameter in surgery.computed_parameters(model).values():
        parameter.forget()
    for output in at_once(in_modes(model, batch, MIXES["mixed"])):
        assert isinstance(output, Tensor)
        # torch's fused attention, in one grad mode and not in another, rounds in another way
        torch.testing.assert_close(output.detach().clone(), expected, rtol=1e-4, atol=1e-5)


def test_a_value_first_read_in_inference_mode_by_a_thread_trains_in_another(size: str):
    """Gradients of the plain twin, by the chain rule for tanh."""
    for _ in range(ROUNDS[size]):
        model, _ = counted()
        batch = torch.randn(3, 6)
        at_once(in_modes(model, batch, ["inference_mode"] * THREADS))
        plain = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        with torch.no_grad():
            for position in (0, 2):
                plain[position].weight.copy_(model[position].weight.raws["raw"].tanh())
                plain[position].bias.copy_(model[position].bias)
        for one in (model, plain):
            one(batch).square().sum().backward()
        for position in (0, 2):
            raw = model[position].weight.raws["raw"]
            assert raw.grad is not None
            slope = 1 - raw.detach().tanh().square()
            torch.testing.assert_close(raw.grad, plain[position].weight.grad * slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["spectral(bound=0.5)", "orthogonal", "lora(2)", "weight_norm"])
def test_threads_that_go_backward_at_once_add_up_their_gradients(spec: str):
    """The sum of what one thread gives for each batch."""
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)), {"*.weight": spec})
    batches = [torch.randn(3, 6) for _ in range(THREADS)]
    expected: dict[str, Tensor] = {}
    for batch in batches:
        model(batch).square().sum().backward()
    for name, raw in model.named_parameters():
        if raw.grad is not None:
            expected[name] = raw.grad.clone()
    model.zero_grad()

    def backward(batch: Tensor) -> Callable[[], None]:
        return lambda: model(batch).square().sum().backward()

    for parameter in surgery.computed_parameters(model).values():
        parameter.forget()
    at_once([backward(batch) for batch in batches])
    found = {name: raw.grad for name, raw in model.named_parameters() if raw.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_readers_beside_a_writer_get_what_was_written_before_or_is_written_now():
    """Entry by entry, as in a plain tensor; the last write stands."""
    layer = surgery.constrain(nn.Linear(32, 32), weight="interval(-10, 10)").eval()
    states = [torch.full((32, 32), -3.0), torch.full((32, 32), 4.0)]
    stop = threading.Event()
    with torch.no_grad():
        layer.weight.copy_(states[0])
        layer.weight.peek()

    def write() -> None:
        for turn in range(1, 60):
            with torch.no_grad():
                layer.weight.copy_(states[turn % 2])
                layer.weight.peek()
        stop.set()

    def read() -> int:
        seen = 0
        while not stop.is_set():
            with torch.no_grad():
                value = layer.weight.peek().clone()
            nearest = torch.stack([(value - state).abs() for state in states]).amin(0)
            assert float(nearest.amax()) < 1e-4
            seen += 1
        return seen

    _, first, second = at_once([write, read, read])
    assert first
    assert second
    assert torch.allclose(layer.weight.detach(), states[1], atol=1e-4)


def test_a_reader_in_the_midst_of_its_work_sees_old_entries_or_new_ones():
    """A product that reads the weight for a second, beside writes: no entry is of memory that was freed under it."""
    layer = surgery.constrain(nn.Linear(64, 64), weight="interval(-10, 10)").eval()
    states = [torch.full((64, 64), -3.0), torch.full((64, 64), 4.0)]
    batch = torch.ones(2000, 64, 64)
    with torch.no_grad():
        layer.weight.copy_(states[0])
        value = layer.weight.peek()
    results: list[Tensor] = []
    reader = threading.Thread(target=lambda: results.append(batch * value))
    reader.start()
    turn = 0
    while reader.is_alive() or turn < 10:
        turn += 1
        with torch.no_grad():
            layer.weight.copy_(states[turn % 2])
            layer.weight.peek()
    reader.join()
    nearest = torch.minimum((results[0] - states[0]).abs(), (results[0] - states[1]).abs())
    assert float(nearest.amax()) < 1e-4


@pytest.mark.parametrize("read", ["no_grad", "graph", "forgiven", "lent"])
def test_what_a_value_had_before_a_write_stays_as_long_as_its_readers(read: str):
    """Until the last one has let go of the value; then it is freed."""
    layer = surgery.constrain(nn.Linear(8, 8, bias=False), weight="interval(-10, 10)").eval()
    computed.caching(layer, enabled=read != "lent")
    with torch.set_grad_enabled(read == "graph"):
        value = layer.weight.value()
    lent, held = layer.weight._lent, layer.weight._holds[False]
    before = weakref.ref(lent.bits if read == "lent" else held.snapshot)
    with torch.no_grad():
        if read == "forgiven":
            value.detach().mul_(1)
        else:
            layer.weight.mul_(2)
        layer.weight.value()
        del lent, held
        layer.weight.value()
        assert before() is not None
    del value
    layer.weight.forget()
    assert before() is None


def test_a_write_is_projected_whole_whoever_reads_meanwhile():
    """A reader that comes in the midst of it waits, and the second half of it is not lost."""
    layer = surgery.constrain(nn.Linear(2, 2, bias=False), weight="symmetric").eval()
    began, values = threading.Event(), []

    def read() -> None:
        began.wait()
        with torch.no_grad():
            values.append(layer.weight.peek().clone())

    reader = threading.Thread(target=read)
    reader.start()
    with torch.no_grad(), layer.weight.writing("a write in two halves") as target:
        target[0] = 1.0
        began.set()
        reader.join(0.2)
        target[1] = 1.0
    reader.join()
    assert torch.equal(values[0], torch.ones(2, 2))
    assert torch.equal(layer.weight.detach(), torch.ones(2, 2))


def test_threads_share_a_computed_parameter_that_others_copy_and_print():
    """Copies, prints, checks and state dicts beside inference."""
    model, _ = counted()
    model.eval()
    batch = torch.randn(3, 6)
    expected = truth(model, batch)

    def look() -> object:
        return [str(model[0].weight), surgery.check(model).ok, surgery.state_dict(model, format="plain")]

    outputs = at_once([*in_modes(model, batch, ["no_grad", "grad", "inference_mode"]), look, look, model.state_dict])
    for output in outputs[:3]:
        assert isinstance(output, Tensor)
        np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


class Encoded(Dataset[Tensor]):
    """Rows that a constrained model has encoded, as some augmentations and embeddings are made."""

    def __init__(self, model: nn.Module, rows: Tensor) -> None:
        self.model = model
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.model(self.rows[index : index + 1])[0]


def loaders(dataset: Encoded, start: str) -> Iterator[Tensor]:
    yield from DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=start)


def encoder(spec: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    return surgery.apply_constraints(model, {"*.weight": spec}).eval()


@FORKS
@pytest.mark.parametrize("held", [True, False], ids=["held before", "never read"])
@pytest.mark.parametrize("spec", ["spectral(bound=0.5)", "orthogonal", "weight_norm", "lora(2)"])
def test_forked_workers_load_through_a_constrained_model(spec: str, held: bool):
    model, rows = encoder(spec), torch.randn(6, 4)
    plain = surgery.bake(encoder(spec))
    plain.load_state_dict(surgery.state_dict(model, format="plain"))
    with torch.no_grad():
        expected = plain(rows)
        if held:
            model(rows)
        else:
            for parameter in surgery.computed_parameters(model).values():
                parameter.forget()
    loaded = torch.cat(list(loaders(Encoded(model, rows), "fork")))
    torch.testing.assert_close(loaded, expected)
    assert all(type(one) is ComputedParameter for one in surgery.computed_parameters(model).values())


@FORKS
def test_spawned_workers_load_through_a_constrained_model_and_the_model_goes_on():
    """The model is sent by pickle, with its raws in shared memory; here it is trained on and loaded through again."""
    model, rows = encoder("spectral(bound=0.5)"), torch.randn(6, 4)
    with torch.no_grad():
        expected = model(rows)
    loaded = torch.cat(list(loaders(Encoded(model, rows), "spawn")))
    torch.testing.assert_close(loaded, expected)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        optimizer.step()
    assert surgery.check(model.eval()).ok
    with torch.no_grad():
        after = model(rows)
    assert not torch.allclose(after, expected)
    torch.testing.assert_close(torch.cat(list(loaders(Encoded(model, rows), "fork"))), after)


@FORKS
def test_a_fork_in_the_midst_of_an_evaluation_of_another_thread_does_not_hang():
    """The child has one thread: a lock that another one held when it was forked would never be released."""
    model, rows = encoder("orthogonal"), torch.randn(6, 4)
    with torch.no_grad():
        expected = model(rows)
    stop = threading.Event()

    def evaluate() -> None:
        while not stop.is_set():
            for parameter in surgery.computed_parameters(model).values():
                parameter.forget()
            with torch.no_grad():
                model(rows)

    thread = threading.Thread(target=evaluate)
    thread.start()
    try:
        loaded = torch.cat(list(loaders(Encoded(model, rows), "fork")))
    finally:
        stop.set()
        thread.join()
    torch.testing.assert_close(loaded, expected)
