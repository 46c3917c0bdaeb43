"""Every distribution of torch takes computed parameters in every argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch import distributions as D

from computed.parameter import ComputedParameter
from tests.computed.identity import Identity

# the sampler of Wishart says so of a draw that it then corrects
pytestmark = pytest.mark.filterwarnings("ignore:Singular sample detected:UserWarning")

POSITIVE = torch.tensor([0.5, 1.5, 2.5])
ANY = torch.tensor([-0.5, 0.3, 1.2])
INSIDE = torch.tensor([0.2, 0.3, 0.5])
SQUARE = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.5, 0.2], [0.1, 0.2, 1.0]])
LOWER = torch.linalg.cholesky(SQUARE)

# name -> the distribution and its tensor arguments
CASES: dict[str, tuple[Callable[..., D.Distribution], dict[str, Tensor]]] = {
    "Bernoulli(probs)": (D.Bernoulli, {"probs": INSIDE}),
    "Bernoulli(logits)": (D.Bernoulli, {"logits": ANY}),
    "Beta": (D.Beta, {"concentration1": POSITIVE, "concentration0": POSITIVE + 1}),
    "Binomial(probs)": (lambda probs: D.Binomial(5, probs=probs), {"probs": INSIDE}),
    "Binomial(logits)": (lambda logits: D.Binomial(5, logits=logits), {"logits": ANY}),
    "Categorical(probs)": (D.Categorical, {"probs": INSIDE}),
    "Categorical(logits)": (D.Categorical, {"logits": ANY}),
    "Cauchy": (D.Cauchy, {"loc": ANY, "scale": POSITIVE}),
    "Chi2": (D.Chi2, {"df": POSITIVE}),
    "ContinuousBernoulli(probs)": (D.ContinuousBernoulli, {"probs": INSIDE}),
    "ContinuousBernoulli(logits)": (D.ContinuousBernoulli, {"logits": ANY}),
    "Dirichlet": (D.Dirichlet, {"concentration": POSITIVE}),
    "Exponential": (D.Exponential, {"rate": POSITIVE}),
    "FisherSnedecor": (D.FisherSnedecor, {"df1": POSITIVE, "df2": POSITIVE + 3}),
    "Gamma": (D.Gamma, {"concentration": POSITIVE, "rate": POSITIVE}),
    "GeneralizedPareto": (D.GeneralizedPareto, {"loc": ANY, "scale": POSITIVE, "concentration": INSIDE}),
    "Geometric(probs)": (D.Geometric, {"probs": INSIDE}),
    "Geometric(logits)": (D.Geometric, {"logits": ANY}),
    "Gumbel": (D.Gumbel, {"loc": ANY, "scale": POSITIVE}),
    "HalfCauchy": (D.HalfCauchy, {"scale": POSITIVE}),
    "HalfNormal": (D.HalfNormal, {"scale": POSITIVE}),
    "Independent": (lambda loc, scale: D.Independent(D.Normal(loc, scale), 1), {"loc": ANY, "scale": POSITIVE}),
    "InverseGamma": (D.InverseGamma, {"concentration": POSITIVE, "rate": POSITIVE}),
    "Kumaraswamy": (D.Kumaraswamy, {"concentration1": POSITIVE, "concentration0": POSITIVE}),
    "LKJCholesky": (lambda concentration: D.LKJCholesky(3, concentration), {"concentration": torch.tensor(1.5)}),
    "Laplace": (D.Laplace, {"loc": ANY, "scale": POSITIVE}),
    "LogNormal": (D.LogNormal, {"loc": ANY, "scale": POSITIVE}),
    "LogisticNormal": (D.LogisticNormal, {"loc": ANY, "scale": POSITIVE}),
    "LowRankMultivariateNormal": (
        D.LowRankMultivariateNormal,
        {"loc": ANY, "cov_factor": LOWER[:, :1].contiguous(), "cov_diag": POSITIVE},
    ),
    "MixtureSameFamily": (
        lambda probs, loc, scale: D.MixtureSameFamily(D.Categorical(probs), D.Normal(loc, scale)),
        {"probs": INSIDE, "loc": ANY, "scale": POSITIVE},
    ),
    "Multinomial(probs)": (lambda probs: D.Multinomial(5, probs=probs), {"probs": INSIDE}),
    "Multinomial(logits)": (lambda logits: D.Multinomial(5, logits=logits), {"logits": ANY}),
    "MultivariateNormal(covariance)": (D.MultivariateNormal, {"loc": ANY, "covariance_matrix": SQUARE}),
    "MultivariateNormal(precision)": (D.MultivariateNormal, {"loc": ANY, "precision_matrix": SQUARE}),
    "MultivariateNormal(scale_tril)": (D.MultivariateNormal, {"loc": ANY, "scale_tril": LOWER}),
    "NegativeBinomial(probs)": (D.NegativeBinomial, {"total_count": POSITIVE, "probs": INSIDE}),
    "NegativeBinomial(logits)": (D.NegativeBinomial, {"total_count": POSITIVE, "logits": ANY}),
    "Normal": (D.Normal, {"loc": ANY, "scale": POSITIVE}),
    "OneHotCategorical(probs)": (D.OneHotCategorical, {"probs": INSIDE}),
    "OneHotCategorical(logits)": (D.OneHotCategorical, {"logits": ANY}),
    "OneHotCategoricalStraightThrough": (D.OneHotCategoricalStraightThrough, {"probs": INSIDE}),
    "Pareto": (D.Pareto, {"scale": POSITIVE, "alpha": POSITIVE}),
    "Poisson": (D.Poisson, {"rate": POSITIVE}),
    "RelaxedBernoulli(probs)": (D.RelaxedBernoulli, {"temperature": torch.tensor(0.7), "probs": INSIDE}),
    "RelaxedBernoulli(logits)": (D.RelaxedBernoulli, {"temperature": torch.tensor(0.7), "logits": ANY}),
    "RelaxedOneHotCategorical": (D.RelaxedOneHotCategorical, {"temperature": torch.tensor(0.7), "probs": INSIDE}),
    "StudentT": (D.StudentT, {"df": POSITIVE + 2, "loc": ANY, "scale": POSITIVE}),
    "TransformedDistribution": (
        lambda loc, scale, shift: D.TransformedDistribution(
            D.Normal(loc, scale), [D.AffineTransform(shift, scale), D.SigmoidTransform()]
        ),
        {"loc": ANY, "scale": POSITIVE, "shift": ANY},
    ),
    "Uniform": (D.Uniform, {"low": ANY, "high": ANY + POSITIVE}),
    "VonMises": (D.VonMises, {"loc": ANY, "concentration": POSITIVE}),
    "Weibull": (D.Weibull, {"scale": POSITIVE, "concentration": POSITIVE}),
    "Wishart(covariance)": (D.Wishart, {"df": torch.tensor(4.0), "covariance_matrix": SQUARE}),
    "Wishart(scale_tril)": (D.Wishart, {"df": torch.tensor(4.0), "scale_tril": LOWER}),
}

# what has no arguments of its own to compute, or is no distribution one makes
ABSTRACT = {
    "Distribution",
    "ExponentialFamily",
    "TransformedDistribution",
    "LogitRelaxedBernoulli",
    "ExpRelaxedCategorical",
}


def computed(arguments: dict[str, Tensor]) -> dict[str, ComputedParameter]:
    """Each argument computed through an identity."""
    return {name: ComputedParameter.from_value(value.clone(), Identity) for name, value in arguments.items()}


@pytest.mark.parametrize("name", CASES)
def test_samples_densities_and_gradients_are_the_plain_ones(name: str) -> None:
    """All arguments at once: sample, log_prob, mean, rsample, and the gradient of each raw."""
    make, arguments = CASES[name]
    plain_arguments = {key: value.clone().requires_grad_() for key, value in arguments.items()}
    computed_arguments = computed(arguments)
    plain, ours = make(**plain_arguments), make(**computed_arguments)
    torch.manual_seed(0)
    expected = plain.sample()
    torch.manual_seed(0)
    assert torch.equal(ours.sample(), expected)
    density, wanted = ours.log_prob(expected), plain.log_prob(expected)
    assert torch.equal(density, wanted)
    if plain.has_rsample:
        torch.manual_seed(1)
        wanted = wanted.sum() + plain.rsample().square().sum()
        torch.manual_seed(1)
        density = density.sum() + ours.rsample().square().sum()
        assert torch.equal(density, wanted)
    wanted.sum().backward()
    density.sum().backward()
    for key, argument in computed_arguments.items():
        torch.testing.assert_close(argument.raws["raw"].grad, plain_arguments[key].grad, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_one_argument_computed_and_the_others_plain(name: str) -> None:
    """Mixed arguments: each in turn."""
    make, arguments = CASES[name]
    torch.manual_seed(0)
    expected = make(**arguments).sample()
    for key in arguments:
        mixed = {**arguments, key: computed({key: arguments[key]})[key]}
        torch.manual_seed(0)
        assert torch.equal(make(**mixed).sample(), expected), key


def test_all_distributions_of_torch_are_here(evidence: Callable[[str, str], None]) -> None:
    """Every class that torch.distributions exports, but for the abstract ones."""
    exported = {
        name
        for name, cls in vars(D).items()
        if inspect.isclass(cls) and issubclass(cls, D.Distribution) and name not in ABSTRACT
    }
    here = {name.partition("(")[0] for name in CASES}
    assert exported <= here
    assert len(here) >= 40
    evidence("distributions of torch that take computed parameters in every argument", f"{len(here)}")
