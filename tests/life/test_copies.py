"""Copies live a life of their own: pickles, files, processes, deepcopy, averages.

What is loaded in a fresh interpreter, which has imported nothing but torch, computes the same outputs, trains to the
same weights, and bakes; only its past, which `undo` would take back, has stayed behind. Copies share no memory.
"""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import computed
import surgery
from computed.parameter import ComputedParameter
from tests.surgery.models import MODELS

ROOT = Path(__file__).parents[2]
SIZES = {"small": 12, "full": 128}


def train(model: nn.Module, batch: Tensor, steps: int = 2) -> Tensor:
    """A few steps of SGD; returns the output that eval gives then."""
    model.train()
    optimizer = torch.optim.SGD([tensor for tensor in model.parameters() if tensor.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return model.eval()(batch)


def constrained(name: str) -> tuple[nn.Module, Tensor]:
    """One of the models, constrained and trained for a while, with a batch."""
    build, draw, rules = MODELS[name]
    model, batch = build(), draw()
    surgery.apply_constraints(model, rules)
    train(model, batch)
    return model, batch


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All that a model has registered, or as an attribute."""
    for prefix, module in model.named_modules():
        for attributes in (module._parameters, module._buffers, vars(module)):
            for name, found in attributes.items():
                if isinstance(found, Tensor):
                    yield f"{prefix}.{name}", found


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors(model)}


def assert_same_bits(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = bits(model)
    assert after.keys() == before.keys()
    assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []


def storages(model: nn.Module) -> set[int]:
    """The addresses of all memory that a model owns."""
    return {tensor.untyped_storage().data_ptr() for _, tensor in tensors(model)}


PREAMBLE = """
import io, pickle, sys
import torch
assert not {"computed", "surgery"} & set(sys.modules)
torch.set_num_threads(int(sys.argv[2]))
"""

LOADED = """
with open(sys.argv[1], "rb") as file:
    entries = pickle.load(file)
assert not {"computed", "surgery"} & set(sys.modules)
readers = {"pickle": pickle.load, "torch.save": lambda file: torch.load(file, weights_only=False)}
loaded = [readers[how](io.BytesIO(entry)) for how, entry in entries]

import computed, surgery
from tests.life.test_copies import train

for name, model, batch, expected, trained in loaded:
    with torch.no_grad():
        assert torch.equal(model.eval()(batch), expected), name
    try:
        surgery.undo(model)
    except surgery.UndoError as error:
        assert "nothing to undo on this" in str(error) and "copies and loaded models have none" in str(error), error
    else:
        raise AssertionError(name)
    torch.testing.assert_close(train(model, batch), trained, rtol=1e-5, atol=1e-6, msg=name)
    assert surgery.check(model).ok, name
    with torch.no_grad():
        expected = model(batch)
        assert not surgery.computed_parameters(surgery.bake(model)), name
        torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=1e-6, msg=name)
print(len(loaded), "models")
"""

WITHOUT_SURGERY = """
with open(sys.argv[1], "rb") as file:
    model, batch, expected, trained = pickle.load(file)
with torch.no_grad():
    assert torch.equal(model.eval()(batch), expected)
optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
for _ in range(2):
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
with torch.no_grad():
    assert torch.equal(model.eval()(batch), trained)
print("surgery" in sys.modules, "computed" in sys.modules)
"""


def in_a_fresh_interpreter(code: str, file: Path) -> str:
    """What an interpreter prints that has not seen any of our packages yet."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", PREAMBLE + code]
    # as many threads as here: with others, sums are rounded in another order
    command += [str(file), str(torch.get_num_threads())]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def pickled(whole: object) -> bytes:
    return pickle.dumps(whole)


def saved(whole: object) -> bytes:
    file = io.BytesIO()
    torch.save(whole, file)
    return file.getvalue()


WRITERS: dict[str, Callable[[object], bytes]] = {"pickle": pickled, "torch.save": saved}


def test_a_fresh_interpreter_that_has_imported_torch_alone_goes_on_with_a_whole_model(tmp_path: Path):
    """From train mode and from eval, by pickle and by torch's own files."""
    entries = []
    for name in MODELS:
        model, batch = constrained(name)
        with torch.no_grad():
            expected = model(batch)
        trained = train(copy.deepcopy(model), batch)
        for mode, (how, write) in itertools.product((True, False), WRITERS.items()):
            entries.append((how, write((f"{name}, {how}, {mode}", model.train(mode), batch, expected, trained))))
    (tmp_path / "models").write_bytes(pickle.dumps(entries))
    printed = in_a_fresh_interpreter(LOADED, tmp_path / "models")
    assert printed == f"{len(entries)} models\n"


