"""What every constraint promises, over a dictionary of constructors: a new constraint is a new line of it."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import ExpTransform, TanhTransform

from computed.constraint import FORBIDDEN_IN_CLASS_NAMES, Constraint, IteratedConstraint
from computed.constraints.adapters import LoRA
from computed.constraints.affine import Affine, EqualizedRate
from computed.constraints.aol import Aol
from computed.constraints.block_diagonal import BlockDiagonal
from computed.constraints.bounded import Bounded
from computed.constraints.cholesky import Cholesky
from computed.constraints.conversions import TransformConstraint, function
from computed.constraints.correlation import Correlation
from computed.constraints.definite import PositiveDefinite, PositiveSemidefinite
from computed.constraints.dora import DoRA
from computed.constraints.dynamic_orthogonal import DynamicOrthogonal
from computed.constraints.elementwise import GreaterThan, Interval, Positive
from computed.constraints.exponential import Exponential
from computed.constraints.few_levels import Binary, Ternary
from computed.constraints.fixed_rank import FixedRank, Invertible
from computed.constraints.gains import IA3
from computed.constraints.kronecker import Kronecker
from computed.constraints.learned_step import LearnedStep
from computed.constraints.less_than import LessThan
from computed.constraints.low_rank import LowRank
from computed.constraints.masks import Mask, SparsePattern
from computed.constraints.max_scale import MaxScale, ScaleRange
from computed.constraints.monotone import Monotone
from computed.constraints.nonnegative import NonNegative
from computed.constraints.norms import UnitScale, WeightScale
from computed.constraints.operator_norm import OperatorScale
from computed.constraints.ordered import Ordered
from computed.constraints.orthogonal import Grassmannian, Orthogonal, SpecialOrthogonal
from computed.constraints.orthogonal_kernel import OrthogonalKernel
from computed.constraints.polyadic import Polyadic
from computed.constraints.powerprop import PowerPropagation
from computed.constraints.products import LoHa, LoKr
from computed.constraints.quantised import FakeQuant
from computed.constraints.reflections import HRA
from computed.constraints.rotations import BOFT, OFT
from computed.constraints.sigma_gain import Gain
from computed.constraints.simplex import DoublyStochastic, Simplex
from computed.constraints.singular_values import AlmostOrthogonal, Polar, SingularClip
from computed.constraints.slices import Concatenated, Stacked
from computed.constraints.soft_threshold import SoftThreshold
from computed.constraints.spectral import Spectral
from computed.constraints.sphere import Frobenius, Sphere
from computed.constraints.standardized import Centred, ScaledStandardized, Standardized
from computed.constraints.strengths import DeLoRA, VeRA
from computed.constraints.structure import Skew, Symmetric
from computed.constraints.tensor_train import TensorTrain
from computed.constraints.toeplitz import Circulant, Toeplitz
from computed.constraints.triangular import LowerTriangular, UpperTriangular
from computed.constraints.tucker import Tucker
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter
from computed.registry import REQUIRED, catalogue, lookup
from computed.resolving import build
from computed.site import free_site, site_of
from computed.spec import parse_spec
from computed.together import Together

CONSTRAINTS: dict[str, Callable[[], Constraint]] = {
    "spectral": Spectral,
    "spectral, norm 3": lambda: Spectral(3.0, n_power_iterations=2),
    "spectral, bound": lambda: Spectral(bound=0.5),
    "spectral, loose bound": lambda: Spectral(bound=1e4),
    "operator_norm": OperatorScale,
    "operator_norm, bound": lambda: OperatorScale(bound=0.5, n_power_iterations=2),
    "orthogonal": Orthogonal,
    "orthogonal, exp": lambda: Orthogonal(map="exp"),
    "orthogonal, qr": lambda: Orthogonal(map="qr"),
    "orthogonal, newton_schulz": lambda: Orthogonal(map="newton_schulz"),
    "special_orthogonal": SpecialOrthogonal,
    "dynamic_orthogonal": DynamicOrthogonal,
    "grassmannian": Grassmannian,
    "positive": Positive,
    "greater_than": lambda: GreaterThan(1.0),
    "greater_than, negative": lambda: GreaterThan(-0.3),
    "interval": lambda: Interval(-1.0, 1.0),
    "interval, far from zero": lambda: Interval(100.0, 108.0),
    "unit_norm": UnitScale,
    "unit_norm, columns": lambda: UnitScale(-1),
    "unit_norm, whole": lambda: UnitScale(None),
    "weight_norm": WeightScale,
    "weight_norm, columns": lambda: WeightScale(1),
    "weight_norm, whole": lambda: WeightScale(None),
    "symmetric": Symmetric,
    "skew": Skew,
    "lora": lambda: LoRA(2, alpha=4, seed=1),
    "less_than": lambda: LessThan(1.0),
    "nonnegative": NonNegative,
    "nonnegative, relu": lambda: NonNegative(map="relu"),
    "nonnegative, square": lambda: NonNegative(map="square"),
    "exp": Exponential,
    "bounded": lambda: Bounded(2.0),
    "bounded, sin": lambda: Bounded(0.3, map="sin"),
    "bounded, clamp": lambda: Bounded(0.1, map="clamp"),
    "monotone": Monotone,
    "monotone, falling": lambda: Monotone(-1),
    "monotone, signs": lambda: Monotone([1, -1, 0, 1, -1, 0]),
    "ordered": Ordered,
    "ordered, first": lambda: Ordered(0),
    "powerprop": PowerPropagation,
    "affine": lambda: Affine(0.5, shift=2.0),
    "equalized_lr": lambda: EqualizedRate(1.5),
    "max_norm": lambda: MaxScale(1.5),
    "max_norm, whole": lambda: MaxScale(1.5, dim=None),
    "min_max_norm": lambda: ScaleRange(0.5, 1.5),
    "min_max_norm, columns": lambda: ScaleRange(0.5, 1.5, dim=-1),
    "sphere": lambda: Sphere(3.0),
    "frobenius": Frobenius,
    "centred": Centred,
    "centred, whole": lambda: Centred(None),
    "weight_standardization": Standardized,
    "weight_standardization, columns": lambda: Standardized(-1),
    "scaled_weight_standardization": ScaledStandardized,
    "gain": Gain,
    "lower_triangular": LowerTriangular,
    "upper_triangular": lambda: UpperTriangular(1),
    "psd": PositiveSemidefinite,
    "positive_definite": lambda: PositiveDefinite(0.1),
    "cholesky": Cholesky,
    "correlation": Correlation,
    "simplex": Simplex,
    "simplex, first": lambda: Simplex(0),
    "doubly_stochastic": DoublyStochastic,
    "toeplitz": Toeplitz,
    "circulant": Circulant,
    "block_diagonal": lambda: BlockDiagonal(1),
    "block_diagonal, three": lambda: BlockDiagonal(3),
    "kronecker": lambda: Kronecker(1, 1),
    "kronecker, columns": lambda: Kronecker(1, 3),
    "cat": lambda: Concatenated(["nonnegative", "none", "unit_norm"], [1, 2, 3]),
    "cat, channels": lambda: Concatenated(["nonnegative(map='relu')", "centred"], [1, 2], dim=1),
    "cat, strict": lambda: Concatenated(["greater_than(1.0)", "interval(-1.0, 1.0)"], [2, 4]),
    "cat, within": lambda: Concatenated(["cat(['symmetric', None], [3, 3], dim=1)", "none"], [3, 3]),
    "stack": lambda: Stacked(["nonnegative", "none", "sphere(2.0, dim=None)", "none", "frobenius", "monotone"]),
    "stack, channels": lambda: Stacked(["centred", "unit_norm"], dim=-2),
    "low_rank": lambda: LowRank(2),
    "aol": Aol,
    "aol, bound": lambda: Aol(0.3),
    "orthogonal_conv": OrthogonalKernel,
    "fixed_rank": lambda: FixedRank(2),
    "fixed_rank, cond": lambda: FixedRank(3, cond=10.0),
    "invertible": Invertible,
    "tucker": lambda: Tucker(2),
    "tucker, pair": lambda: Tucker((2, 3)),
    "tucker, share": lambda: Tucker(0.9),
    "cp": lambda: Polyadic(3),
    "tensor_train": lambda: TensorTrain(2),
    "tensor_train, share": lambda: TensorTrain(0.5),
    "singular_clip": SingularClip,
    "almost_orthogonal": lambda: AlmostOrthogonal(0.25),
    "bjorck": Polar,
    "mask": lambda: Mask(0.5),
    "mask, rows": lambda: Mask(0.4, dim=0),
    "n_m": lambda: SparsePattern(1, 3),
    "soft_threshold": lambda: SoftThreshold(0.3),
    "fake_quant": lambda: FakeQuant(4),
    "fake_quant, whole, mse": lambda: FakeQuant(8, dim=None, scale="mse"),
    "fake_quant, groups": lambda: FakeQuant(4, group=3),
    "lsq": lambda: LearnedStep(4),
    "binary": Binary,
    "binary, whole": lambda: Binary(None),
    "ternary": Ternary,
    "dora": lambda: DoRA(2, seed=1),
    "loha": lambda: LoHa(2, alpha=4, seed=1),
    "lokr": lambda: LoKr(2, factor=3, seed=1),
    "vera": lambda: VeRA(2, seed=1),
    "delora": lambda: DeLoRA(2, seed=1),
    "oft": lambda: OFT(3),
    "boft": lambda: BOFT(3, factors=2),
    "hra": lambda: HRA(2, seed=1),
    "ia3": IA3,
    "ia3, inputs": lambda: IA3(inputs=True),
    "function": lambda: function(torch.tanh),
    "function, inverse": lambda: function(torch.neg, torch.neg),
    "transform": lambda: TransformConstraint(TanhTransform()),
    "transform, half line": lambda: TransformConstraint(ExpTransform()),
}
# what tests of holding, copying and casting are about, which differ by mechanism and not by formula: all kinds of raws,
# roles and state, and what is not ours; tests/life/test_catalogue.py asks the others
CORE = {
    name: CONSTRAINTS[name]
    for name in (
        *("spectral", "spectral, norm 3", "spectral, bound", "spectral, loose bound", "operator_norm"),
        *("operator_norm, bound", "orthogonal", "positive", "greater_than", "greater_than, negative", "interval"),
        *("interval, far from zero", "unit_norm", "unit_norm, columns", "unit_norm, whole", "weight_norm"),
        *("weight_norm, columns", "weight_norm, whole", "symmetric", "skew", "lora", "mask", "fake_quant"),
        *("function", "function, inverse", "transform", "transform, half line"),
    )
}
# functions of their own are as accurate as they are, and have no spec
WITHOUT_SPEC = {"function", "function, inverse", "transform", "transform, half line"}
KEPT_APPROXIMATELY = {"function"}  # no inverse, so a value becomes a raw
# where distances to a bound are measured from: what is nearer to zero than this is not nearer to the bound
EDGE = {
    "positive": 0.0,
    "greater_than": 1.0,
    "greater_than, negative": 1.0,
    "interval": 1.0,
    "interval, far from zero": 1.0,
    "less_than": 1.0,
    "exp": 0.0,
    "cat, strict": 1.0,
}
# the raws are found by a decomposition, or a sum of many entries
DECOMPOSED = ("psd", "positive_definite", "correlation", "low_rank", "kronecker", "singular_clip", "almost_orthogonal")
DECOMPOSED += ("bjorck", "weight_standardization", "tucker", "tensor_train", "simplex", "doubly_stochastic")
DECOMPOSED += ("aol", "orthogonal_conv", "fixed_rank", "invertible")
CONVERGED = 0.5  # alternating least squares end in valleys: see the docstring
# what no evaluation moves
OWN_STATE = ("orthogonal", "special_orthogonal", "dynamic_orthogonal", "grassmannian", "mask", "n_m")
# rounding has no derivative, and these have another one in its place, which tests of their own are about
STRAIGHT_THROUGH = {name for name in CONSTRAINTS if name.startswith(("fake_quant", "lsq", "binary", "ternary", "dora"))}
# every tensor is in the set
EVERYTHING = (
    "function",
    "weight_norm",
    "powerprop",
    "affine",
    "equalized_lr",
    "soft_threshold",
    "lora",
    "dora",
    "loha",
)
EVERYTHING += ("lokr", "vera", "delora", "oft", "boft", "hra", "ia3", "gain")
STRICT = [name for name in CONSTRAINTS if name not in WITHOUT_SPEC]

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(6, 6), (4, 3, 2, 2), (1, 9), (5,), (7, 3), (3, 7), (9, 1), (1, 1), (2, 5, 5), ()]


def _values(dtype: torch.dtype) -> dict[str, Callable[[tuple[int, ...]], Tensor]]:
    largest = 6e4 if dtype is torch.float16 else 1e30
    smallest = 6e-8 if dtype is torch.float16 else 1e-30
    return {
        "normal": torch.randn,
        "zeros": torch.zeros,
        "negative zeros": lambda shape: -torch.zeros(shape),
        "ones": torch.ones,
        "huge": lambda shape: largest * torch.randn(shape).sign(),
        "tiny": lambda shape: smallest * torch.randn(shape).sign(),
        "mixed": lambda shape: torch.randn(shape) * 10.0 ** torch.randint(-4, 4, shape),
        "rank one": lambda shape: torch.ones(shape) * torch.randn(shape[-1:]),
        "one entry": lambda shape: torch.zeros(shape).reshape(-1).index_fill(0, torch.tensor(0), 2.0).reshape(shape),
        "negative": lambda shape: -torch.rand(shape) - 1,
    }


VALUES = list(_values(torch.float32))


def make(name: str, value: Tensor, *, convolution: bool = False) -> ComputedParameter:
    """The computed parameter of a constraint; weights of four dimensions stand in a convolution."""
    if not convolution and value.dim() != 4:
        return ComputedParameter.from_value(value, CONSTRAINTS[name]())
    with torch.random.fork_rng():
        host = nn.Conv2d(value.shape[1], value.shape[0], value.shape[2:])
    bound = CONSTRAINTS[name]()
    bound.bind(site_of(host, ("weight",), value, shape=value.shape))
    return ComputedParameter.from_value(value, bound)


def takes(name: str, value: Tensor) -> bool:
    """Whether the constraint takes such a value, where it stands in a convolution if it has four dimensions."""
    host = nn.Conv2d(1, 1, 1, device="meta") if value.dim() == 4 else nn.Module()
    return CONSTRAINTS[name]().why_not(site_of(host, ("weight",), value, shape=value.shape)) is None


def usual(name: str) -> tuple[int, ...]:
    """A shape that the constraint takes."""
    return (6, 6) if takes(name, torch.ones(6, 6)) else (4, 3, 2, 2)


def only(parameter: ComputedParameter) -> Constraint:
    constraint = parameter.constraints[0]
    assert isinstance(constraint, Constraint)
    return constraint


def violation(parameter: ComputedParameter) -> float:
    raws = [raw.detach() for raw in parameter.raws.values()]
    return only(parameter).violation(parameter.detach(), raws)


def excess(parameter: ComputedParameter) -> float:
    """By how much the violation exceeds the tolerance."""
    return violation(parameter) - only(parameter).tolerance(parameter.dtype)


def everything(name: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Each kind of value in each shape that the constraint takes; in other dtypes than float32 a part of them."""
    shapes = SHAPES if dtype is torch.float32 else SHAPES[:4]
    for kind, draw in _values(dtype).items():
        for shape in shapes:
            if kind != "rank one" or shape:
                value = draw(shape).to(dtype)
                if takes(name, value):
                    yield f"{kind} {shape}", value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_takes_every_value_into_its_set(name, dtype):
    seen = 0
    for what, value in everything(name, dtype):
        parameter = make(name, value)
        assert all(raw.isfinite().all() for raw in parameter.raws.values()), what
        for mode in (True, False) if isinstance(only(parameter), IteratedConstraint) else (True,):
            result = parameter.train(mode).detach()
            assert result.dtype == dtype, what
            assert result.shape == value.shape, what
            assert result.isfinite().all(), what
            if name in STRICT:
                assert excess(parameter) <= 0, what
        seen += 1
    assert seen >= len(VALUES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STRICT)
