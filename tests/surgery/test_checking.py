"""A check measures exactly, changes nothing and never raises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint, Preimage
from tests.surgery.models import MODELS, SPECS, SQUARE_SPECS, Listed, ResNet, TiedLM
from tests.surgery.picture import differences, picture

Build = Callable[[], nn.Module]
Rules = dict[str, object]


class Awkward(Constraint):
    """A constraint whose every answer can be made to fail."""

    failing = ""

    def _fail(self, where: str) -> None:
        if type(self).failing == where:
            raise RuntimeError(f"broken in {where}")

    def forward(self, raw: Tensor) -> Tensor:
        self._fail("forward")
        return raw

    def right_inverse(self, value: Tensor) -> Preimage:
        self._fail("right_inverse")
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        self._fail("violation")
        return {"nan": math.nan, "tensor": torch.ones(()), "text": "far", "infinite": math.inf}.get(
            type(self).failing, 0.0
        )

    def tolerance(self, dtype: torch.dtype) -> float:
        self._fail("tolerance")
        return super().tolerance(dtype)

    def extra_repr(self) -> str:
        self._fail("extra_repr")
        return ""


@pytest.fixture(autouse=True)
def _working() -> None:
    Awkward.failing = ""


@pytest.mark.parametrize(
    ("failing", "verdict"),
    [
        ("forward", "RuntimeError: broken in forward"),
        ("violation", "RuntimeError: broken in violation"),
        ("tolerance", "RuntimeError: broken in tolerance"),
        ("extra_repr", "RuntimeError: broken in extra_repr"),
        ("text", "ValueError: could not convert string to float: 'far'"),
        ("nan", "NO"),
        ("infinite", "NO"),
        ("tensor", "NO"),
        ("", "ok"),
    ],
)
def test_a_check_never_raises(failing: str, verdict: str):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    surgery.apply_constraints(model, {"0.weight": Awkward, "1.weight": "symmetric"})
    Awkward.failing = failing
    before = picture(model)
    found = surgery.check(model)
    rows = {row.name: row for row in found}
    assert rows["0.weight"].verdict == verdict
    assert rows["0.weight"].ok is (failing == "")
    assert rows["1.weight"].ok
    assert found.ok is (failing == "")
    assert verdict.split()[0] in str(found)
    assert found._repr_html_()
    assert differences(before, picture(model)) == []


def test_a_pending_write_that_cannot_be_projected_is_told():
    model = surgery.constrain(nn.Linear(3, 3), weight=Awkward)
    Awkward.failing = "right_inverse"
    (row,) = surgery.check(model)
    assert row.verdict == "RuntimeError: broken in right_inverse"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
def test_weights_that_are_no_numbers_are_not_inside(spec: str, number: float):
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec})
    with torch.no_grad():
        for raw in model.weight.raws.values():
            raw[0, 0] = number
    found = surgery.check(model)
    value = model.eval().weight.detach()
    everything_is_inside = "lora" in spec or spec == "weight_norm" or (number == math.inf and spec[:2] in ("po", "gr"))
    if not everything_is_inside and not bool(value.isfinite().all()):
        assert not found.ok, (str(found), value)
    assert len(str(found).splitlines()) >= 3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("spec", ["spectral(bound=0.5)", "spectral(norm=2.0)"])
def test_the_measure_of_singular_values_is_that_of_an_svd(spec: str, steps: int, training: bool):
    model, batch = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 2, 3)), torch.randn(2, 3, 6, 6)
    surgery.apply_constraints(model, {"*.weight": spec})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()
    found = {row.name: row for row in surgery.check(model.train(training))}
    model.eval()
    target = 0.5 if "bound" in spec else 2.0
    for name, rows in (("0.weight", 0), ("1.weight", 1)):
        weight = surgery.computed_parameters(model)[name].detach().double().numpy()
        sigma = np.linalg.svd(np.moveaxis(weight, rows, 0).reshape(weight.shape[rows], -1), compute_uv=False)[0]
        excess = max(0.0, sigma / target - 1) if "bound" in spec else abs(sigma / target - 1)
        assert found[name].violation == pytest.approx(excess, abs=1e-9)
        assert found[name].tolerance == 1e-3
        assert found[name].ok
    assert surgery.check(model).ok


@pytest.mark.parametrize("name", MODELS)
def test_a_constrained_model_is_inside(name: str):
    build, _, rules = MODELS[name]
    model = surgery.apply_constraints(build(), rules)
    found = surgery.check(model)
    assert found.ok, str(found)
    assert len(found) == len(found.rows) == len(surgery.computed_parameters(model))
    assert [row.name for row in found] == list(surgery.computed_parameters(model))


@pytest.mark.parametrize("spec", ["symmetric", "positive", "interval(-0.5, 0.5)", "unit_norm"])
def test_a_value_outside_is_told(spec: str, monkeypatch: pytest.MonkeyPatch):
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec})
    assert surgery.check(model).ok
    outside = torch.arange(16.0).view(4, 4) - 8
    constraint = model.weight.constraints[0]
    monkeypatch.setattr(type(constraint), "forward", lambda self, raw: outside)
    found = surgery.check(model)
    (row,) = found
    assert (found.ok, row.ok, row.verdict) == (False, False, "NO")
    assert row.violation is not None
    assert row.violation > 0.1
    assert str(found).endswith("0 of 1 inside their constraint")


def test_a_base_that_was_spoiled_by_hand_is_told():
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": "orthogonal"})
    with torch.no_grad():
        model.weight.constraints[0].base.mul_(2.0)
    found = surgery.check(model)
    assert not found.ok
    weight = model.weight.detach().double().numpy()
    error = np.abs(weight.T @ weight - np.eye(4)).max()
    assert found.rows[0].violation == pytest.approx(error, rel=1e-6)
    assert error > 100 * found.rows[0].tolerance


def test_the_table():
    model = surgery.apply_constraints(
        TiedLM(), {"head.weight": "orthogonal", "mix.weight": "symmetric", "mix.bias": "positive"}
    )
    lines = str(surgery.check(model)).splitlines()
    assert lines[0].split() == ["parameter", "constraint", "violation", "tolerance"]
    assert [line.split()[0] for line in lines[1:4]] == ["embedding.weight", "mix.weight", "mix.bias"]
    assert all(line.endswith(" ok") for line in lines[1:4])
    assert lines[4:] == ["3 of 3 inside their constraint"]


def test_a_model_without_computed_parameters_is_fine():
    found = surgery.check(nn.Linear(3, 3))
    assert (found.ok, len(found), str(found)) == (True, 0, "no computed parameters")
    assert surgery.check(nn.LazyLinear(3)).ok


class Foreign(nn.Module):
    """A torch parametrization."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw


