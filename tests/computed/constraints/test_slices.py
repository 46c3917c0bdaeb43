"""Slices with constraints of their own: each does what it does alone, and torch's transforms say the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import CatTransform, ExpTransform, SigmoidTransform, StackTransform

import surgery
from computed.constraint import Constraint, IteratedConstraint
from computed.constraints.slices import Concatenated, Stacked
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter
from computed.registry import catalogue, lookup
from computed.spec import parse_spec
from computed.spec_error import SpecError, UnknownConstraintError
from tests.surgery.catalogue import ARGUMENTS

TINY = torch.finfo(torch.float64).tiny


def made(weight: Tensor, spec: object) -> ComputedParameter:
    return ComputedParameter.from_value(weight, spec)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat_is_torchs_cat_of_transforms(dim: int):
    weight = torch.rand(5, 5, dtype=torch.float64) * 0.8 + 0.1
    parameter = made(weight, f"cat(['exp', 'interval(0, 1)'], [2, 3], dim={dim})")
    raw = parameter.raws["raw"].detach()
    transform = CatTransform([ExpTransform(), SigmoidTransform()], dim=dim, lengths=[2, 3])
    torch.testing.assert_close(parameter.detach(), transform(raw), rtol=1e-14, atol=TINY)
    torch.testing.assert_close(raw, transform.inv(weight), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_stack_is_torchs_stack_of_transforms(dim: int):
    weight = torch.rand(2, 2, dtype=torch.float64) * 0.8 + 0.1
    parameter = made(weight, f"stack(['exp', 'interval(0, 1)'], dim={dim})")
    transform = StackTransform([ExpTransform(), SigmoidTransform()], dim=dim)
    torch.testing.assert_close(parameter.detach(), transform(parameter.raws["raw"].detach()), rtol=1e-14, atol=TINY)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dim", [0, 1])
def test_each_slice_is_what_its_constraint_makes_of_it_alone(dim: int, dtype: torch.dtype):
    weight = torch.randn(6, 6).to(dtype)
    # columns lie strided in the whole, where a function of torch may round otherwise than on contiguous data
    rtol = 4 * torch.finfo(dtype).eps if dim else 0
    for sizes, specs in (
        ([1, 1, 2, 2], ["positive", "none", "centred", "unit_norm"]),
        ([2, 2, 1, 1], ["positive", "none", "ordered", "ordered"]),
    ):
        parameter = made(weight, Concatenated(specs, sizes, dim=dim)).eval()
        alone = [
            own if spec == "none" else made(own.clone(), spec).eval().detach()
            for spec, own in zip(specs, weight.split(sizes, dim), strict=True)
        ]
        torch.testing.assert_close(parameter.detach(), torch.cat(alone, dim), rtol=rtol, atol=0)
    # a square slice takes a constraint on square matrices, whatever the whole is
    parameter = made(torch.randn(2, 5), Concatenated(["none", "symmetric"], [3, 2], dim=1))
    assert torch.equal(parameter.detach()[:, 3:], parameter.detach()[:, 3:].T)


def test_its_text_is_read_back_with_quotes_and_with_one_within_another():
    inner = "cat(['interval(0, 1)', 'none'], [1, 2], dim=1)"
    text = Concatenated([inner, None], [2, 2], dim=0).spec()
    (call,) = parse_spec(text)
    assert str(call) == text
    first, second = made(torch.full((4, 3), 2.0), text), made(torch.full((4, 3), 2.0), [text])
    assert torch.equal(first, second)
    assert first.detach()[:2, 0].max() < 1
    assert first.detach()[2:].eq(2).all()
    assert first.spec == second.spec


def test_what_a_slice_finds_out_is_in_its_text():
    parameter = made(torch.randn(4, 3), "cat(['unit_norm(-1)', 'none'], [2, 2], dim=-2)")
    assert parameter.spec == "cat(specs=('unit_norm(dim=1)', 'none'), sizes=(2, 2))"


@pytest.mark.parametrize("kind", [lambda specs: Stacked(specs), lambda specs: Concatenated(specs, [1] * len(specs))])
def test_the_violation_is_that_of_the_worst_slice_that_is_outside(kind):
    constraint = made(torch.rand(3, 4), kind(["bounded(1.0)", "none", "unit_norm(None)"])).constraints[0]
    inside = torch.tensor([[0.5, -1.0, 0, 0], [9.0, 9, 9, 9], [0.6, 0.8, 0, 0]])
    assert constraint.violation(inside, ()) == 0.0
    assert constraint.violation(inside.double(), ()) == 0.0  # 0.6 and 0.8 are rounded: within the slice's tolerance
    for place, wrong, expected in ((0, 3.0, 2.0), (2, 0.6 + 1e-3, 6e-4), (2, float("nan"), float("inf"))):
        outside = inside.clone()
        outside[place, 0] = wrong
        assert constraint.violation(outside, ()) == pytest.approx(expected, rel=1e-2)
    assert constraint.tolerance(torch.float32) == 0.0


def may_be_a_slice(name: str) -> bool:
    """What the classes say: one trained raw of the value's shape, and no state."""
    cls = lookup(name).load()
    own_shape = cls.raw_shapes is not Constraint.raw_shapes
    return len(cls.roles) == 1 and not issubclass(cls, IteratedConstraint) and not own_shape


@pytest.mark.parametrize("name", [name for name in catalogue() if may_be_a_slice(name)])
def test_a_constraint_of_one_raw_is_a_slice_as_it_is_alone(name: str):
    given = ARGUMENTS[name]
    spec = name if given is None else f"{name}({given})"
    parameter = made(torch.randn(7, 6), Concatenated([spec, "none"], [6, 1]))
    alone = made(parameter.detach()[:6].clone(), spec)
    torch.testing.assert_close(parameter.detach()[:6], alone.detach())