def test_keeps_a_value_that_is_inside(name, dtype):
    eps = torch.finfo(dtype).eps
    for what, value in everything(name, dtype):
        inside = make(name, value).detach().clone()
        kept = make(name, inside).detach()
        exact = inside.double()
        error = (kept.double() - exact).abs()
        if name in EDGE:
            # a raw of softplus or sigmoid is the logarithm of a distance, and its rounding is relative to that
            allowed = (
                eps
                * (2 + exact.abs().clamp_min(torch.finfo(dtype).tiny).log().abs())
                * exact.abs().clamp_min(EDGE[name])
            )
        else:
            within = CONVERGED if name == "cp" else (256 if name.split(",")[0] in DECOMPOSED else 4) * eps
            allowed = within * exact.abs().amax()
            allowed += eps * torch.finfo(dtype).tiny  # the distance of numbers near zero
        assert (error <= allowed).all(), (what, error.amax())


@pytest.mark.parametrize("name", ["spectral, loose bound", "orthogonal", "weight_norm", "symmetric", "skew", "lora"])
def test_keeps_a_value_that_is_inside_bit_for_bit(name):
    for what, value in everything(name, torch.float32):
        if name == "weight_norm" and what.startswith(("huge", "tiny")):
            continue  # squares of these overflow or vanish, so directions are scaled
        inside = make(name, value).detach().clone()
        parameter = make(name, inside)
        assert torch.equal(parameter.eval().detach(), inside), what


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_refuses_with_a_reason_and_an_exemption(name):
    shapes = [(4, 3, 2, 2), (5,), (), (3, 7), (2, 5, 5), (0, 3)]
    refused = [value for shape in shapes if not takes(name, value := torch.ones(shape))]
    for value in refused:
        constraint = CONSTRAINTS[name]()
        reason = constraint.why_not(free_site(value, "a.weight"))
        if reason is None:
            continue
        assert "exempt it with 'a.weight': None" in reason
        assert str(tuple(value.shape)) in reason
        with pytest.raises(ConstraintRefusedError, match="exempt it with 'weight': None"):
            ComputedParameter.from_value(value, CONSTRAINTS[name]())


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_takes_a_weight_without_entries_or_says_why_not(name, shape):
    if not takes(name, torch.ones(shape)):
        return
    parameter = make(name, torch.ones(shape))
    assert parameter.detach().shape == shape
    if name in STRICT:
        assert excess(parameter) <= 0


