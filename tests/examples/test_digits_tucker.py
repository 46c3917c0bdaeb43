"""Digits by factored convolutions: counts, residuals and ranks against NumPy, layers against torch's own."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import surgery

pytest.importorskip("sklearn", reason="the digits are those of scikit-learn, of the extra 'examples'")

from examples import digits_tucker as example

WIDE = ("conv2", "conv3")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the example runs by itself: its batches are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dense() -> example.Network:
    return example.pretrained(0, 1)


@pytest.fixture(scope="module")
def factored(dense) -> dict[str, tuple[surgery.Plan, torch.nn.Module]]:
    """For each spec its plan, and the network that it was applied to."""
    made = {}
    for spec in example.SPECS:
        model = copy.deepcopy(dense)
        plan = surgery.plan(model, {example.FACTORED: spec})
        plan.apply()
        made[spec] = plan, model.eval()
    return made


def unfolded(weight: torch.Tensor, mode: int) -> np.ndarray:
    return np.moveaxis(weight.detach().double().numpy(), mode, 0).reshape(weight.shape[mode], -1)


@pytest.mark.parametrize("spec", example.SPECS)
def test_factors_have_their_share_of_the_numbers(dense, factored, spec):
    model = factored[spec][1]
    share = float(spec.partition("(")[2].rstrip(")"))
    for name in WIDE:
        numbers = dense.get_submodule(name).weight.numel()
        trained = sum(raw.numel() for raw in surgery.computed_parameters(model)[f"{name}.weight"].raws.values())
        assert 0.75 * share * numbers < trained <= share * numbers
    others = sum(each.numel() for name, each in dense.named_parameters() if name.split(".weight")[0] not in WIDE)
    raws = sum(raw.numel() for each in surgery.computed_parameters(model).values() for raw in each.raws.values())
    assert example.numbers(model) == others + raws


@pytest.mark.parametrize("spec", example.SPECS)
def test_the_plan_says_how_far_the_weights_are_moved(dense, factored, spec):
    plan, model = factored[spec]
    for row, name in zip(plan.sites, WIDE, strict=True):
        before, after = (net.get_submodule(name).weight.detach().double().numpy() for net in (dense, model))
        exact = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert row.measures.moved == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("share", example.SHARES)
def test_the_residual_is_near_the_least_for_these_ranks(dense, factored, share):
    """No tensor of these ranks is nearer than the best matrix of one of them; Tucker's is within sqrt(2) of that."""
    model = factored[f"tucker({share})"][1]
    for name in WIDE:
        before, after = dense.get_submodule(name).weight, model.get_submodule(name).weight
        core = surgery.computed_parameters(model)[f"{name}.weight"].raws["core"]
        tails = []
        for mode in (0, 1):
            rank = core.shape[mode]
            sigma = np.linalg.svd(unfolded(after, mode), compute_uv=False)
            assert sigma[rank:].max(initial=0.0) < 1e-5 * sigma[0]
            tails.append(np.linalg.norm(np.linalg.svd(unfolded(before, mode), compute_uv=False)[rank:]))
        residual = float((after.detach() - before.detach()).double().norm())
        assert max(tails) * (1 - 1e-4) <= residual <= np.linalg.norm(tails) * (1 + 1e-4)


@pytest.mark.parametrize("spec", example.SPECS)
def test_layers_by_their_factors_are_those_of_the_value(dense, factored, spec):
    model = factored[spec][1]
    maps = torch.randn(2, 64, 5, 4)
    value = model.conv2.weight.detach().clone()
    expected = functional.conv2d(maps.double(), value.double(), dense.conv2.bias.double(), padding=1)
    with torch.no_grad():
        assert torch.allclose(model.conv2(maps).double(), expected, atol=1e-4 * float(expected.detach().abs().max()))


def test_fewer_numbers_move_weights_further_and_training_on_brings_accuracy_back(dense):
    fits = [example.factored(dense, spec, 1)[1] for spec in (example.DENSE, "tucker(0.25)", "tucker(0.01)")]
    assert [each.numbers for each in fits] == sorted((each.numbers for each in fits), reverse=True)
    assert [each.moved for each in fits] == sorted(each.moved for each in fits)
    assert fits[0].moved == 0
    assert fits[0].numbers == example.numbers(dense) == 227_210
    assert fits[2].at_once < fits[1].at_once
    assert fits[2].tuned > fits[2].at_once + 0.1


def test_training_on_moves_factors_and_keeps_the_ranks(dense, factored):
    model, _ = example.factored(dense, "tucker(0.03)", 1)
    before = factored["tucker(0.03)"][1]
    assert surgery.check(model).ok
    for name in WIDE:
        raws = (surgery.computed_parameters(net)[f"{name}.weight"].raws for net in (before, model))
        for old, new in zip(*(each.values() for each in raws), strict=True):
            assert old.shape == new.shape
            assert not torch.equal(old, new)


def test_each_model_has_its_turn(dense):
    calls: list[str] = []

    class Counted(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            assert pixels.shape == (64, 1, 8, 8)
            assert not torch.is_grad_enabled()
            calls.append(self.name)
            return pixels

    times = example.interleaved({"a": Counted("a"), "b": Counted("b")}, 64, rounds=3)
    assert calls == ["a", "b"] * 4  # the first round warms up
    assert set(times) == {"a", "b"}
    assert min(times.values()) >= 0


def test_all_of_it(size, evidence, monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the picture needs matplotlib, of the extra 'examples'")
    picture = tmp_path / "new" / "picture.png"
    if size == "small":
        monkeypatch.setattr(example, "SPECS", ("tucker(0.1)", "cp(0.1)"))
        monkeypatch.setattr(example, "TIMED", (1, 8))
    example.main(picture, *(() if size == "full" else (1, 1, 1)))
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed[:-1])) <= 80  # the last line is the path
    assert printed[-1] == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = {line.split()[0]: line.split()[1:5] for line in printed if line.endswith(" ms")}
    assert list(rows) == [example.DENSE, *example.SPECS]
    for spec, (numbers, moved, at_once, tuned) in rows.items():
        told = f"{numbers} numbers, moved {moved}, {at_once} at once, {tuned} trained on"
        evidence(f"digits by factored convolutions, {spec}", told)
