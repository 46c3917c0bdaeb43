"""A mixture density network: by rules a density at every step, plain none; the density is that of SciPy."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import surgery
from examples import mixture_density as example

STEPS = 40


@pytest.fixture(scope="module")
def fits() -> dict[str, dict[str, list[example.Fit]]]:
    """Each optimizer and way, from one start, briefly."""
    return {
        optimizer: {way: [example.fit(way, 0, optimizer, steps=STEPS)] for way in example.COLOURS}
        for optimizer in example.OPTIMIZERS
    }


def test_the_log_density_is_that_of_scipy():
    means = torch.randn(5, 3, dtype=torch.double)
    t = torch.randn(5, dtype=torch.double)
    sigmas, weights = torch.tensor([0.2, 1.0, 3.0]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    parts = weights.numpy() * stats.norm.pdf(t.numpy()[:, None], means.numpy(), sigmas.numpy())
    found = example.log_density(means, sigmas, weights, t)
    np.testing.assert_allclose(found.numpy(), np.log(parts.sum(1)), rtol=1e-12)


def test_the_data_are_bishops_and_the_same_each_time():
    x, t = example.data(500, 3)
    noise = x - t - 0.3 * torch.sin(2 * math.pi * t)
    assert -0.1001 < noise.min() < -0.09
    assert 0.09 < noise.max() < 0.1001
    assert torch.equal(x, example.data(500, 3)[0])
    assert not torch.equal(x, example.data(500, 4)[0])


def test_all_ways_of_a_seed_start_at_the_same_function():
    x, t = example.data(20, 0)
    plain = example.made("plain", 5)(x, t)
    for way in ("rules", "by hand", "projected"):
        assert torch.allclose(example.made(way, 5)(x, t), plain, atol=1e-5)


def test_rules_keep_a_density_at_every_step(fits):
    for optimizer, ways in fits.items():
        (one,) = ways["rules"]
        assert one.verdict == "density", optimizer
        assert len(one.sums) == STEPS
        assert min(one.least_sigmas) > 0
        assert max(abs(total - 1) for total in one.sums) < 1e-6
        assert one.claimed == pytest.approx(one.held_out, abs=1e-5)
        assert surgery.check(one.model).ok


def test_rules_integrate_to_one(fits):
    model = fits["Adam, 0.05"]["rules"][0].model

    def density(t: float) -> float:
        with torch.no_grad():
            return model(torch.tensor([0.5]), torch.tensor([t], dtype=torch.float32)).exp().item()

    assert integrate.quad(density, -6, 7, limit=200)[0] == pytest.approx(1, abs=1e-4)


def test_plain_claims_more_than_is_true(fits):
    (one,) = fits["Adam, 0.01"]["plain"]
    assert one.verdict == "no density"
    assert one.sums[-1] > 1.3
    assert one.claimed == pytest.approx(one.held_out + math.log(one.sums[-1]), abs=1e-4)


def test_a_scale_below_zero_is_seen():
    model = example.MixtureDensity()
    with torch.no_grad():
        model.sigmas[1] = -0.1
        assert model(*example.data(4, 0)).isnan().all()
    nothing = example.Fit(model, math.nan, math.nan, [0.1], [1.0])
    assert nothing.verdict == "NaN"
    assert example.Fit(model, 1.0, 1.0, [-0.1], [1.0]).verdict == "no density"


def test_a_transform_of_torch_is_the_map_by_hand():
    rules = {**example.RULES, "sigmas": torch.distributions.ExpTransform()}
    by_hand, by_rule = example.made("by hand", 2), surgery.apply_constraints(example.made("plain", 2), rules)
    x, t = example.data(50, 0)
    for model in (by_hand, by_rule):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for _ in range(10):
            optimizer.zero_grad()
            (-model(x, t).mean()).backward()
            optimizer.step()
    assert torch.allclose(by_hand.sigmas, by_rule.sigmas * 1.0, atol=1e-5)
    assert torch.allclose(by_hand.weights, by_rule.weights * 1.0, atol=1e-5)


def test_rules_hold_and_plain_fails_at_full_size(size, evidence):
    if size != "full":
        pytest.skip("all seeds at full length, in `make test-full`")
    verdicts = {
        way: [example.fit(way, seed, name).verdict for name in example.OPTIMIZERS for seed in example.SEEDS]
        for way in ("rules", "plain")
    }
    assert set(verdicts["rules"]) == {"density"}
    assert "density" not in verdicts["plain"]
    counts = {way: f"{each.count('density')} of {len(each)}" for way, each in verdicts.items()}
    evidence(
        "fits of a mixture density network that end at a density", ", ".join(f"{w} {c}" for w, c in counts.items())
    )


def test_the_picture_and_the_table(fits, tmp_path, capsys):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the picture needs matplotlib, of the extra 'examples'")
    example.print_table(fits)
    printed = capsys.readouterr().out
    assert all(printed.count(way) >= len(fits) for way in example.COLOURS)
    assert max(map(len, printed.splitlines())) <= 80
    example.draw(fits, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