@pytest.mark.parametrize("name", STRICT)
def test_is_inside_for_any_raws(name):
    for scale in (0.0, 1e-3, 1.0, 30.0, 1e4):
        parameter = make(name, torch.randn(usual(name))).eval()
        with torch.no_grad():
            for raw in parameter.raws.values():
                if raw.requires_grad:  # what is fixed is what `right_inverse` found
                    raw.copy_(scale * torch.randn(raw.shape))
        assert parameter.detach().isfinite().all()
        if scale == 0 and name in ("spectral", "spectral, norm 3", "operator_norm"):
            continue  # no factor gives a zero matrix a norm; `right_inverse` never makes such a raw
        assert excess(parameter) <= 0, scale


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_derivatives_of_first_and_second_order(name, shape):
    value = torch.randn(shape, dtype=torch.float64)
    if not takes(name, value):
        pytest.skip("it does not take this shape")
    if name in STRAIGHT_THROUGH:
        pytest.skip("its derivative is stated, not that of its value: test_straight_through.py")
    parameter = make(name, value)
    constraint = only(parameter)
    raws = tuple(raw.detach() + 0.1 * torch.randn(raw.shape) for raw in parameter.raws.values())
    raws = tuple(raw.double().requires_grad_() for raw in raws)
    state = constraint.next_state(raws[0]) if isinstance(constraint, IteratedConstraint) else ()

    def value_of(*raws: Tensor) -> Tensor:
        if isinstance(constraint, IteratedConstraint):
            return constraint.value_given(raws[0], state)
        return constraint(*raws)

    assert torch.autograd.gradcheck(value_of, raws, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(value_of, raws)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_evaluates_under_vmap(name):
    parameters = [make(name, torch.randn(usual(name))).eval() for _ in range(3)]
    constraint = only(parameters[0])
    raws = [torch.stack(each) for each in zip(*(list(p.raws.values()) for p in parameters), strict=True)]

    def value_of(state: tuple[Tensor, ...], *raws: Tensor) -> Tensor:
        if isinstance(constraint, IteratedConstraint):
            return constraint.value_given(raws[0], state)
        return constraint(*raws)

    state: tuple[Tensor, ...] = ()
    if isinstance(constraint, IteratedConstraint):
        states = [only(p).settled_state(p.raws["raw"]) for p in parameters]
        state = tuple(torch.stack(each) for each in zip(*states, strict=True))
        if not name.startswith(OWN_STATE):  # the same for all
            for found, expected in zip(torch.vmap(constraint.settled_state)(raws[0]), state, strict=True):
                torch.testing.assert_close(found.abs(), expected.abs(), rtol=0, atol=1e-5)
    found = torch.vmap(value_of)(state, *raws)
    for one, parameter in zip(found, parameters, strict=True):
        torch.testing.assert_close(one, parameter.value(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_differentiates_under_transforms(name):
    parameter = make(name, 0.3 + torch.rand(usual(name)))
    raws = {role: raw.detach().clone() for role, raw in parameter.named_parameters()}
    inputs = torch.randn(3, *usual(name))

    def loss(raws: dict[str, Tensor], x: Tensor) -> Tensor:
        return (torch.func.functional_call(parameter, raws, ()) * x).square().sum()

    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(raws, inputs)
    sum((parameter * x).square().sum() for x in inputs).backward()
    for role, raw in parameter.named_parameters():
        if raw.grad is not None:
            torch.testing.assert_close(each[role].sum(0), raw.grad, rtol=1e-4, atol=1e-5)
    second = torch.func.hessian(loss)(raws, inputs[0])
    assert all(block.isfinite().all() for blocks in second.values() for block in blocks.values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_scripts_to_the_same_values(name, training):
    for value in (torch.randn(6, 6), torch.randn(4, 3, 2, 2)):
        if not takes(name, value):
            continue
        parameter = make(name, value).train(training)
        constraint = only(parameter)
        raws = [raw.detach().clone() for raw in parameter.raws.values()]
        if not constraint.scriptable:
            assert name in WITHOUT_SPEC
            return
        expected = parameter.detach()  # before: a scripted constraint commits its state in training
        found = torch.jit.script(constraint)(*raws)
        # what has its own way for many values at once sums in another order: a graph is equal to rounding
        rounding = 8e-7 if training and isinstance(constraint, Together) else 0.0
        torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_forward_has_the_roles_as_annotated_arguments(name):
    constraint = CONSTRAINTS[name]()
    arguments = list(inspect.signature(constraint.forward).parameters.values())
    assert [argument.name for argument in arguments] == [role.name for role in constraint.roles]
    assert all(argument.annotation in (Tensor, "Tensor") for argument in arguments)
    assert not any(word in type(constraint).__name__ for word in FORBIDDEN_IN_CLASS_NAMES)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_raws_have_the_shapes_that_are_stated(name):
    for what, value in everything(name, torch.float32):
        parameter = make(name, value)
        shapes = only(parameter).raw_shapes(value.shape)
        assert all(raw.is_contiguous() for raw in parameter.raws.values()), what  # some optimizers flatten views
        assert shapes == tuple(raw.shape for raw in parameter.raws.values()), what


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_is_applied_without_data(name):
    parameter = make(name, torch.empty(usual(name), device="meta"))
    real = make(name, torch.randn(usual(name)))
    assert parameter.is_meta
    assert parameter.shape == usual(name)
    entries = {key: tensor.shape for key, tensor in parameter.state_dict().items()}
    assert entries == {key: tensor.shape for key, tensor in real.state_dict().items()}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_copies_and_pickles(name):
    parameter = make(name, torch.randn(usual(name))).eval()
    for again in (copy.deepcopy(parameter), pickle.loads(pickle.dumps(parameter))):
        assert repr(again) == repr(parameter)
        assert torch.equal(again.detach(), parameter.detach())
        assert again.state_dict().keys() == parameter.state_dict().keys()


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("name", STRICT)
def test_spec_makes_an_equal_constraint(name, convolution):
    value = torch.randn(4, 3, 2, 2) if convolution else torch.randn(6, 6)
    if not takes(name, value):
        pytest.skip("it does not take this shape")
    constraint = only(make(name, value))
    (call,) = parse_spec(constraint.spec())
    again = build(call)
    assert isinstance(again, Constraint)
    assert repr(again) == repr(constraint)
    assert again.spec() == constraint.spec()
    assert "\n" not in repr(constraint)
    assert repr(constraint).startswith(f"{type(constraint).__name__}(")
    # whoever knows the spec alone, not the site, computes the same value from the same raws
    known = ComputedParameter.from_value(value, again).eval()
    assert torch.equal(known.detach(), make(name, value).eval().detach())


@pytest.mark.parametrize("name", catalogue())
def test_catalogue_states_the_signature_of_the_class(name):
    entry = lookup(name)
    parameters = inspect.signature(entry.load()).parameters.values()
    found = [(p.name, REQUIRED if p.default is p.empty else p.default, p.kind is p.KEYWORD_ONLY) for p in parameters]
    assert entry.parameters is not None
    assert found == [(p.name, p.default, p.keyword_only) for p in entry.parameters]
    assert entry.load().spec_name == name


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_reading_writes_nothing_and_a_step_commits_once(name):
    parameter = make(name, torch.randn(usual(name)))
    before = {key: tensor.clone() for key, tensor in parameter.state_dict().items()}
    buffers = [buffer.clone() for buffer in parameter.buffers()]
    for _ in range(10):
        (parameter * 2).sum()
        str(parameter)
    assert all(torch.equal(tensor, before[key]) for key, tensor in parameter.state_dict().items())
    assert all(map(torch.equal, parameter.buffers(), buffers))
    constraint = only(parameter)
    expected = constraint.next_state(parameter.raws["raw"]) if isinstance(constraint, IteratedConstraint) else ()
    optimizer = torch.optim.SGD([raw for raw in parameter.raws.values() if raw.requires_grad], lr=0.1)
    parameter.square().sum().backward()
    optimizer.step()
    if isinstance(constraint, IteratedConstraint):
        assert all(map(torch.equal, constraint.state(), expected))


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_casts_of_the_model_leave_state_in_float32_and_the_value_inside(name):
    host = nn.Module()
    host.weight = make(name, torch.randn(usual(name)))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        cast = copy.deepcopy(host).to(dtype)
        parameter = cast.weight
        wide = torch.promote_types(dtype, torch.float32)
        assert {raw.dtype for raw in parameter.raws.values()} == {dtype}
        assert {buffer.dtype for buffer in parameter.buffers()} <= {wide}
        if name in STRICT:
            assert excess(parameter.eval()) <= 0


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_making_one_leaves_the_random_state(name):
    value = torch.randn(usual(name))
    before = torch.get_rng_state()
    parameter = make(name, value)
    parameter.train()(), parameter.eval()()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_gradients_reach_every_trained_raw(name):
    parameter = make(name, 0.3 + 0.1 * torch.randn(usual(name)))
    (parameter * torch.randn(usual(name))).sum().backward()
    roles = only(parameter).roles
    for role, raw in zip(roles, parameter.raws.values(), strict=True):
        assert (raw.grad is not None) is role.trained
        assert raw.grad is None or raw.grad.isfinite().all()


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_violation_tells_what_is_outside(name):
    """A value that is no number is outside of every set that is not everything."""
    constraint = only(make(name, torch.randn(usual(name))))
    broken = torch.full(usual(name), torch.nan)
    everything_is_inside = name.split(",")[0] in EVERYTHING and name != "function, inverse"
    assert (constraint.violation(broken, ()) > 0) is not everything_is_inside