def test_a_model_without_a_history_loads_and_trains_without_surgery(tmp_path: Path):
    """What a fresh interpreter imports for a computed parameter is enough for the steps of its state."""
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    surgery.apply_constraints(model, {"0.weight": "spectral", "2.weight": "symmetric | spectral"}, keep_undo=False)
    batch = torch.randn(3, 5)
    expected = train(model, batch)
    trained = train(copy.deepcopy(model), batch)
    (tmp_path / "model").write_bytes(pickle.dumps((model, batch, expected, trained)))
    assert in_a_fresh_interpreter(WITHOUT_SURGERY, tmp_path / "model") == "False True\n"


def test_a_value_that_was_written_is_projected_into_a_pickle():
    """A pending write travels as what it means, and the original keeps it."""
    for write in (pickle.dumps, saved):
        layer = surgery.constrain(nn.Linear(4, 4), weight="symmetric")
        value = torch.randn(4, 4)
        with torch.no_grad():
            layer.weight.copy_(value)
        written = io.BytesIO(write(layer))
        again = pickle.load(written) if write is pickle.dumps else torch.load(written, weights_only=False)
        expected = (value + value.T) / 2
        for one in (again, layer):
            torch.testing.assert_close(one.weight.detach(), expected)


def work_on(model: nn.Module, batch: Tensor, answers: object) -> None:
    """What a spawned process does with a model that it was given."""
    with torch.no_grad():
        before = model(batch)
    after = train(model, batch)
    ok = surgery.check(model).ok
    try:
        surgery.undo(model)
    except surgery.UndoError as error:
        message = str(error)
    else:
        message = "undone"
    with torch.no_grad():
        baked = surgery.bake(model)(batch)
    kinds = sorted({type(module).__name__ for module in model.modules()})
    # numbers, not tensors: nothing is left to share when this process ends
    answers.put([before.tolist(), after.tolist(), baked.tolist(), ok, message, kinds])


def test_a_spawned_process_works_on_a_model_that_it_was_given():
    """It gets its model by torch's own pickler, which moves what is sent into memory that both share."""
    model, batch = constrained("resnet")
    with torch.no_grad():
        expected = model(batch)
    trained = train(copy.deepcopy(model), batch)
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=work_on, args=(model, batch, answers))
    process.start()
    before, after, baked, ok, message, kinds = answers.get()
    process.join()
    assert process.exitcode == 0
    torch.testing.assert_close(torch.tensor(before), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(after), trained, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(baked), torch.tensor(after), rtol=1e-5, atol=1e-6)
    assert ok
    assert "copies and loaded models have none" in message
    assert "ComputedParameter" not in kinds


def test_what_a_spawned_process_trains_in_shared_memory_is_trained_here_too():
    """As with a plain model: both processes have the same raws, and no value is held over them."""
    plain, batch = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), torch.randn(3, 4)
    model = surgery.apply_constraints(copy.deepcopy(plain), {"*.weight": "symmetric"}).share_memory()
    twin = copy.deepcopy(model)
    expected = train(twin, batch)
    with torch.no_grad():
        before = model.eval()(batch)
    context = torch.multiprocessing.get_context("spawn")
    process = context.Process(target=train, args=(model, batch))
    process.start()
    process.join()
    assert process.exitcode == 0
    with torch.no_grad():
        after = model(batch)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("spec", ["spectral(bound=0.5)", "orthogonal", "weight_norm", "lora(2)"])
