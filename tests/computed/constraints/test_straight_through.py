"""Derivatives that are stated, where the value is rounded or a length is held, against formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from computed.constraint import Constraint
from computed.constraints.dora import DoRA
from computed.constraints.few_levels import Binary, Ternary
from computed.constraints.learned_step import LearnedStep
from computed.constraints.quantised import FakeQuant
from computed.constraints.straight_through import straight_through
from computed.parameter import ComputedParameter
from computed.site import site_of

Array = np.ndarray
SHAPES = [(4, 6), (6, 3), (4, 3, 2, 3)]
DTYPES = [torch.float32, torch.float64]
# bits, dim and group
GRIDS = [(2, 0, None), (4, 0, None), (8, None, None), (3, -1, None), (4, 0, 3), (2, None, 1)]


def inserted(value: Tensor, constraint: Constraint) -> ComputedParameter:
    """The computed parameter of a weight; where it has four dimensions, of a convolution."""
    if value.dim() == 4:
        host = nn.Conv2d(value.shape[1], value.shape[0], value.shape[2:])
        constraint.bind(site_of(host, ("weight",), value, shape=value.shape))
    return ComputedParameter.from_value(value, constraint)


def moved(parameter: ComputedParameter, **raws: Tensor) -> None:
    with torch.no_grad():
        for role, raw in raws.items():
            parameter.raws[role].copy_(raw)


def entries(parameter: ComputedParameter, *roles: str) -> list[Array]:
    return [parameter.raws[role].detach().numpy() for role in roles]


def gradients(parameter: ComputedParameter, cotangent: Tensor, *roles: str) -> list[Array]:
    (parameter * cotangent).sum().backward()
    return [parameter.raws[role].grad.numpy() for role in roles]


def spread(scale: Array, group: int | None) -> Array:
    """A scale for each entry, or one that broadcasts to all."""
    return scale if group is None else np.repeat(scale, group, -1)


def gathered(each: Array, scale: Array, group: int | None) -> Array:
    """The sum over the entries of each scale."""
    if group is not None:
        return each.reshape(*scale.shape, group).sum(-1)
    axes = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)
    return each.sum(axes, keepdims=True)


def on_grid(raw: Array, scale: Array, levels: int) -> Array:
    return scale * np.clip(np.rint(raw / scale), -levels, levels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("bits", "dim", "group"), GRIDS)
@pytest.mark.parametrize("chosen", ["absmax", "mse"])
def test_a_fixed_grid_has_the_gradient_of_the_raw_inside_and_none_outside(chosen, bits, dim, group, shape, dtype):
    parameter = inserted(torch.randn(shape, dtype=dtype), FakeQuant(bits, dim=dim, group=group, scale=chosen))
    assert not parameter.raws["scale"].requires_grad
    moved(parameter, raw=1.5 * torch.randn(shape, dtype=dtype))
    levels = 2 ** (bits - 1) - 1
    raw, scale = entries(parameter, "raw", "scale")
    step = spread(scale, group)
    np.testing.assert_array_equal(parameter.detach().numpy(), on_grid(raw, step, levels))
    cotangent = torch.randn(shape, dtype=dtype)
    (found,) = gradients(parameter, cotangent, "raw")
    np.testing.assert_allclose(found, cotangent.numpy() * (np.abs(raw / step) <= levels), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("bits", "dim", "group"), GRIDS)
def test_a_learned_step_has_the_gradients_of_the_reference(bits, dim, group, shape, dtype):
    """Esser et al., 2020, equations 1 to 3 with Q_N = Q_P = levels, and section 2.2 for the factor."""
    parameter = inserted(torch.randn(shape, dtype=dtype), LearnedStep(bits, dim=dim, group=group))
    moved(parameter, raw=2 * torch.randn(shape, dtype=dtype), scale=parameter.raws["scale"] * 0.9)
    levels = 2 ** (bits - 1) - 1
    raw, scale = entries(parameter, "raw", "scale")
    ratio = raw / spread(scale, group)
    np.testing.assert_array_equal(parameter.detach().numpy(), on_grid(raw, spread(scale, group), levels))
    cotangent = torch.randn(shape, dtype=dtype)
    of_raw, of_scale = gradients(parameter, cotangent, "raw", "scale")
    given = cotangent.numpy()
    inside = (-levels < ratio) & (ratio < levels)
    slope = np.where(inside, np.rint(ratio) - ratio, levels * np.sign(ratio))
    sharing = gathered(np.ones_like(raw), scale, group)
    precision = 20 * torch.finfo(dtype).eps * max(levels, raw.size)
    np.testing.assert_allclose(of_raw, given * inside, rtol=1e-6)
    np.testing.assert_allclose(
        of_scale, gathered(given * slope, scale, group) / np.sqrt(sharing * levels), rtol=1e-6, atol=precision
    )


@pytest.mark.parametrize(("bits", "dim", "group"), [grid for grid in GRIDS if grid[2] != 1])
def test_a_learned_step_starts_where_the_reference_says(bits, dim, group):
    value = torch.randn(4, 6, dtype=torch.float64)
    scale = inserted(value, LearnedStep(bits, dim=dim, group=group)).raws["scale"].detach().numpy()
    sizes = gathered(value.abs().numpy(), scale, group) / gathered(np.ones(value.shape), scale, group)
    np.testing.assert_allclose(scale, 2 * sizes / np.sqrt(2 ** (bits - 1) - 1), rtol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_learned_step_keeps_a_weight_that_is_on_a_grid_to_rounding(bits, dtype):
    """Whatever the scale of that grid is: one of few digits is no better."""
    levels = 2 ** (bits - 1) - 1
    integers = torch.randint(-levels, levels + 1, (4, 16)).index_fill(1, torch.tensor(0), levels)
    weight = 0.3 * integers.to(dtype)
    found = inserted(weight, LearnedStep(bits)).detach()
    torch.testing.assert_close(found, weight, rtol=1e-4, atol=0)


def test_a_step_of_the_wrong_sign_counts_with_its_size():
    right, wrong = (inserted(torch.randn(4, 6).sign(), LearnedStep(4)) for _ in range(2))
    raw, scale, cotangent = torch.randn(4, 6), torch.rand(4, 1), torch.randn(4, 6)
    moved(right, raw=raw, scale=scale)
    moved(wrong, raw=raw, scale=-scale)
    assert torch.equal(right.detach(), wrong.detach())
    of_raw, of_scale = gradients(right, cotangent, "raw", "scale")
    again, turned = gradients(wrong, cotangent, "raw", "scale")
    np.testing.assert_array_equal(of_raw, again)
    np.testing.assert_array_equal(of_scale, -turned)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (5,)])
@pytest.mark.parametrize("dim", [0, None, -1])
@pytest.mark.parametrize("kind", [Binary, Ternary])
def test_entries_of_one_size_have_the_gradient_of_the_raw(kind, dim, shape, dtype):
    raw = torch.randn(shape, dtype=dtype)
    parameter = inserted(raw, kind(dim))
    cotangent = torch.randn(shape, dtype=dtype)
    (found,) = gradients(parameter, cotangent, "raw")
    np.testing.assert_array_equal(found, cotangent.numpy())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dim", [0, None, -1])
@pytest.mark.parametrize("kind", [Binary, Ternary])
def test_entries_of_a_slice_have_the_same_bits_up_to_sign_and_zeros(kind, dim, shape, dtype):
    raw = torch.randn(shape, dtype=dtype)
    found = inserted(raw, kind(dim)).detach().numpy()
    rows = found.reshape(1, -1) if dim is None else np.moveaxis(found, dim, 0).reshape(shape[dim], -1)
    for row in np.abs(rows):
        sizes = set(row.tolist())
        assert len(sizes - {0.0}) == 1
        assert kind is Ternary or 0.0 not in sizes
    assert (np.sign(found) * np.sign(raw.numpy()) >= 0).all()


@pytest.mark.parametrize("kind", [Binary, Ternary, lambda: FakeQuant(3), lambda: FakeQuant(3, group=2)])
def test_derivatives_in_a_direction_are_those_of_gradients(kind):
    raw, direction, cotangent = torch.randn(3, 4, 6, dtype=torch.float64)
    parameter = inserted(raw, kind())
    (constraint,) = parameter.constraints
    fixed = [each.detach() for role, each in parameter.raws.items() if role != "raw"]
    value, tangent = torch.func.jvp(lambda x: constraint(x, *fixed), (raw,), (direction,))
    (gradient,) = gradients(parameter, cotangent, "raw")
    assert torch.equal(value, parameter.detach())
    np.testing.assert_allclose((cotangent * tangent).sum().item(), (gradient * direction.numpy()).sum(), rtol=1e-12)


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_lengths_of_directions_are_constants_of_the_derivative(shape, alpha):
    """Liu et al., 2024, equation 5 with the gradients of section 4.3."""
    parameter = inserted(torch.randn(shape, dtype=torch.float64), DoRA(2, alpha=alpha, seed=1))
    assert not parameter.raws["base"].requires_grad
    shapes = {role: parameter.raws[role].shape for role in ("A", "B", "m")}
    moved(parameter, **{role: torch.randn(size, dtype=torch.float64) for role, size in shapes.items()})
    base, A, B, m = entries(parameter, "base", "A", "B", "m")
    scale = 1.0 if alpha is None else alpha / 2
    adapted = base.reshape(shape[0], -1) + scale * B @ A.reshape(2, -1)
    length = np.linalg.norm(adapted, axis=1, keepdims=True)
    np.testing.assert_allclose(parameter.detach().numpy(), (m * adapted / length).reshape(shape), rtol=1e-12)
    cotangent = torch.randn(shape, dtype=torch.float64)
    of_A, of_B, of_m = gradients(parameter, cotangent, "A", "B", "m")
    given = cotangent.numpy().reshape(shape[0], -1)
    through = m / length * given
    np.testing.assert_allclose(of_A, scale * (B.T @ through).reshape(A.shape), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(of_B, scale * through @ A.reshape(2, -1).T, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(of_m, (given * adapted).sum(1, keepdims=True) / length, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_what_is_rounded_keeps_its_bits(dtype):
    smooth = (1e3 * torch.randn(1000)).to(dtype).requires_grad_()
    rounded = (smooth * torch.randn(1000).to(dtype)).detach()
    found = straight_through(rounded, smooth)
    assert torch.equal(found, rounded)
    found.sum().backward()
    assert torch.equal(smooth.grad, torch.ones_like(smooth))