@pytest.mark.parametrize("name", [name for name in catalogue() if not may_be_a_slice(name)])
def test_any_other_is_refused_with_the_reason(name: str):
    given = ARGUMENTS[name]
    reasons = "it keeps state|its raws are .*, and one trained raw is needed|its raw has another shape than its value"
    with pytest.raises(ValueError, match=f"cat cannot have '{name}.* for a slice: ({reasons})"):
        Concatenated([name if given is None else f"{name}({given})", "none"], [6, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Concatenated("positive", [1]), ValueError, "cat needs a list with one spec for each slice, got 'pos"),
        (lambda: Concatenated([], []), ValueError, r"cat needs a list with one spec for each slice, got \[\]"),
        (lambda: Concatenated(["positive"], [1, 2]), ValueError, r"one size for each of 1 specs, got \[1, 2\]"),
        (lambda: Concatenated(["positive"], 3), ValueError, "one size for each of 1 specs, got 3"),
        (lambda: Concatenated(["positive", None], [3, 0]), ValueError, r"cat needs sizes of 1 or more, got \[3, 0\]"),
        (
            lambda: Concatenated(["positive"], [1.5]),
            ValueError,
            "cat: each of its sizes must be a whole number, got 1.5",
        ),
        (lambda: Concatenated(["positive"], [1], dim="x"), ValueError, "cat: dim must be a whole number"),
        (lambda: Stacked([lambda x: x]), ValueError, "stack takes specs as texts, such as 'positive', got <function"),
        (lambda: Stacked(["symmetric | positive"]), ValueError, "one constraint for each slice, got the chain"),
        (lambda: Stacked(["positve"]), UnknownConstraintError, "unknown constraint 'positve', did you mean 'positive'"),
        (lambda: Stacked(["frozen"]), UnknownConstraintError, "'frozen' is a spec of its own"),
        (lambda: Stacked(["interval(0)"]), SpecError, "interval needs high"),
        (lambda: Stacked(["interval(1, 0)"]), ValueError, "interval needs finite low < high"),
    ],
)
def test_wrong_arguments_are_refused(call, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("cat(['positive'], [3])", (4, 3), r"sizes that add up to 3, which dim=0 of shape \(4, 3\) is not"),
        ("cat(['positive'], [3], dim=2)", (4, 3), r"cat was given dim=2, but shape \(4, 3\) has dimensions 0 to 1"),
        ("cat(['positive'], [3])", (), r"cat needs 1 or more dimensions, got shape \(\)"),
        ("stack(['positive', 'none'])", (4, 3), r"stack was given 2 specs, which dim=0 of shape \(4, 3\) is not"),
        ("cat(['none', 'symmetric'], [1, 3])", (4, 2), r"cat: slice 1 along dim=0 of shape \(4, 2\): symmetric needs"),
    ],
)
def test_a_weight_that_does_not_fit_is_refused_by_name(spec: str, shape: tuple[int, ...], message: str):
    with pytest.raises(ConstraintRefusedError, match=f"{message}.*; .*exempt it with 'weight': None"):
        made(torch.randn(shape), spec)


def test_a_slice_of_a_convolution_is_no_convolution():
    """A constraint that asks the host where rows run would be told about another weight."""
    model = nn.ConvTranspose1d(4, 6, 3)
    surgery.apply_constraints(model, {"weight": "cat(['equalized_lr', 'bjorck(dim=1)'], [1, 3])"})
    slice_ = model.weight.detach()[1:].movedim(1, 0).flatten(1).double()
    torch.testing.assert_close(slice_ @ slice_.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-5)
    with pytest.raises(surgery.PlanError, match="bjorck does not know how ConvTranspose1d uses its weight"):
        (
            surgery.plan(nn.ConvTranspose1d(4, 6, 3), {"weight": "stack(['bjorck(dim=0)', 'none', 'none', 'none'])"}),
            (surgery.apply_constraints(nn.ConvTranspose1d(4, 6, 3), {"weight": "cat(['none', 'bjorck'], [1, 3])"})),
        )


def test_it_lives_in_a_model():
    model = nn.Linear(6, 5)
    plain = copy.deepcopy(model)
    weight, raw = model.weight, model.weight.detach().clone()
    surgery.apply_constraints(model, {"weight": "cat(['positive', 'none', 'simplex'], [1, 2, 2])"})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
    assert surgery.check(model).ok
    assert model.weight.detach()[0].min() > 0
    torch.testing.assert_close(model.weight.detach()[3:].sum(1), torch.ones(2))
    double = copy.deepcopy(model).double()
    assert surgery.check(double).ok
    plain.load_state_dict(surgery.state_dict(model, format="plain"))
    assert torch.equal(plain.weight, model.weight.detach())
    baked = surgery.bake(copy.deepcopy(model))
    assert torch.equal(baked.weight, model.weight.detach())
    surgery.undo(model)
    assert model.weight is weight
    assert torch.equal(weight, raw)


def test_settings_of_the_whole_move():
    model = surgery.apply_constraints(nn.Linear(3, 4), {"weight": "cat(['positive', 'none'], [1, 3])"})
    surgery.configure(model, "weight", sizes=[2, 2])
    assert model.weight.detach()[:2].min() > 0
    with pytest.raises(surgery.SurgeryError, match="sizes that add up to 5"):
        surgery.configure(model, "weight", sizes=[2, 3])