def test_a_deep_copy_of_an_lstm_after_forward_and_backward_is_an_lstm_of_its_own(spec: str, mode: str, size: str):
    width = SIZES[size]
    lstm = nn.LSTM(5, width, num_layers=2, bidirectional=True)
    surgery.apply_constraints(lstm, {"weight_*": spec}).train(mode == "train")
    batch = torch.randn(7, 3, 5)
    expected = lstm(batch)[0]
    expected.square().mean().backward()
    again = copy.deepcopy(lstm)
    assert torch.equal(again(batch)[0], expected)
    assert all(own is weight for own, weight in zip(again._flat_weights, flat_weights(again), strict=True))
    assert not {id(weight) for weight in again._flat_weights} & {id(weight) for weight in lstm._flat_weights}
    before = bits(lstm)
    gradients = {name: tensor.grad.clone() for name, tensor in lstm.named_parameters() if tensor.grad is not None}
    optimizer = torch.optim.Adam(again.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        again(batch)[0].square().mean().backward()
        optimizer.step()
    assert not torch.equal(again(batch)[0], expected)
    assert_same_bits(lstm, before)
    assert torch.equal(lstm(batch)[0], expected)
    for name, tensor in lstm.named_parameters():
        assert tensor.grad is None or torch.equal(tensor.grad, gradients[name]), name
    assert surgery.check(again).ok


def flat_weights(lstm: nn.LSTM) -> list[object]:
    """The weights in the order in which an LSTM lists them."""
    return [getattr(lstm, name) for name in lstm._flat_weights_names]


COPIERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model: torch.load(io.BytesIO(saved(model)), weights_only=False),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", COPIERS)
def test_a_copy_shares_no_memory_with_the_original(how: str, name: str):
    model, batch = constrained(name)
    with torch.no_grad():
        expected = model(batch)
    again = COPIERS[how](model)
    assert not storages(model) & storages(again)
    assert len(storages(again)) == len(storages(model))
    with torch.no_grad():
        assert torch.equal(again(batch), expected)
        before = bits(model)
        for _, tensor in tensors(again):
            tensor.zero_()
    assert_same_bits(model, before)
    with torch.no_grad():
        assert torch.equal(model(batch), expected)


@pytest.mark.parametrize("how", COPIERS)
def test_a_copy_keeps_classes_names_keys_ties_and_flags(how: str):
    for name in MODELS:
        model, _ = constrained(name)
        again = COPIERS[how](model)
        assert [(n, type(m)) for n, m in again.named_modules()] == [(n, type(m)) for n, m in model.named_modules()]
        assert list(again.state_dict()) == list(model.state_dict())
        assert repr(again) == repr(model)
        flags = [[(n, p.requires_grad, p.shape) for n, p in one.named_parameters()] for one in (model, again)]
        assert flags[0] == flags[1]
        assert list(surgery.computed_parameters(again)) == list(surgery.computed_parameters(model))


@pytest.mark.parametrize("average", ["ema", "mean"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_average_of_spectral_weights_is_inside_and_averaged_vectors_do_no_harm(average: str, mode: str, size: str):
    """`AveragedModel` averages raws and, with use_buffers=True, the vectors u and v; norms by NumPy in float64."""
    width = SIZES[size]
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
    surgery.apply_constraints(model, {"*.weight": "spectral"})
    function = get_ema_multi_avg_fn(0.9) if average == "ema" else None
    averaged = AveragedModel(model, multi_avg_fn=function, use_buffers=True).train(mode == "train")
    batch, target = torch.randn(32, width), torch.randn(32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        (model(batch) - target).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
    averaged.eval()
    with torch.no_grad():
        output = averaged(batch)
    norms = [spectral_norm(averaged.module[position].weight) for position in (0, 2, 4)]
    assert max(norms) <= 1.01
    assert min(norms) >= 0.99
    assert surgery.check(averaged).ok
    # the twin knows the raws alone: whatever became of u and v makes no difference
    twin = nn.Sequential(*[copy.deepcopy(layer) for layer in averaged.module])
    for position in (0, 2, 4):
        raw = averaged.module[position].weight.raws["raw"].detach().double().numpy()
        expected = raw / np.linalg.norm(raw, 2)
        np.testing.assert_allclose(averaged.module[position].weight.detach().numpy(), expected, rtol=2e-3, atol=1e-5)
        with torch.no_grad():
            twin[position].weight.copy_(torch.from_numpy(expected))
    with torch.no_grad():
        torch.testing.assert_close(twin(batch), output, rtol=5e-3, atol=1e-3)
        baked = surgery.bake(averaged)
        assert torch.equal(baked(batch), output)


def spectral_norm(weight: ComputedParameter) -> float:
    return float(np.linalg.svd(weight.detach().double().numpy(), compute_uv=False)[0])


def test_a_shallow_copy_of_a_host_reads_the_same_parameter():
    """As with a plain host: its registries are those of the original."""
    layer = surgery.constrain(nn.Linear(4, 4), weight="spectral(bound=0.5)")
    batch = torch.randn(3, 4)
    expected = layer(batch)
    again = copy.copy(layer)
    assert type(again) is nn.Linear
    assert again.weight is layer.weight
    assert torch.equal(again(batch), expected)
    assert list(again.state_dict()) == list(layer.state_dict())
    train(again, batch)
    assert torch.equal(again(batch), layer.eval()(batch))
    assert not torch.equal(again(batch), expected)
    assert surgery.check(again).ok


def test_a_shallow_copy_of_a_computed_parameter_has_the_same_raws():
    layer = surgery.constrain(nn.Linear(4, 4), weight="symmetric")
    again = copy.copy(layer.weight)
    assert type(again) is ComputedParameter
    assert again.raws["raw"] is layer.weight.raws["raw"]
    assert torch.equal(again, layer.weight)
    with torch.no_grad():
        layer.weight.raws["raw"].add_(1.0)
        assert torch.equal(again, layer.weight)


@pytest.mark.parametrize("cut", ["caching", "settings"])
def test_switches_and_settings_of_a_copy_are_its_own(cut: str):
    layer = surgery.constrain(nn.Linear(4, 4), weight="spectral(bound=0.5)").eval()
    again = copy.deepcopy(layer)
    if cut == "caching":
        computed.caching(again, False)
        assert layer.weight.caching
        assert torch.equal(again.weight, layer.weight)
    else:
        again.weight.constraints[0].bound = 0.25
        assert abs(spectral_norm(again.weight) - 0.25) < 1e-3
        assert abs(spectral_norm(layer.weight) - 0.5) < 1e-3
