"""Small weights of constraints that are evaluated one by one: one graph for all, each with the bits it has alone.

The reference is a twin that evaluates each alone, at every read.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import computed
import surgery
from computed.constraint import Constraint, Preimage
from computed.constraints.elementwise import Positive
from computed.hold import Hold
from computed.parameter import ComputedParameter
from computed.team import LARGE
from tests.computed.test_evaluating_together import Branches, step, trained
from tests.computed.test_holding import assert_same_gradients

SPECS = (
    "positive", "interval(-2, 2)", "weight_norm", "unit_norm", "orthogonal", "skew | orthogonal", "mask(0.5)", "skew",
    "low_rank(2)", "spectral | mask(0.5)", "operator_norm", "fake_quant(bits=4)", "simplex", "dora(2)", "hra(2)",
)  # fmt: skip


class Square(nn.Module):
    """Layers of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6, dtype=torch.float64) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        """All of them."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many members each hold had."""
    found: list[int] = []
    made = Hold.__init__

    def counting(self: Hold, members: object, **options: object) -> None:
        found.append(len(members))  # type: ignore[arg-type] # members are a sequence
        made(self, members, **options)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(Hold, "__init__", counting)
    return found


def test_after_a_step_all_are_evaluated_at_the_first_read(sizes: list[int]) -> None:
    model, optimizer = trained(Branches(), "positive")
    for expected in ([1, 1, 1, 1], [4], [4]):
        sizes.clear()
        step(model, optimizer, torch.randn(3, 16))
        assert sizes == expected


@pytest.mark.parametrize("spec", SPECS)
def test_values_states_and_gradients_are_those_of_each_alone(spec: str, sizes: list[int]) -> None:
    torch.manual_seed(0)
    model, optimizer = trained(Square(), spec)
    twin = computed.caching(copy.deepcopy(model), False)
    for turn in range(4):
        x = torch.randn(4, 6, dtype=torch.float64)
        sizes.clear()
        for one in (model, twin):
            one.zero_grad()
        out, expected = model(x), twin(x)
        assert torch.equal(out, expected), turn
        (out.square().sum() + model(0.5 * x).sum()).backward()
        (expected.square().sum() + twin(0.5 * x).sum()).backward()
        assert_same_gradients(model, twin)
        if turn and "low_rank" not in spec and "dora" not in spec:  # layers of these make no value
            assert sizes == [4]
        optimizer.step()
        twin.load_state_dict(model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 3, 16, 60])
