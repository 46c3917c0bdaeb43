"""`surgery.log_jacobian`: truth is the determinant of autograd's Jacobian in float64, and densities of torch."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn
from torch.distributions import transforms

import computed
import surgery
from computed.registry import catalogue
from surgery.rules.errors import RuleError
from tests.surgery.catalogue import SPEC_OF


class Constant(transforms.Transform):
    """It states its determinant once for all entries."""

    domain = codomain = distributions.constraints.real
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return 3 * x

    def _inverse(self, y: Tensor) -> Tensor:
        return y / 3

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tensor(math.log(3), dtype=x.dtype)


class Turned(transforms.Transform):
    """A map of whole rows: a shear, then a scale of 2 for the first entry."""

    domain = codomain = distributions.constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([2 * x[..., :1], x[..., 1:] + x[..., :1]], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1] / 2, y[..., 1:] - y[..., :1] / 2], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_full(x.shape[:-1], math.log(2))


KNOWN: dict[str, Any] = {
    "positive": "positive",
    "greater_than": "greater_than(-0.7)",
    "less_than": "less_than(0.9)",
    "interval": "interval(-3, 2)",
    "exp": "exp",
    "affine": "affine(-0.5, shift=2)",
    "equalized_lr": "equalized_lr(1.5)",
    "bounded": "bounded(1.5)",
    "chain": "affine(0.5) | interval(-3, 2) | affine(4.0)",
    "cat": "cat(['positive', 'none', 'exp'], [1, 1, 1], dim=1)",
    "stack": "stack(['bounded(2.0)', 'none', \"cat(['exp', 'affine(-3.0)'], [1, 2])\", 'interval(0, 1)'])",
    "none at all": "cat(['none'], [4])",
    "ExpTransform": transforms.ExpTransform(),
    "SigmoidTransform": transforms.SigmoidTransform(),
    "TanhTransform": transforms.TanhTransform(),
    "SoftplusTransform": transforms.SoftplusTransform(),
    "AffineTransform": transforms.AffineTransform(1.0, -2.0),
    "AffineTransform, tensors": transforms.AffineTransform(0.0, torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)),
    "PowerTransform": transforms.ComposeTransform(
        [transforms.ExpTransform(), transforms.PowerTransform(torch.tensor(2.5, dtype=torch.float64))]
    ),
    "IndependentTransform": transforms.IndependentTransform(transforms.ExpTransform(), 1),
    "CatTransform": transforms.CatTransform([transforms.ExpTransform(), transforms.TanhTransform()], 1, [1, 2]),
    "one number for all": Constant(),
    "of rows": Turned(),
    "of rows, later": ["affine(0.5)", Turned()],
}


def model_of(spec: object) -> nn.Linear:
    model = nn.Linear(3, 4, dtype=torch.float64)
    nn.init.uniform_(model.weight, 0.1, 0.8)
    return surgery.apply_constraints(model, {"weight": spec})


def value_of(model: nn.Linear, raw: Tensor) -> Tensor:
    return torch.func.functional_call(model.weight, {"raw": raw}, ())


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_the_determinant_of_the_jacobian(name: str):
    model = model_of(KNOWN[name])
    with torch.no_grad():
        model.weight.raws["raw"].add_(0.5 * torch.randn(4, 3, dtype=torch.float64))
    raw = model.weight.raws["raw"].detach().clone()
    jacobian = torch.autograd.functional.jacobian(lambda x: value_of(model, x), raw).reshape(12, 12)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    found = surgery.log_jacobian(model)
    assert found.shape == ()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_differentiable_in_the_raws(name: str):
    model = model_of(KNOWN[name])
    slot = model.weight

    def term(raw: Tensor) -> Tensor:
        slot._parameters["raw"] = raw
        return surgery.log_jacobian(model) + 0 * raw.sum()

    raw = (slot.raws["raw"].detach() + 0.1 * torch.randn(4, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(term, (raw,))
    assert torch.autograd.gradgradcheck(term, (raw,))


@pytest.mark.parametrize(
    ("spec", "raws"),
    [
        ("positive", [-80.0, -30.0, 0.0, 30.0, 80.0]),
        ("interval(0, 1)", [-80.0, -30.0, 0.0, 30.0, 80.0]),
        ("less_than(0)", [-80.0, -30.0, 0.0, 30.0, 80.0]),
        ("bounded(1.0)", [-80.0, -15.0, 0.0, 15.0, 80.0]),
        ("exp", [-80.0, -30.0, 0.0, 30.0, 80.0]),
    ],
)
def test_far_out_it_is_as_exact_as_near_zero(spec: str, raws: list[float]):
    """Formulas in numbers of any size, of Python's own decimals."""
    getcontext().prec = 120
    model = surgery.apply_constraints(nn.Linear(5, 1, bias=False), {"weight": spec})
    with torch.no_grad():
        model.weight.raws["raw"].copy_(torch.tensor([raws]))
    total = Decimal(0)
    for number in map(Decimal, raws):
        falling = (-number).exp()
        slopes = {
            "positive": 1 / (1 + falling),
            "less_than(0)": 1 / (1 + number.exp()),
            "interval(0, 1)": falling / (1 + falling) ** 2,
            "bounded(1.0)": 4 / (number.exp() + falling) ** 2,
            "exp": number.exp(),
        }
        total += slopes[spec].ln()
    assert surgery.log_jacobian(model).item() == pytest.approx(float(total), rel=1e-6, abs=1e-5)


