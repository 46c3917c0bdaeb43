"""Random weights: a sample at each read in training, one value in eval; gradients against closed forms and SciPy."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from computed.parameter import ComputedParameter

pytest.importorskip("sklearn", reason="the digits are those of scikit-learn, of the extra 'examples'")

from examples import stochastic_weights as example

DRAWS = 20_000
KINDS = [example.Gaussian, example.HardConcrete]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the example runs by itself: its batches are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layer(kind: type) -> nn.Linear:
    return surgery.apply_constraints(nn.Linear(4, 3), {"weight": kind})


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_draws_anew_in_training_and_is_held_in_eval(kind: type):
    model, x = layer(kind), torch.randn(2, 4)
    if kind is example.HardConcrete:
        with torch.no_grad():
            model.weight.raws["log_alpha"].zero_()  # at insertion gates are mostly one
    before = surgery.computed_parameters(model)["weight"].raws
    before = {role: raw.detach().clone() for role, raw in before.items()}
    assert len({model(x).detach().numpy().tobytes() for _ in range(3)}) == 3
    model.eval()
    assert len({model(x).detach().numpy().tobytes() for _ in range(3)}) == 1
    assert all(torch.equal(raw, before[role]) for role, raw in model.weight.raws.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretrained_weight_is_kept_bit_for_bit_in_eval_and_in_a_bake(kind: type):
    model = nn.Linear(4, 3)
    weight = model.weight.detach().clone()
    surgery.apply_constraints(model, {"weight": kind})
    assert torch.equal(model.eval().weight.detach(), weight)
    assert surgery.check(model).ok
    assert torch.equal(surgery.bake(model.train()).weight, weight)


def test_a_bake_is_the_mean_and_the_gates_of_the_paper():
    model = nn.ModuleList(map(layer, KINDS))
    with torch.no_grad():
        for parameter in surgery.computed_parameters(model).values():
            for raw in parameter.raws.values():
                raw.copy_(3 * torch.randn_like(raw))
    mu, raw, log_alpha = model[0].weight.raws["mu"], model[1].weight.raws["raw"], model[1].weight.raws["log_alpha"]
    exact = np.clip(special.expit(log_alpha.detach().double().numpy()) * 1.2 - 0.1, 0, 1)
    expected = mu.detach().clone(), raw.detach().double() * torch.from_numpy(exact)
    surgery.bake(model)
    assert torch.equal(model[0].weight, expected[0])
    torch.testing.assert_close(model[1].weight.double(), expected[1])


def unbiased(samples: Tensor, expected: Tensor) -> bool:
    """Whether the mean of samples (n, ...) is within five standard errors of what it estimates, entry by entry."""
    error = samples.std(0) / len(samples) ** 0.5
    return bool(((samples.mean(0) - expected).abs() <= 5 * error + 1e-12).all())


def gradients(parameter: ComputedParameter, x: Tensor, target: Tensor, draws: int) -> dict[str, Tensor]:
    """The gradients of a squared error for each of many reads."""
    found: dict[str, list[Tensor]] = {role: [] for role in parameter.raws}
    for _ in range(draws):
        loss = (F.linear(x, parameter) - target).square().sum()
        for role, gradient in zip(found, torch.autograd.grad(loss, list(parameter.raws.values())), strict=True):
            found[role].append(gradient)
    return {role: torch.stack(each) for role, each in found.items()}


def test_gradients_of_normal_weights_are_those_of_the_expectation(size: str):
    """The mean of ``(w x - t)²`` is ``(mu x - t)² + deviation² x²``."""
    parameter = ComputedParameter.from_value(torch.tensor([[0.7, -0.4]], dtype=torch.float64), example.Gaussian(0.5))
    x, target = torch.tensor([[1.5, 0.5]], dtype=torch.float64), torch.tensor([[0.3]], dtype=torch.float64)
    found = gradients(parameter, x, target, DRAWS if size == "full" else DRAWS // 10)
    mu, rho = (parameter.raws[role].detach().clone().requires_grad_() for role in ("mu", "rho"))
    mean = (F.linear(x, mu) - target).square().sum() + (F.softplus(rho).square() * x.square()).sum()
    mean.backward()
    assert unbiased(found["mu"], mu.grad)
    assert unbiased(found["rho"], rho.grad)
    assert not unbiased(found["mu"], mu.grad + 1)


def moments(log_alpha: float) -> tuple[float, float]:
    """The means of ``z`` and ``z²`` of a gate, by the distribution function of equation 11 and SciPy."""
    beta, low, high = example.TEMPERATURE, example.LOW, example.HIGH

    def above(z: float) -> float:
        inner = (z - low) / (high - low)
        return float(1 - special.expit(beta * (math.log(inner) - math.log1p(-inner)) - log_alpha))

    return integrate.quad(above, 0, 1)[0], integrate.quad(lambda z: 2 * z * above(z), 0, 1)[0]


def test_gradients_of_gates_are_those_of_the_expectation(size: str):
    """One gate: the mean of ``(w z x - t)²`` is ``w² x² E z² - 2 w x t E z + t²``."""
    weight, x, target, log_alpha, step = 0.8, 1.5, 0.6, 0.4, 1e-5
    parameter = ComputedParameter.from_value(torch.tensor([[weight]], dtype=torch.float64), example.HardConcrete())
    with torch.no_grad():
        parameter.raws["log_alpha"].fill_(log_alpha)
    given = (torch.tensor([[number]], dtype=torch.float64) for number in (x, target))
    found = gradients(parameter, *given, DRAWS if size == "full" else DRAWS // 10)

    def mean(weight: float, log_alpha: float) -> float:
        first, second = moments(log_alpha)
        return weight**2 * x**2 * second - 2 * weight * x * target * first + target**2

    slopes = {
        "raw": (mean(weight + step, log_alpha) - mean(weight - step, log_alpha)) / (2 * step),
        "log_alpha": (mean(weight, log_alpha + step) - mean(weight, log_alpha - step)) / (2 * step),
    }
    for role, slope in slopes.items():
        assert unbiased(found[role].flatten()[:, None], torch.tensor([slope])), role
    assert not unbiased(found["raw"].flatten()[:, None], torch.tensor([slopes["raw"] + 1]))


def test_samples_have_the_distribution_that_is_said():
    model = layer(example.HardConcrete)
    with torch.no_grad():
        model.weight.raws["raw"].fill_(1.0)
        model.weight.raws["log_alpha"].copy_(torch.tensor([-2.0, -0.5, 0.5, 2.0]))
        drawn = torch.stack([model.weight.value()[0] for _ in range(4000)])
    for column, log_alpha in enumerate((-2.0, -0.5, 0.5, 2.0)):
        z = drawn[:, column].double().numpy()
        assert z.min() >= 0
        assert z.max() <= 1
        open_ = special.expit(log_alpha - example.TEMPERATURE * math.log(0.1 / 1.1))
        assert (z > 0).mean() == pytest.approx(open_, abs=5 * (0.25 / 4000) ** 0.5)
        assert z.mean() == pytest.approx(moments(log_alpha)[0], abs=5 * (0.25 / 4000) ** 0.5)
    assert example.expected_open(model).item() == pytest.approx(
        sum(special.expit(a - example.TEMPERATURE * math.log(0.1 / 1.1)) for a in (-2.0, -0.5, 0.5, 2.0)), rel=1e-5
    )
    normal = ComputedParameter.from_value(torch.zeros(4000, dtype=torch.float64), example.Gaussian(0.3))
    assert stats.kstest(normal.detach().numpy() / 0.3, "norm").pvalue > 1e-4


def test_the_divergence_is_torchs():
    model = surgery.apply_constraints(nn.Linear(4, 3), {"*": example.Gaussian(0.4)})
    expected = torch.zeros(())
    for parameter in surgery.computed_parameters(model).values():
        normal = torch.distributions.Normal(parameter.raws["mu"], F.softplus(parameter.raws["rho"]))
        expected = expected + torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 2.0)).sum()
    torch.testing.assert_close(example.divergence(model, 2.0), expected)


def test_the_likelihood_is_that_of_the_mixture():
    drawn, y = example.NOISE * torch.randn(5, 3, 1).double(), example.NOISE * torch.randn(3, 1).double()
    expected = np.log(stats.norm.pdf(y.numpy(), drawn.numpy(), example.NOISE).mean(0))
    np.testing.assert_allclose(example.log_likelihood(drawn, y).numpy(), expected, rtol=1e-9)


def test_samples_part_where_there_are_no_points():
    # pretrained briefly and trained on briefly, which is enough to see it
    plain = example.fitted_line(0, steps=300)
    x = torch.linspace(-1, 1, 101)[:, None]
    model = example.with_uncertainty(copy.deepcopy(plain), 0, steps=300)
    deviation = example.answers(model, x, 60).std(0)
    gap = example.between(x)
    assert deviation[gap].mean() > 1.2 * deviation[~gap].mean()
    assert not model.training
    assert example.answers(plain, x, 3).std(0).max() == 0


def test_gates_close_and_the_longest_columns_are_as_many():
    base = example.reader(0, epochs=3)
    found = example.gated(base, 0.3, 0, epochs=8)
    assert min(found.left) < 64
    kept = example.masked(base, (20, 64, 30), 0, epochs=1)
    assert kept.left == (20, 64, 30)
    assert len(surgery.computed_parameters(kept.model)) == 2
    assert kept.right > 0.5


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the picture needs matplotlib")
def test_a_picture_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plain = example.Line(example.fitted_line(0, steps=2), 0.0, 0.0)
    uncertain = example.Line(example.with_uncertainty(copy.deepcopy(plain.model), 0, steps=2), 0.0, 0.0)
    base = example.reader(0, epochs=1)
    gated = example.gated(base, 0.1, 0, epochs=1)
    chosen = [[example.judged("plain", base), gated, example.masked(base, gated.left, 0, epochs=1)]]
    example.print_tables([(plain, uncertain)], chosen)
    example.draw([(plain, uncertain)], chosen, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").stat().st_size > 10_000
    assert "normal weights, 200 samples" in capsys.readouterr().out