@pytest.mark.parametrize("shape", [(1,), (5,), (64,), (100,), (8, 3, 3), (31, 7), (3, 3, 3, 3)])
def test_rows_that_are_scaled_together_have_the_bits_of_each(
    rows: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Also a row of zeros, and those of numbers without a square."""
    torch.manual_seed(0)
    those = []
    for exponent in (0, 0, -14, 14):
        value = torch.randn(rows, *shape, dtype=dtype) * 10.0**exponent
        value[rows // 2] *= rows > 1
        those.append(ComputedParameter.from_value(value, "weight_norm"))
    given = [tuple(raw.detach() for raw in one.raws.values()) for one in those]
    constraints = [one.constraints[0] for one in those]
    together = constraints[0].evaluate_together(constraints, given)
    for value, one, raws in zip(together.values, constraints, given, strict=True):
        assert torch.equal(value, one(*raws))
        assert torch.equal(value, one.evaluate_together([one], [raws]).values[0])


@pytest.mark.parametrize("used", [(0, 1, 2), (1,), ()])
def test_gradients_of_rows_that_are_scaled_together(used: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    those = [ComputedParameter.from_value(torch.randn(4, n, 3, dtype=torch.float64), "weight_norm") for n in (2, 5, 2)]
    raws = [tuple(raw.detach().clone().requires_grad_() for raw in one.raws.values()) for one in those]
    constraints = [one.constraints[0] for one in those]
    kept = constraints[0].evaluate_together(constraints, [tuple(raw.detach() for raw in each) for each in raws]).kept
    cotangents = [torch.randn_like(one[0]) if i in used else None for i, one in enumerate(raws)]
    found = constraints[0].gradients_together(kept, cotangents)
    expected: list[Tensor | None] = []
    for (v, g), cotangent in zip(raws, cotangents, strict=True):
        value = v * g / v.square().sum((1, 2), keepdim=True).sqrt()
        expected += (None, None) if cotangent is None else torch.autograd.grad(value, (v, g), cotangent)
    torch.testing.assert_close(list(found), expected)


def test_all_kinds_of_one_model_are_one_team(sizes: list[int]) -> None:
    model = Square()
    rules = {"layers.0.weight": "positive", "layers.1.weight": "orthogonal", "layers.2.weight": "mask(0.5)"}
    surgery.apply_constraints(model, rules)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(3, 6, dtype=torch.float64)
    step(model, optimizer, x)
    sizes.clear()
    step(model, optimizer, x)
    assert sizes == [3]


def test_large_ones_and_foreign_modules_are_alone(sizes: list[int]) -> None:
    class Doubled(nn.Module):
        def forward(self, raw: Tensor) -> Tensor:
            return 2 * raw

        def right_inverse(self, value: Tensor) -> Tensor:
            return value / 2

    side = int(LARGE**0.5)
    layers = [nn.Linear(side, side), nn.Linear(side, side), nn.Linear(side, 4), nn.Linear(4, 4)]
    model = nn.Sequential(*layers)
    surgery.apply_constraints(model, {"0.weight": "positive", "1.weight": "positive", "[23].weight": Doubled()})
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):
        sizes.clear()
        step(model, optimizer, torch.randn(2, side))
        assert sizes == [1, 1, 1, 1]


def test_what_only_one_optimizer_moves_leaves_its_mates_as_they_are() -> None:
    """One graph is let go of, member by member: the others are held, and differentiated again."""
    torch.manual_seed(0)
    model, optimizer = trained(Square(), "positive")
    x = torch.randn(3, 6, dtype=torch.float64)
    step(model, optimizer, x)
    model(x).square().sum().backward()
    first = torch.optim.SGD(model.layers[0].parameters(), 0.1)
    first.step()
    twin = computed.caching(copy.deepcopy(model), False)
    for one in (model, twin):
        one.zero_grad()
        one(x).square().sum().backward()
    assert_same_gradients(model, twin)


@pytest.mark.parametrize("retained", [False, True])
def test_a_graph_of_before_the_step_of_one_member(retained: bool) -> None:
    """Gradients of the others are those of old; of its own it says that they are gone."""
    model, optimizer = trained(Square(), "positive")
    x = torch.randn(3, 6, dtype=torch.float64)
    step(model, optimizer, x)
    one, other = (model.layers[i].weight.value() for i in (0, 1))
    expected = torch.autograd.grad(one.square().sum(), model.layers[0].weight.raws["raw"], retain_graph=True)
    (one.sum() + other.sum()).backward(retain_graph=retained)
    torch.optim.SGD(model.layers[0].parameters(), 0.1).step()
    raw = model.layers[1].weight.raws["raw"]
    raw.grad = None
    loss = other.square().sum()
    loss.backward()
    torch.testing.assert_close(raw.grad, 2 * other.detach() * torch.sigmoid(raw.detach()))
    if retained:
        found = torch.autograd.grad(one.square().sum(), model.layers[0].weight.raws["raw"])
        torch.testing.assert_close(found, expected)
    else:
        with pytest.raises(RuntimeError, match=r"layers\.0\.weight: .* has freed its graph"):
            one.square().sum().backward()


def test_second_derivatives_of_one_do_not_ask_about_the_others() -> None:
    model, optimizer = trained(Square(), "positive")
    x = torch.randn(3, 6, dtype=torch.float64)
    step(model, optimizer, x)
    values = [layer.weight.value() for layer in model.layers]
    with torch.no_grad():
        model.layers[0].weight.raws["raw"].add_(1.0)  # nobody asks for its gradient
    raw = model.layers[1].weight.raws["raw"]
    (slope,) = torch.autograd.grad(values[1].square().sum(), raw, create_graph=True)
    (twice,) = torch.autograd.grad(slope.sum(), raw)
    sigmoid = torch.sigmoid(raw.detach())
    expected = 2 * sigmoid**2 + 2 * values[1].detach() * sigmoid * (1 - sigmoid)
    torch.testing.assert_close(twice, expected)


class Failing(Positive):
    """Positive, until it is told to fail."""

    spec_name = "failing_in_a_team"
    fails = False

    def forward(self, raw: Tensor) -> Tensor:
        """As positive."""
        if self.fails:
            raise ValueError("it fails")
        return super().forward(raw)


def test_one_that_fails_says_so_when_it_is_read_itself(sizes: list[int]) -> None:
    model = Branches(torch.float64)
    surgery.apply_constraints(model, {"layers.[012].weight": "positive", "layers.3.weight": Failing()})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(3, 16, dtype=torch.float64)
    step(model, optimizer, x)
    model.layers[3].weight.constraints[0].fails = True
    model.used = range(3)
    step(model, optimizer, x)
    assert sizes[-3:] == [1, 1, 1]  # alone again
    with pytest.raises(ValueError, match="it fails"):
        model.layers[3](x)


SCALE = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))


class Scaled(Positive):
    """Positive, times the mean of another weight that does not learn by it."""

    spec_name = "scaled_by_another"
    other: ComputedParameter | None = None

    def forward(self, raw: Tensor) -> Tensor:
        """As positive, times a number."""
        value = super().forward(raw)
        return value if self.other is None else value * self.other.value().detach().mean()


def test_members_that_read_each_other() -> None:
    model = Square()
    for i, layer in enumerate(model.layers):
        surgery.constrain(layer, weight=Scaled() if i == 1 else "positive")
    constraint = model.layers[1].weight.constraints[0]
    vars(constraint)["other"] = model.layers[2].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    x = torch.randn(3, 6, dtype=torch.float64)
    for _ in range(3):
        step(model, optimizer, x)
        own = torch.nn.functional.softplus(model.layers[1].weight.raws["raw"])
        expected = own * model.layers[2].weight.value().mean()
        torch.testing.assert_close(model.layers[1].weight.value(), expected)


class Captured(Constraint):
    """A scale that learns elsewhere."""

    def forward(self, raw: Tensor) -> Tensor:
        """Scale."""
        return raw * SCALE

    def right_inverse(self, value: Tensor) -> Preimage:
        """Divide."""
        return Preimage((value / SCALE.detach(),))

    def violation(self, value: Tensor, raws: object) -> float:
        """None."""
        return 0.0


def test_leaves_from_elsewhere_get_their_gradients() -> None:
    model = Square()
    for i, layer in enumerate(model.layers):
        surgery.constrain(layer, weight=Captured() if i == 1 else "positive")
    optimizer = torch.optim.SGD([*model.parameters(), SCALE], 0.01)
    x = torch.randn(3, 6, dtype=torch.float64)
    for _ in range(3):
        step(model, optimizer, x)
        assert SCALE.grad is not None
        assert SCALE.grad.abs() > 0
        SCALE.grad = None


def test_a_member_that_is_gone_and_one_that_is_frozen() -> None:
    model, optimizer = trained(Square(), "positive")
    x = torch.randn(3, 6, dtype=torch.float64)
    step(model, optimizer, x)
    del model.layers[3]
    model.layers[1].weight.requires_grad_(False)
    twin = computed.caching(copy.deepcopy(model), False)
    for one in (model, twin):
        one.zero_grad()
        one(x).square().sum().backward()
    assert_same_gradients(model, twin)
    assert model.layers[1].weight.raws["raw"].grad is None


def test_nothing_lives_longer_than_the_model() -> None:
    model, optimizer = trained(Square(), "weight_norm")
    x = torch.randn(3, 6, dtype=torch.float64)
    for _ in range(3):
        step(model, optimizer, x)
    assert all(isinstance(one, ComputedParameter) for one in surgery.computed_parameters(model).values())
    before = [raw.const_data_ptr() for raw in model.parameters()]
    loss = model(x).square().sum()
    loss.backward()
    optimizer.step()
    assert [raw.const_data_ptr() for raw in model.parameters()] == before  # no raw was copied, though the loss lives
    assert loss.isfinite()