def test_exp_has_no_slope_where_it_cuts_off():
    model = surgery.apply_constraints(nn.Linear(1, 1, bias=False), {"weight": "exp"})
    with torch.no_grad():
        model.weight.raws["raw"].fill_(100.0)
    assert surgery.log_jacobian(model).item() == -math.inf


def test_it_makes_a_density_of_the_raws():
    """The integral of a density over the raw is one, whatever the map."""
    model = surgery.apply_constraints(nn.Linear(1, 1, bias=False, dtype=torch.float64), {"weight": "positive"})
    prior = distributions.Gamma(torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64))
    total, step = 0.0, 0.01
    with torch.no_grad():
        for raw in torch.arange(-25.0, 25.0, step, dtype=torch.float64):
            model.weight.raws["raw"].fill_(raw)
            total += step * math.exp(prior.log_prob(model.weight.value()).sum() + surgery.log_jacobian(model))
    assert total == pytest.approx(1.0, abs=1e-6)


def test_it_is_the_sum_over_what_patterns_choose_and_a_tie_counts_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    model[1].weight = model[0].weight
    surgery.apply_constraints(model, {"*@Linear.weight": "affine(2.0)", "2.weight": "positive"})
    both = surgery.log_jacobian(model)
    first, last = surgery.log_jacobian(model, "0.weight"), surgery.log_jacobian(model, ["2.*"])
    assert first.item() == pytest.approx(9 * math.log(2))
    torch.testing.assert_close(both, first + last)
    assert torch.equal(surgery.log_jacobian(model, "1.weight"), first)
    assert surgery.log_jacobian(nn.Linear(2, 2)).item() == 0.0


def test_dtypes_are_computed_in_float32_or_more():
    model = surgery.apply_constraints(nn.Linear(64, 64).half(), {"weight": "interval(-2, 2)"})
    found = surgery.log_jacobian(model)
    assert found.dtype == torch.float32
    raw = model.weight.raws["raw"].detach().double()
    width = 2 * (2 - 2**-10)  # between the largest numbers of float16 that are inside
    expected = (raw.sigmoid().log() + (-raw).sigmoid().log() + math.log(width)).sum()
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)
    surgery.undo(model)
    assert surgery.log_jacobian(model).item() == 0.0


def test_what_waits_to_be_written_is_what_counts():
    model = surgery.apply_constraints(nn.Linear(2, 2), {"weight": "exp"})
    with torch.no_grad():
        model.weight.fill_(math.e)
    assert surgery.log_jacobian(model).item() == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in catalogue() if name not in (*KNOWN, "tensor_train", "grassmannian", "orthogonal_conv")]
)
def test_other_constraints_are_refused_by_name(name: str):
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(6, 6)), {"0.weight": SPEC_OF[name]})
    with pytest.raises(surgery.SurgeryError, match=rf"log_jacobian: 0\.weight: .*{name}.*; leave these out"):
        surgery.log_jacobian(model)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bounded(1.0, map='sin')", r"bounded\(limit=1.0, map='sin'\) is no bijection"),
        ("cat(['none', 'ordered'], [1, 2])", "of ordered.* no determinant is known"),
        ("exp | symmetric", "of symmetric no determinant is known"),
        (
            computed.function(torch.exp, torch.log),
            r"of FunctionConstraint\(.*exp, inverse=.*log\) no determinant is known",
        ),
        (transforms.SoftmaxTransform(), r"SoftmaxTransform\(\) is no bijection"),
        (transforms.LowerCholeskyTransform(), r"LowerCholeskyTransform\(\) is no bijection"),
        (nn.Tanh(), "of Tanh no determinant is known"),
    ],
    ids=str,
)
def test_a_reason_is_given(spec: object, message: str):
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": spec})
    with pytest.raises(surgery.SurgeryError, match=message):
        surgery.log_jacobian(model)


def test_every_problem_is_told_and_patterns_leave_them_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    surgery.apply_constraints(model, {"*.weight": "symmetric", "*.bias": "exp"})
    with pytest.raises(surgery.SurgeryError, match=r"0\.weight: of symmetric .*; 1\.weight: of symmetric "):
        surgery.log_jacobian(model)
    assert surgery.log_jacobian(model, "*.bias").isfinite()
    with pytest.raises(surgery.SurgeryError, match="no computed parameter matches 'x\\.weight'"):
        surgery.log_jacobian(model, "x.weight")
    with pytest.raises(RuleError, match="log_jacobian takes names"):
        surgery.log_jacobian(model, "*.bias@F.linear")


def test_the_mode_over_raws_differs_from_the_mode_over_values_by_this_term():
    """A gamma prior's mode over values is (a - 1) / b; over logarithms it is a / b."""
    model = surgery.apply_constraints(nn.Linear(1, 1, bias=False, dtype=torch.float64), {"weight": "exp"})
    prior = distributions.Gamma(torch.tensor(3.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    for term, mode in ((0.0, 1.0), (1.0, 1.5)):

        def loss(term: float = term) -> Tensor:
            optimizer.zero_grad()
            negative = -prior.log_prob(model.weight.value()).sum() - term * surgery.log_jacobian(model)
            negative.backward()
            return negative

        optimizer.step(loss)
        assert model.weight.item() == pytest.approx(mode, abs=1e-4)
