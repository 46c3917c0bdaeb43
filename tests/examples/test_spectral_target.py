"""The essay's experiment: losses of the published order, a final weight at the target, the norm kept on the way."""

import importlib.util
from statistics import median

import pytest

from examples import spectral_target as example

FAST, SLOW = 3, 1  # starts of norm 2.15 and 4.57


@pytest.fixture(scope="module")
def found() -> example.Fit:
    """The start that reaches its target early."""
    return example.fit(FAST)


def test_a_start_reaches_its_target_and_keeps_its_norm(found):
    assert len(found.losses) == example.STEPS
    assert found.error < example.PUBLISHED_ERROR
    assert found.losses[-1] < 1e-3 * found.losses[0]
    assert max(abs(value - 1) for value in found.of_value) < 0.02
    assert min(found.of_raw) > 1.5  # the raw is free


def test_the_published_losses_are_of_the_order_of_ours(found, size, evidence):
    seeds = range(example.STARTS) if size == "full" else (FAST, SLOW)
    fits = [found if seed == FAST else example.fit(seed) for seed in seeds]
    for index, published in enumerate(example.PUBLISHED):
        losses = [one.losses[index * example.EVERY] for one in fits]
        assert min(losses) / 3 < published < 3 * max(losses)
    if size == "full":
        medians = [median(one.losses[step] for one in fits) for step in range(0, example.STEPS, example.EVERY)]
        assert all(1 / 30 < ours / published < 3 for ours, published in zip(medians, example.PUBLISHED, strict=True))
        error = median(one.error for one in fits)
        assert error < example.PUBLISHED_ERROR
        losses_text = ", ".join(f"{loss:.2g}" for loss in medians)
        evidence("the essay's experiment: loss every 100 steps, median of 11 starts", losses_text)
        evidence("the essay's experiment: largest error of an entry of the weight, median", f"{error:.1e}")


def test_the_picture_and_the_table(found, tmp_path, capsys):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the picture needs matplotlib, of the extra 'examples'")
    example.print_table([found])
    printed = capsys.readouterr().out
    assert all(f"{published:.4f}" in printed for published in example.PUBLISHED)
    example.draw([found], tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
