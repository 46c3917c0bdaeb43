"""Copying memory: the task is what it should be, orthogonal stays orthogonal and beats who remembers nothing."""

import importlib.util
import math
from collections.abc import Iterator
from statistics import median

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import surgery
from examples import copying_memory as example

DELAY, HIDDEN = 30, 48


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What the example sets for its process, and put back: small matrices gain nothing by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs() -> dict[str, list[example.Run]]:
    """Each variant at a short delay."""
    steps = {"orthogonal": 200, "orthogonal, small steps": 3, "free, small steps": 3}
    return {
        name: [example.train(variant, 0, steps=steps.get(name, 60), delay=DELAY, hidden=HIDDEN)]
        for name, variant in example.VARIANTS.items()
    }


def test_a_sequence_is_shown_cued_and_said():
    inputs, said = example.sequences(5, DELAY)
    shown = inputs.argmax(-1)
    assert inputs.shape == (DELAY + 20, 5, 10)
    assert torch.equal(inputs.sum(-1), torch.ones(DELAY + 20, 5))
    assert torch.equal(shown[:10], said[-10:])
    assert int(shown[:10].max()) < example.SYMBOLS
    assert (said[:-10] == example.BLANK).all()
    cues = (shown == example.CUE).nonzero()
    assert cues[:, 0].tolist() == [10 + DELAY - 1] * 5  # ten symbols to say after it, ten steps left
    assert (shown[10 : 9 + DELAY] == example.BLANK).all()


def test_the_baseline_is_the_loss_of_who_guesses_among_eight():
    _, said = example.sequences(7, DELAY)
    logits = np.full((DELAY + 20, 7, 9), -60.0)
    logits[:-10, :, example.BLANK] = 0.0
    logits[-10:, :, : example.SYMBOLS] = 0.0
    chosen = np.take_along_axis(logits, said.numpy()[..., None], -1)[..., 0]
    assert (logsumexp(logits, axis=-1) - chosen).mean() == pytest.approx(example.baseline(DELAY))
    assert example.baseline(100) == pytest.approx(10 * math.log(8) / 120)


def test_states_are_those_of_a_loop_in_numpy():
    net = example.Recurrent(6).double()
    inputs = torch.randn(4, 3, 10, dtype=torch.double)
    with torch.no_grad():
        net.threshold.uniform_(-1, 1)
        states = net.states(inputs)
        weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    state = np.zeros((3, 6))
    for step, found in enumerate(states):
        moved = (
            inputs[step].numpy() @ weights["input.weight"].T + weights["input.bias"] + state @ weights["weight_hh"].T
        )
        state = np.where(np.abs(moved) + weights["threshold"] > 0, np.abs(moved) + weights["threshold"], 0)
        state = state * np.sign(moved)
        np.testing.assert_allclose(found.numpy(), state, atol=1e-12)


def test_orthogonal_beats_who_remembers_nothing_and_torchs_start_does_not(runs):
    bound = example.baseline(DELAY)
    assert runs["orthogonal"][0].final < bound / 2
    assert runs["orthogonal"][0].recalled > 0.7
    assert runs["free, torch's start"][0].final > 0.9 * bound
    assert runs["free, torch's start"][0].recalled < 0.3


def test_orthogonal_is_orthogonal_after_every_step_and_free_is_not(runs):
    for name in ("orthogonal", "orthogonal, small steps"):
        assert runs[name][0].error < 1e-5
        assert runs[name][0].singular_values == pytest.approx([1.0] * HIDDEN, abs=1e-5)
    assert runs["free"][0].error > 0.01
    assert runs["free"][0].singular_values[0] > 1.01


def test_gradients_reach_the_first_symbol_or_vanish(runs):
    assert len(runs["orthogonal"][0].gradients) == DELAY + 10
    assert 0.5 < runs["orthogonal"][0].gradients[0] < 2
    forgetful = example.gradient_norms(example.Recurrent(HIDDEN), 100)
    assert forgetful[-1] == 1
    assert forgetful[0] < 1e-6


def test_constrained_and_free_start_at_the_same_numbers():
    torch.manual_seed(3)
    free = example.Recurrent(12)
    torch.nn.init.orthogonal_(free.weight_hh)
    start = free.weight_hh.detach().clone()
    surgery.apply_constraints(free, example.RULES)
    assert torch.equal(free.weight_hh.detach(), start)
    first = {
        name: example.train(example.VARIANTS[name], 1, steps=1, delay=5, hidden=12).losses[0]
        for name in ("orthogonal", "free")
    }
    assert first["orthogonal"] == first["free"]


def test_orthogonal_learns_on_every_seed_at_full_size(size, evidence, one_thread):
    if size != "full":
        pytest.skip("a training of full length, in `make test-full`")
    losses = {
        name: [example.train(example.VARIANTS[name], seed).final for seed in example.SEEDS]
        for name in ("orthogonal", "free")
    }
    assert max(losses["orthogonal"]) < example.baseline(example.DELAY) / 2
    text = ", ".join(f"{name} {median(several):.3f}" for name, several in losses.items())
    evidence(f"copying ten symbols over {example.DELAY} blanks, loss, without a memory 0.173, median of 3 seeds", text)


def test_the_picture_and_the_table(runs, tmp_path, capsys):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the picture needs matplotlib, of the extra 'examples'")
    example.print_table(runs, DELAY)
    printed = capsys.readouterr().out
    assert all(printed.count(name) >= 2 for name in example.VARIANTS)
    assert max(map(len, printed.splitlines())) <= 80
    example.draw(runs, tmp_path / "new" / "picture.png", DELAY)
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
