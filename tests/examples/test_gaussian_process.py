"""A Gaussian process: its likelihood and band are those of SciPy and scikit-learn; by rules no scale leaves its set."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from scipy import stats

import surgery
from examples import gaussian_process as example

for needed, extra in (("sklearn", "examples"), ("matplotlib", "examples")):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"the example needs {needed}, of the extra '{extra}'", allow_module_level=True)

FEW = 60
LENGTHSCALE, OUTPUTSCALE, NOISE = 0.7, 1.3, 0.2


@pytest.fixture(scope="module")
def few() -> tuple[example.Data, example.Data]:
    """A part of the people."""
    (x, y), held_out = example.data()
    return (x[:FEW], y[:FEW]), held_out


@pytest.fixture(scope="module")
def fits(few) -> dict[str, dict[str, list[example.Fit]]]:
    """Each optimizer and way, from the starts that plain LBFGS survives and not."""
    starts = range(4)
    return {
        name: {way: [example.fit(way, start, name, *few) for start in starts] for way in example.COLOURS}
        for name in example.OPTIMIZERS
    }


def test_people_are_shown_or_held_out_and_standardised():
    shown, held_out = example.data()
    x, y = (torch.cat(pair) for pair in zip(shown, held_out, strict=True))
    assert len(shown[0]) == len(held_out[0]) == 221
    for each in (x, y):
        assert each.dtype is torch.double
        assert each.mean().item() == pytest.approx(0, abs=1e-12)
        assert each.std().item() == pytest.approx(1)
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(0.5865, abs=1e-4)  # of body mass index, as scikit-learn states it


def test_the_marginal_likelihood_is_that_of_scipy(few):
    (x, y), _ = few
    model = example.GaussianProcess(LENGTHSCALE, OUTPUTSCALE, NOISE)
    of_targets = OUTPUTSCALE * np.exp(-((x.numpy()[:, None] - x.numpy()) ** 2) / LENGTHSCALE**2 / 2)
    truth = stats.multivariate_normal.logpdf(y.numpy(), np.zeros(FEW), of_targets + NOISE * np.eye(FEW))
    assert model(x, y).item() == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("way", ["plain", "by hand", "rules"])
def test_prediction_is_that_of_scikit_learn(few, way):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    (x, y), (new, _) = few
    model = (example.ByHand if way == "by hand" else example.GaussianProcess)(LENGTHSCALE, OUTPUTSCALE, NOISE)
    if way == "rules":
        surgery.apply_constraints(model, example.RULES)
    kernel = ConstantKernel(OUTPUTSCALE) * RBF(LENGTHSCALE) + WhiteKernel(NOISE)
    theirs = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x[:, None].numpy(), y.numpy())
    truth, deviation = theirs.predict(new[:, None].numpy(), return_std=True)
    with torch.no_grad():
        mean, variance = model.predict((x, y), new)
    np.testing.assert_allclose(mean.numpy(), truth, atol=1e-8)
    np.testing.assert_allclose(variance.sqrt().numpy(), deviation, atol=1e-8)


def test_all_ways_start_at_the_same_scales():
    for start in example.STARTS:
        scales = {way: [scale.item() for scale in example.made(way, start).scales()] for way in example.COLOURS}
        assert scales["rules"] == pytest.approx(scales["plain"], rel=1e-12)
        assert scales["by hand"] == pytest.approx(scales["plain"], rel=1e-12)
        assert min(scales["plain"]) > example.LEAST_NOISE


def test_by_rules_no_scale_leaves_its_set_at_any_step(fits):
    for ways in fits.values():
        for one in ways["rules"]:
            assert one.verdict == "fitted"
            assert one.least > 0
            assert one.model.noise.item() > example.LEAST_NOISE
            assert surgery.check(one.model).ok


def test_lbfgs_reaches_the_same_optimum_by_rules_and_by_hand(fits):
    for way in ("rules", "by hand"):
        marginals = [one.marginal for one in fits["LBFGS"][way]]
        assert marginals == pytest.approx([max(marginals)] * len(marginals), abs=1e-3)
    assert fits["LBFGS"]["rules"][0].marginal == pytest.approx(fits["LBFGS"]["by hand"][0].marginal, abs=1e-4)


def test_a_noise_below_zero_is_an_error_that_ends_a_plain_fit(few, monkeypatch):
    model = example.GaussianProcess(LENGTHSCALE, OUTPUTSCALE, -0.1)
    with pytest.raises(torch.linalg.LinAlgError, match="not positive-definite"):
        model(*few[0])
    monkeypatch.setattr(example, "made", lambda *_: model)
    ended = example.fit("plain", 0, "Adam", *few)
    assert (ended.verdict, math.isnan(ended.held_out), ended.least) == ("no Cholesky", True, -0.1)


def test_plain_fits_fail_at_full_size_and_those_by_rules_do_not(size, evidence):
    if size != "full":
        pytest.skip("all starts on all people, in `make test-full`")
    both = example.data()
    fits = {way: [example.fit(way, start, "LBFGS", *both) for start in example.STARTS] for way in ("rules", "plain")}
    fitted = {way: sum(one.verdict == "fitted" for one in several) for way, several in fits.items()}
    assert fitted["rules"] == len(example.STARTS) > fitted["plain"]
    text = ", ".join(f"{way} {count} of {len(example.STARTS)}" for way, count in fitted.items())
    evidence("Gaussian process on body mass index: starts from which LBFGS ends at a fit", text)


def test_the_picture_and_the_table(fits, few, tmp_path, capsys):
    example.print_table(fits, *few)
    printed = capsys.readouterr().out
    assert all(printed.count(way) >= len(fits) for way in example.COLOURS)
    assert max(map(len, printed.splitlines())) <= 80
    example.draw(fits, *few, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
