"""Digits with two of four weights zero: counted, compared with NumPy's choice, packed and unpacked by torch."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.sparse import _semi_structured_conversions as conversions

import surgery

pytest.importorskip("sklearn", reason="the digits are those of scikit-learn, of the extra 'examples'")

from examples import digits_two_four as example

PRUNED = ("conv2.weight", "hidden.weight", "head.weight")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the example runs by itself: its batches are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dense() -> example.Network:
    return example.pretrained(0, 6)


@pytest.fixture(scope="module")
def baked(dense) -> torch.nn.Module:
    return example.pruned(dense, example.TWO_FOUR, 2)[0]


def fours(weight: torch.Tensor) -> np.ndarray:
    """Neighbours among the inputs, by NumPy: (groups, 4)."""
    return np.moveaxis(weight.detach().numpy(), 1, -1).reshape(-1, 4)


@pytest.mark.parametrize("name", PRUNED)
def test_no_four_has_more_than_two_and_half_of_all_are_zero(baked, name):
    weight = baked.get_parameter(name)
    assert type(weight) is torch.nn.Parameter
    nonzero = np.count_nonzero(fours(weight), axis=1)
    assert nonzero.max() <= 2
    assert np.count_nonzero(weight.detach().numpy()) == weight.numel() // 2
    assert torch.equal(example.groups_of_four(weight), torch.from_numpy(fours(weight)))


@pytest.mark.parametrize("name", PRUNED)
def test_the_largest_two_of_each_four_stay_bit_for_bit(dense, name):
    """At once: NumPy sorts sizes, and what is kept has the bits that it had."""
    before = fours(dense.get_parameter(name))
    model = surgery.bake(surgery.apply_constraints(copy.deepcopy(dense), example.TWO_FOUR))
    order = np.argsort(-np.abs(before), axis=1, kind="stable")
    expected = before.copy()
    np.put_along_axis(expected, order[:, 2:], 0.0, axis=1)
    assert np.array_equal(fours(model.get_parameter(name)), expected)


def test_training_on_keeps_the_zeros_and_moves_the_rest(dense, baked):
    at_once = surgery.bake(surgery.apply_constraints(copy.deepcopy(dense), example.TWO_FOUR))
    for name in PRUNED:
        before, after = at_once.get_parameter(name), baked.get_parameter(name)
        assert torch.equal(before == 0, after == 0)
        assert not torch.equal(before, after)


def test_one_input_makes_no_four(dense):
    with pytest.raises(
        surgery.PlanError, match=r"conv1\.weight.* 4 does not divide dimension 1 of shape \(16, 1, 3, 3\)"
    ):
        surgery.apply_constraints(copy.deepcopy(dense), {"conv1.weight": "n_m(2, 4)"})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["conv2.weight", "hidden.weight"])
def test_torch_packs_the_baked_weights_and_gives_them_back(baked, name, dtype):
    """torch's conversion for CUTLASS needs no GPU; a weight that is not of this pattern does not survive it.

    Columns come in 64s: the 144 of the convolution get zeros beside them.
    """
    matrix = example.as_matrix(baked.get_parameter(name)).to(dtype)
    matrix = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % 64))
    packed, meta = conversions.sparse_semi_structured_from_dense_cutlass(matrix)
    assert packed.numel() == matrix.numel() // 2
    again = conversions.sparse_semi_structured_to_dense_cutlass(packed, meta)
    assert torch.equal(again, matrix)
    kept = matrix != 0
    assert torch.equal(again[kept].view(torch.int16), matrix[kept].view(torch.int16))
    free = matrix + 1
    packed, meta = conversions.sparse_semi_structured_from_dense_cutlass(free)
    assert not torch.equal(conversions.sparse_semi_structured_to_dense_cutlass(packed, meta), free)


def test_torch_says_why_it_takes_none_here(baked):
    told = example.taken_by_torch(baked.hidden.weight)
    assert ("Semi" if torch.cuda.is_available() else "Only CUDA tensors are currently supported") in told


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_gradual_pruning_ends_at_its_sparsity(dense, sparsity):
    model = example.gradually_pruned(dense, sparsity, 2)
    for name in PRUNED:
        weight = model.get_parameter(name).detach().numpy()
        assert weight.size - np.count_nonzero(weight) == round(sparsity * weight.size)
    assert np.count_nonzero(model.conv1.weight.detach().numpy()) == model.conv1.weight.numel()


def test_the_schedule_rises_from_none_and_stays():
    found = [example.sparsity_at(done, 0.8) for done in np.linspace(0, 1, 101)]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[35] == pytest.approx(0.8 * (1 - 0.5**3))
    assert set(found[70:]) == {0.8}


def test_a_masked_weight_comes_back_while_the_mask_moves(dense):
    model = surgery.apply_constraints(copy.deepcopy(dense), {example.PRUNED: "mask(0.9)"})
    surgery.configure(model, example.PRUNED, sparsity=0.0)
    for name in PRUNED:
        assert torch.equal(model.get_submodule(name).detach(), dense.get_parameter(name))


def test_all_of_it(size, evidence, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the picture needs matplotlib, of the extra 'examples'")
    picture = tmp_path / "new" / "picture.png"
    small = () if size == "full" else (1, 4, 1)
    example.main(picture, *small)
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed[:-1])) <= 80  # the last line is the path
    assert printed[-1] == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert any(line.split() == ["hidden.weight", "64x512", "32,768", "16,384", "8,192", "0"] for line in printed)
    rows = {line[:40].strip(): line[40:].split() for line in printed if "%" in line[40:]}
    assert len(rows) == 2 + len(example.SPARSITIES)
    two_four = [float(cell.strip("%")) for cell in rows["2 of 4 zero, n_m(2, 4)"]]
    assert two_four[1] > 85
    for name, cells in rows.items():
        evidence(f"digits pruned, {name}: at once, trained on, gradually", ", ".join(cells))