def test_what_has_no_measure_says_so():
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": Foreign, "bias": "positive"})
    rows = {row.name: (row.verdict, row.violation) for row in surgery.check(model)}
    assert rows == {"weight": ("no measure", None), "bias": ("ok", 0.0)}
    assert "-" in str(surgery.check(model)).splitlines()[1]
    meta = surgery.apply_constraints(nn.Linear(3, 3, device="meta"), {"weight": "spectral"})
    assert [row.verdict for row in surgery.check(meta)] == ["on meta"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
def test_narrow_dtypes_are_measured_in_wide_ones(dtype: torch.dtype, spec: str):
    torch.manual_seed(4)
    model = surgery.apply_constraints(nn.Linear(8, 8).to(dtype), {"weight": spec})
    optimizer = torch.optim.SGD([raw for raw in model.weight.raws.values() if raw.requires_grad], lr=0.05)
    for _ in range(3):
        model(torch.randn(2, 8, dtype=dtype)).square().sum().backward()
        optimizer.step()
    found = surgery.check(model)
    assert found.ok, str(found)


def test_a_check_in_training_leaves_no_trace():
    model, batch = (
        surgery.apply_constraints(ResNet(), {"*conv*.weight": "spectral", "head.weight": "lora(2)"}),
        torch.randn(2, 3, 6, 6),
    )
    surgery.constrain(model.stem, weight="orthogonal")
    model(batch).sum().backward()
    surgery.check(model)
    before = picture(model)
    pending = [weight._pending_state for weight in surgery.computed_parameters(model).values()]
    for _ in range(3):
        surgery.check(model)
    assert differences(before, picture(model)) == []
    assert [weight._pending_state for weight in surgery.computed_parameters(model).values()] == pending
    assert model.training


def test_lists_and_buffers_are_checked():
    model = surgery.apply_constraints(Listed(), {"weights.*": "orthogonal", "shift": "positive"})
    assert [row.name for row in surgery.check(model)] == ["shift", "weights.0", "weights.1", "weights.2"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("spec", ["lora(2)", "weight_norm", "symmetric", "spectral", "interval(-1, 1)"])
def test_what_is_not_finite_is_inside_nothing(spec: str, number: float):
    """Also where any tensor is admissible: memory that nobody has initialised looks like that."""
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": spec})
    with torch.no_grad():
        next(iter(model.weight.raws.values()))[0, 0] = number
    (row,) = surgery.check(model)
    if not model.weight.peek().isfinite().all():
        assert not row.ok
        assert row.verdict == "not finite"


def stepped(spec: str) -> nn.Sequential:
    """A layer after one large step in a direction that its state knows nothing of, in train mode."""
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(256, 256)), {"0.weight": spec}).train()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model(torch.randn(64, 256)).square().mean().backward()
    for raw in model.parameters():
        raw.grad = torch.randn_like(raw)
    optimizer.step()
    return model


@pytest.mark.parametrize("spec", ["spectral", "spectral(bound=0.5)"])
def test_an_iterated_constraint_reports_its_overshoot_in_training(spec):
    model = stepped(spec)
    before = picture(model)
    found = surgery.check(model)
    (row,) = found.rows
    assert not differences(before, picture(model))
    assert row.ok  # eval has converged
    assert row.violation is not None
    assert row.in_training is not None
    value = model[0].weight.detach().double().numpy()
    bound = 1.0 if spec == "spectral" else 0.5
    measured = abs(np.linalg.norm(value, 2) / bound - 1)
    assert row.in_training == pytest.approx(measured, rel=1e-3)
    assert row.in_training > 0.1
    assert "in training 1 of them lag behind the last step, 0.weight by" in str(found)
    assert "in training" not in str(surgery.check(model.eval()))


def test_a_state_that_follows_exactly_has_no_overshoot():
    (row,) = surgery.check(stepped("dynamic_orthogonal")).rows
    assert row.ok
    assert row.in_training == row.violation


@pytest.mark.parametrize("spec", ["unit_norm", "orthogonal", "orthogonal(map='exp')", "mask(0.5)", "n_m(2, 4)"])
def test_a_constraint_without_an_iteration_tells_nothing_of_training(spec):
    (row,) = surgery.check(stepped(spec)).rows
    assert row.ok
    assert row.in_training is None
