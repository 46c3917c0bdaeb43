"""Values at insertion are the nearest points: NumPy and SciPy find the same ones in float64, by other ways."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

from computed.constraint import Constraint
from computed.constraints.bounded import Bounded
from computed.constraints.few_levels import Binary, Ternary
from computed.constraints.kronecker import Kronecker
from computed.constraints.learned_step import LearnedStep
from computed.constraints.low_rank import LowRank
from computed.constraints.masks import Mask, SparsePattern
from computed.constraints.norms import UnitScale
from computed.constraints.orthogonal import Orthogonal
from computed.constraints.quantised import FakeQuant
from computed.constraints.singular_values import AlmostOrthogonal, Polar, SingularClip
from computed.constraints.sphere import Sphere
from computed.constraints.triangular import LowerTriangular
from computed.parameter import ComputedParameter
from tests.computed.constraints.test_contract import make, takes

Array = np.ndarray
Projection = Callable[[Array], Array]


def slices(project: Projection, dim: int | None = 0) -> Projection:
    """``project`` for the slices along ``dim``, as vectors; for None the whole tensor is one."""

    def each(weight: Array) -> Array:
        if dim is None:
            return project(weight.ravel()).reshape(weight.shape)
        rows = np.moveaxis(weight, dim, 0)
        found = [project(row.ravel()).reshape(row.shape) for row in rows]
        return np.moveaxis(np.stack(found), 0, dim)

    return each


def lines(project: Projection, dim: int = -1) -> Projection:
    """``project`` for the vectors that run along ``dim``."""
    return lambda weight: np.apply_along_axis(project, dim, weight)


def matrices(project: Projection) -> Projection:
    """``project`` for the matrices of the last two dimensions."""

    def each(weight: Array) -> Array:
        found = [project(matrix) for matrix in weight.reshape(-1, *weight.shape[-2:])]
        return np.stack(found).reshape(weight.shape)

    return each


def one_matrix(project: Projection, dim: int = 0) -> Projection:
    """``project`` for the matrix whose rows run along ``dim``: (out, in * k) for 0."""

    def whole(weight: Array) -> Array:
        rows = np.moveaxis(weight, dim, 0)
        return np.moveaxis(project(rows.reshape(len(rows), -1)).reshape(rows.shape), 0, dim)

    return whole


def nearest_of(vector: Array, candidates: Array) -> Array:
    """The row of ``candidates`` that is nearest, of equally near ones the first."""
    return candidates[np.square(candidates - vector).sum(1).argmin()]


def of_length(low: float, high: float) -> Projection:
    """The nearest vector with a length from ``low`` to ``high``; of those that are nearest to zero the even one."""

    def project(vector: Array) -> Array:
        length = np.sqrt(np.square(vector).sum())
        if length == 0:
            return np.full_like(vector, low / np.sqrt(vector.size))
        return vector * (np.clip(length, low, high) / length)

    return project


def centred(vector: Array) -> Array:
    return (np.eye(vector.size) - 1 / vector.size) @ vector


def standardized(vector: Array) -> Array:
    deviations = centred(vector)
    if np.ptp(vector) == 0:  # all are as near
        deviations = centred(np.resize([1.0, -1.0], vector.size))
    return deviations / deviations.std()


def spanned(orbit: Callable[[int, int, int, int], tuple[object, int]]) -> Projection:
    """Matrices (m, n) with one number for each name that ``orbit(i, j, m, n)`` gives, times a sign: least squares."""

    def project(matrix: Array) -> Array:
        columns: dict[object, Array] = {}
        for i, j in np.ndindex(matrix.shape):
            name, sign = orbit(i, j, *matrix.shape)
            if sign:
                columns.setdefault(name, np.zeros(matrix.shape))[i, j] = sign
        basis = np.stack([column.ravel() for column in columns.values()], 1)
        return (basis @ np.linalg.lstsq(basis, matrix.ravel(), rcond=None)[0]).reshape(matrix.shape)

    return matrices(project)


def blocks(count: int) -> Projection:
    return spanned(lambda i, j, m, n: ((i, j), i * count // m == j * count // n))


def semidefinite(floor: float) -> Projection:
    """Half of the sum of the symmetric part and its polar factor ``H``, as by Higham's theorem."""

    def project(matrix: Array) -> Array:
        moved = (matrix + matrix.T) / 2 - floor * np.eye(len(matrix))
        return (moved + scipy.linalg.polar(moved)[1]) / 2 + floor * np.eye(len(matrix))

    return matrices(project)


def cholesky(matrix: Array) -> Array:
    lower = np.tril(matrix)
    np.fill_diagonal(lower, np.maximum(lower.diagonal(), np.finfo(float).tiny))
    return lower


def stationary(dual: Callable[[Array], tuple[float, Array]], start: Array) -> Array:
    """Where the gradient of a convex function is zero: minimised, then polished."""
    found = scipy.optimize.minimize(dual, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return scipy.optimize.root(lambda x: dual(x)[1], found, method="lm", options={"xtol": 1e-15, "ftol": 1e-15}).x


def correlation(matrix: Array) -> Array:
    """The semidefinite part of ``W + diag(y)``, with ``y`` from the dual problem (Qi and Sun, 2006)."""
    symmetric = (matrix + matrix.T) / 2

    def primal(y: Array) -> Array:
        return semidefinite(0.0)(symmetric + np.diag(y))

    def dual(y: Array) -> tuple[float, Array]:
        point = primal(y)
        return np.square(point).sum() / 2 - y.sum(), point.diagonal() - 1

    found = primal(stationary(dual, 1 - symmetric.diagonal()))
    np.testing.assert_allclose(found.diagonal(), 1, atol=1e-9)
    return found


def doubly_stochastic(matrix: Array) -> Array:
    """The positive part of ``W + u + v'``, with ``u`` and ``v`` from the dual problem."""
    count = len(matrix)

    def primal(y: Array) -> Array:
        return np.maximum(matrix + y[:count, None] + y[None, count:], 0)

    def dual(y: Array) -> tuple[float, Array]:
        point = primal(y)
        return np.square(point).sum() / 2 - y.sum(), np.concatenate([point.sum(1), point.sum(0)]) - 1

    found = primal(stationary(dual, np.concatenate([1 - matrix.mean(1), np.zeros(count)])))
    assert shortfall(matrix, found) <= 1e-9 * size_of(matrix)
    return found


def shortfall(matrix: Array, point: Array) -> float:
    """By how much a permutation is beyond the plane through ``point`` that faces ``matrix``: zero for the nearest one.

    It is no less than the squared distance from ``point`` to that.
    """
    normal = matrix - point
    vertex = scipy.optimize.linear_sum_assignment(normal, maximize=True)
    return float(normal[vertex].sum() - (normal * point).sum())


def probabilities(vector: Array) -> Array:
    """The best of the nearest points for all choices of what is not zero."""
    found = []
    for support in itertools.product([0.0, 1.0], repeat=vector.size):
        if any(support):
            share = np.array(support)
            point = share * (vector - ((share * vector).sum() - 1) / share.sum())
            if (point >= 0).all():
                found.append(point)
    return nearest_of(vector, np.stack(found))


def of_levels(levels: tuple[int, ...]) -> Projection:
    """The best size for each choice of levels for the entries, and the best choice; zero goes up."""

    def project(vector: Array) -> Array:
        choices = np.array(list(itertools.product(levels, repeat=vector.size)), dtype=float)
        squares = np.square(choices).sum(1)
        sizes = np.maximum(choices @ vector, 0) / np.where(squares > 0, squares, 1)
        return nearest_of(vector, choices * sizes[:, None])

    return project


def kept(count: Callable[[int], int], dim: int | None = None) -> Projection:
    """The best choice of so many entries, or slices along ``dim``; of equally good ones the first."""

    def project(weight: Array) -> Array:
        rows = weight.ravel() if dim is None else np.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)
        sizes = np.square(rows) if dim is None else np.square(rows).sum(1)
        choices = itertools.combinations(range(len(rows)), count(len(rows)))
        best = list(max(choices, key=lambda chosen: sizes[list(chosen)].sum()))
        found = np.zeros_like(rows)
        found[best] = rows[best]
        shape = weight.shape if dim is None else np.moveaxis(weight, dim, 0).shape
        return found.reshape(shape) if dim is None else np.moveaxis(found.reshape(shape), 0, dim)

    return project


def share(sparsity: float) -> Callable[[int], int]:
    return lambda count: count - round(sparsity * count)


def pattern(n: int, m: int, dim: int) -> Projection:
    group = kept(lambda count: n)
    return lines(lambda line: np.concatenate([group(part) for part in line.reshape(-1, m)]), dim)


def squares(factors: Array) -> Array:
    """The squared length of each factor, above zero."""
    return np.square(factors).sum((1, 2), keepdims=True) + 1e-300


def kronecker(rows: int, columns: int) -> Projection:
    """Least squares for one factor and the other in turn, from several starts."""

    def project(matrix: Array) -> Array:
        parts = matrix.reshape(rows, len(matrix) // rows, columns, -1)
        first = np.random.default_rng(0).standard_normal((4, rows, columns))  # one for each start
        for _ in range(400):
            second = np.einsum("sij,ikjl->skl", first, parts) / squares(first)
            first = np.einsum("skl,ikjl->sij", second, parts) / squares(second)
        products = [np.kron(one, other).ravel() for one, other in zip(first, second, strict=True)]
        return nearest_of(matrix.ravel(), np.stack(products)).reshape(matrix.shape)

    return project


def of_rank(rank: int) -> Projection:
    def project(matrix: Array) -> Array:
        u, s, vh = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
        return (u[:, :rank] * s[:rank]) @ vh[:rank]

    return project


def clipped(low: float, high: float) -> Projection:
    """Eigenvalues of the symmetric matrix ``[0 W; W' 0]``, which are singular values and their negatives, cut off."""

    def project(matrix: Array) -> Array:
        m, n = matrix.shape
        if low > 0 and np.linalg.matrix_rank(matrix) < min(m, n):  # several are nearest
            u, s, vh = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
            return (u * np.clip(s, low, high)) @ vh
        eigenvalues, vectors = np.linalg.eigh(np.block([[np.zeros((m, m)), matrix], [matrix.T, np.zeros((n, n))]]))
        cut = np.sign(eigenvalues) * np.clip(np.abs(eigenvalues), low, high)
        order = np.argsort(np.abs(eigenvalues))
        cut[order[: abs(m - n)]] = 0  # those of no singular value
        return ((vectors * cut) @ vectors.T)[:m, m:]

    return project


def orthonormal(matrix: Array) -> Array:
    return scipy.linalg.polar(matrix)[0]


def signed(signs: list[int]) -> Projection:
    s = np.array(signs)
    return lambda weight: np.where(s > 0, np.maximum(weight, 0), np.where(s < 0, np.minimum(weight, 0), weight))


def between(low: float, high: float) -> Projection:
    """The nearest numbers strictly between both."""
    return lambda weight: np.clip(weight, np.nextafter(low, np.inf), np.nextafter(high, -np.inf))


def cut(limit: float) -> Projection:
    return lambda weight: np.clip(weight, -limit, limit)


def rising(line: Array) -> Array:
    return scipy.optimize.isotonic_regression(line).x


MORE: dict[str, Callable[[], Constraint]] = {
    "bounded, sin, 2": lambda: Bounded(2.0, map="sin"),
    "unit_norm, middle": lambda: UnitScale(1),
    "sphere, columns": lambda: Sphere(0.5, dim=-1),
    "lower_triangular, strict": lambda: LowerTriangular(-1),
    "kronecker, square": lambda: Kronecker(2, 2),
    "kronecker, wide": lambda: Kronecker(1, 2),
    "low_rank, one": lambda: LowRank(1),
    "low_rank, second": lambda: LowRank(1, dim=1),
    "singular_clip, second": lambda: SingularClip(0.5, dim=1),
    "almost_orthogonal, second": lambda: AlmostOrthogonal(0.5, dim=1),
    "bjorck, second": lambda: Polar(dim=1),
    "orthogonal, second": lambda: Orthogonal(dim=1),
    "mask, columns": lambda: Mask(0.5, dim=-1),
    "mask, all": lambda: Mask(1.0),
    "n_m, columns": lambda: SparsePattern(2, 4, dim=0),
    "binary, columns": lambda: Binary(-1),
    "ternary, columns": lambda: Ternary(-1),
    "ternary, whole": lambda: Ternary(None),
    "fake_quant, ternary groups, mse": lambda: FakeQuant(2, group=3, scale="mse"),
    "fake_quant, columns": lambda: FakeQuant(3, dim=-1),
    "fake_quant, columns, mse": lambda: FakeQuant(3, dim=-1, scale="mse"),
    "lsq, groups": lambda: LearnedStep(2, group=3),
}
CONVEX: dict[str, Projection] = {
    "positive": between(0.0, np.inf),
    "exp": between(0.0, np.inf),
    "greater_than": between(1.0, np.inf),
    "greater_than, negative": between(-0.3, np.inf),
    "less_than": between(-np.inf, 1.0),
    "interval": between(-1.0, 1.0),
    "interval, far from zero": between(100.0, 108.0),
    "nonnegative": signed([1]),
    "nonnegative, relu": signed([1]),
    "nonnegative, square": signed([1]),
    "bounded": cut(2.0),
    "bounded, sin": cut(0.3),
    "bounded, sin, 2": cut(2.0),
    "bounded, clamp": cut(0.1),
    "monotone": signed([1]),
    "monotone, falling": signed([-1]),
    "monotone, signs": signed([1, -1, 0, 1, -1, 0]),
    "ordered": lines(rising),
    "ordered, first": lines(rising, 0),
    "max_norm": slices(of_length(0.0, 1.5)),
    "max_norm, whole": slices(of_length(0.0, 1.5), None),
    "centred": slices(centred),
    "centred, whole": slices(centred, None),
    "scaled_weight_standardization": slices(centred),
    "symmetric": spanned(lambda i, j, m, n: ((min(i, j), max(i, j)), 1)),
    "skew": spanned(lambda i, j, m, n: ((min(i, j), max(i, j)), int(np.sign(i - j)))),
    "lower_triangular": spanned(lambda i, j, m, n: ((i, j), i >= j)),
    "lower_triangular, strict": spanned(lambda i, j, m, n: ((i, j), i > j)),
    "upper_triangular": spanned(lambda i, j, m, n: ((i, j), i < j)),
    "toeplitz": spanned(lambda i, j, m, n: (i - j, 1)),
    "circulant": spanned(lambda i, j, m, n: ((i - j) % n, 1)),
    "block_diagonal": blocks(1),
    "block_diagonal, three": blocks(3),
    "psd": semidefinite(0.0),
    "positive_definite": semidefinite(0.1),
    "cholesky": matrices(cholesky),
    "correlation": matrices(correlation),
    "simplex": lines(probabilities),
    "simplex, first": lines(probabilities, 0),
    "doubly_stochastic": matrices(doubly_stochastic),
    "singular_clip": one_matrix(clipped(0.0, 1.0)),
    "singular_clip, second": one_matrix(clipped(0.0, 0.5), 1),
}
OTHERS: dict[str, Projection] = {
    "unit_norm": slices(of_length(1.0, 1.0)),
    "unit_norm, columns": slices(of_length(1.0, 1.0), -1),
    "unit_norm, middle": slices(of_length(1.0, 1.0), 1),
    "unit_norm, whole": slices(of_length(1.0, 1.0), None),
    "min_max_norm": slices(of_length(0.5, 1.5)),
    "min_max_norm, columns": slices(of_length(0.5, 1.5), -1),
    "sphere": slices(of_length(3.0, 3.0)),
    "sphere, columns": slices(of_length(0.5, 0.5), -1),
    "frobenius": slices(of_length(1.0, 1.0), None),
    "weight_standardization": slices(standardized),
    "weight_standardization, columns": slices(standardized, -1),
    "kronecker": kronecker(1, 1),
    "kronecker, columns": kronecker(1, 3),
    "kronecker, square": kronecker(2, 2),
    "kronecker, wide": kronecker(1, 2),
    "low_rank": one_matrix(of_rank(2)),
    "low_rank, one": one_matrix(of_rank(1)),
    "low_rank, second": one_matrix(of_rank(1), 1),
    "almost_orthogonal": one_matrix(clipped(0.75, 1.25)),
    "almost_orthogonal, second": one_matrix(clipped(0.5, 1.5), 1),
    "bjorck": one_matrix(orthonormal),
    "bjorck, second": one_matrix(orthonormal, 1),
    "orthogonal": one_matrix(orthonormal),
    "orthogonal, second": one_matrix(orthonormal, 1),
    "mask": kept(share(0.5)),
    "mask, rows": kept(share(0.4), 0),
    "mask, columns": kept(share(0.5), -1),
    "mask, all": kept(share(1.0)),
    "n_m": pattern(1, 3, 1),
    "n_m, columns": pattern(2, 4, 0),
    "binary": slices(of_levels((1, -1))),
    "binary, columns": slices(of_levels((1, -1)), -1),
    "binary, whole": slices(of_levels((1, -1)), None),
    "ternary": slices(of_levels((0, 1, -1))),
    "ternary, columns": slices(of_levels((0, 1, -1)), -1),
    "ternary, whole": slices(of_levels((0, 1, -1)), None),
}
NEAREST = CONVEX | OTHERS
# where several points are nearest, the docstrings say which one is taken
SAID = ("unit_norm", "min_max_norm", "sphere", "frobenius", "weight_standardization", "mask", "binary")
SHAPES = [(3, 3), (4, 6), (6, 4), (6, 6), (4, 3, 1, 2), (3, 2, 2, 2), (2, 5, 5), (6,), (1, 6)]
OWN_SHAPES = {
    "mask": [(3, 3), (2, 6), (3, 2, 1, 2), (9,)],
    "mask, all": [(3, 3), (2, 2, 2)],
    "n_m": [(3, 3), (4, 6), (4, 3, 2, 2)],
    "n_m, columns": [(4, 3), (8, 2, 2)],
    "binary": [(3, 3), (4, 6), (6, 4), (4, 3, 1, 2), (1, 8), (5,)],
    "binary, columns": [(6, 4), (3, 2, 3)],
    "binary, whole": [(3, 3), (2, 5), (9,)],
    "ternary": [(3, 3), (4, 6), (6, 4), (4, 3, 1, 2), (5,)],
    "ternary, columns": [(6, 4), (3, 2, 3)],
    "ternary, whole": [(3, 2), (2, 3), (6,)],
    "kronecker": [(3, 3), (4, 6)],
    "kronecker, columns": [(3, 3), (4, 6), (2, 9)],
    "kronecker, square": [(4, 6), (6, 4)],
    "kronecker, wide": [(4, 6), (6, 4)],
    "low_rank, one": [(4, 6), (6, 4)],
    **{name: [(4, 6), (6, 4), (2, 3, 2)] for name in NEAREST if name.endswith(", second")},
    "unit_norm, middle": [(4, 6), (2, 3, 4)],
    "sphere, columns": [(4, 6), (2, 3, 4)],
    "mask, columns": [(4, 6), (2, 3, 4)],
    "bounded, sin, 2": [(4, 6), ()],
    "lower_triangular, strict": [(4, 6), (6, 4)],
}
# a projection that is iterated stops where steps are short
ACCURACY = {"correlation": 1e-8, "doubly_stochastic": 1e-8}
SEEDS = 2
KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "ties and zeros": lambda random, shape: random.integers(-2, 3, shape).astype(float),
    "zeros": lambda random, shape: np.zeros(shape),
    "ten times": lambda random, shape: 10 * random.standard_normal(shape),
    "far from zero": lambda random, shape: 1000 + random.standard_normal(shape),
    "of all sizes": lambda random, shape: random.standard_normal(shape) * 10.0 ** random.integers(-3, 1, shape),
}
# the nearest point is that of the grid that was chosen: levels, dim and group
GRIDS: dict[str, tuple[int, int | None, int | None]] = {
    "fake_quant": (7, 0, None),
    "fake_quant, whole, mse": (127, None, None),
    "fake_quant, groups": (7, 0, 3),
    "fake_quant, ternary groups, mse": (1, 0, 3),
    "fake_quant, columns": (3, -1, None),
    "fake_quant, columns, mse": (3, -1, None),
    "lsq": (7, 0, None),
    "lsq, groups": (1, 0, 3),
}


def inserted(name: str, weight: Array) -> ComputedParameter:
    value = torch.tensor(weight)
    if name in MORE:
        return ComputedParameter.from_value(value, MORE[name]()).eval()
    return make(name, value).eval()


def weights(name: str, kind: str) -> Iterator[Array]:
    """Weights of a kind in all shapes, the same ones for a name whatever ran before."""
    random = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
    for shape in OWN_SHAPES.get(name, SHAPES):
        if name in MORE or takes(name, torch.ones(shape)):
            for _ in range(1 if kind == "zeros" else SEEDS):
                yield KINDS[kind](random, shape)


def distance(one: Array, other: Array) -> float:
    return float(np.sqrt(np.square(one - other).sum()))


def size_of(weight: Array) -> float:
    return max(1.0, float(np.abs(weight).max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVEX)
def test_of_a_convex_set_the_value_is_the_nearest_point(name, kind):
    seen = 0
    for weight in weights(name, kind):
        found = inserted(name, weight).detach().numpy()
        np.testing.assert_allclose(found, CONVEX[name](weight), atol=ACCURACY.get(name, 1e-11) * size_of(weight))
        seen += 1
    assert seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OTHERS)
def test_of_another_set_the_value_is_a_point_of_it_that_is_as_near_as_any(name, kind):
    seen = 0
    for weight in weights(name, kind):
        found, expected = inserted(name, weight).detach().numpy(), OTHERS[name](weight)
        rounding = 1e-11 * size_of(weight)
        np.testing.assert_allclose(OTHERS[name](found), found, atol=rounding)
        np.testing.assert_allclose(distance(found, weight), distance(expected, weight), rtol=1e-9, atol=rounding)
        if kind in ("normal", "ten times") or name.split(",")[0] in SAID:
            np.testing.assert_allclose(found, expected, atol=rounding)
        seen += 1
    assert seen


def in_units(name: str, weight: Array, scale: Array) -> Array:
    """The weight in units of the scale of each entry."""
    _, _, group = GRIDS[name]
    return weight / (scale if group is None else np.repeat(scale, group, -1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GRIDS)
def test_of_a_grid_each_entry_gets_the_nearest_level(name, kind):
    levels = np.arange(-GRIDS[name][0], GRIDS[name][0] + 1)
    for weight in grid_weights(name, kind):
        parameter = inserted(name, weight)
        scale = np.abs(parameter.raws["scale"].detach().numpy())
        steps, found = in_units(name, weight, scale), in_units(name, parameter.detach().numpy(), scale)
        nearest = np.abs(steps[..., None] - levels).min(-1)
        np.testing.assert_allclose(found, found.round(), atol=1e-12)
        assert np.abs(found).max() <= levels[-1] + 1e-12
        np.testing.assert_allclose(np.abs(steps - found), nearest, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in GRIDS if name.startswith("fake_quant")])
def test_a_grid_ends_at_the_largest_entry_or_at_the_best_of_sixty_shares_of_it(name, kind):
    levels, dim, group = GRIDS[name]
    for weight in grid_weights(name, kind):
        found = by_grids(inserted(name, weight).detach().numpy(), dim, group)
        rows = by_grids(weight, dim, group)
        errors = []
        for percent in np.arange(100, 40, -1) if name.endswith("mse") else [100]:
            largest = np.abs(rows).max(1, keepdims=True) * percent / 100
            step = np.where(largest > 0, largest, 1) / levels
            errors.append(lengths(rows - step * np.clip(np.round(rows / step), -levels, levels)))
        # scales are rounded up by less than 1e-10
        np.testing.assert_allclose(lengths(rows - found), np.min(errors, 0), atol=1e-9 * size_of(weight))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_best_grid_is_about_as_good_as_any(bits):
    levels = 2 ** (bits - 1) - 1
    weight = np.random.default_rng(bits).standard_normal((1, 4000))
    parameter = ComputedParameter.from_value(torch.tensor(weight), FakeQuant(bits, scale="mse"))
    steps = np.linspace(0.01, 1, 500) * np.abs(weight).max() / levels
    errors = [lengths(weight - step * np.clip(np.round(weight / step), -levels, levels)) for step in steps]
    assert lengths(weight - parameter.detach().numpy()) <= 1.01 * np.min(errors)


def lengths(rows: Array) -> Array:
    return np.sqrt(np.square(rows).sum(1))


def by_grids(weight: Array, dim: int | None, group: int | None) -> Array:
    """The entries of each grid as a row."""
    if group is not None:
        return weight.reshape(-1, group)
    return weight.reshape(1, -1) if dim is None else np.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)


def grid_weights(name: str, kind: str) -> Iterator[Array]:
    for weight in weights(name, kind):
        if GRIDS[name][2] is None or weight.shape[-1] % 3 == 0:
            yield weight


@pytest.mark.parametrize("name", [*NEAREST, *GRIDS])
def test_no_other_admissible_value_is_nearer(name):
    """Those of other weights nearby, and of other raws; of grids those with the scale that was found."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    for kind in ("normal", "ties and zeros"):
        weight = next(grid_weights(name, kind) if name in GRIDS else weights(name, kind))
        least = distance(inserted(name, weight).detach().numpy(), weight) * (1 - 1e-9) - 1e-12
        for candidate in candidates(name, weight, random):
            assert distance(candidate, weight) >= least


def candidates(name: str, weight: Array, random: np.random.Generator) -> Iterator[Array]:
    for size in (1e-4, 1e-2, 0.3, 3.0):
        for _ in range(0 if name in GRIDS else 6):
            yield inserted(name, weight + size * random.standard_normal(weight.shape)).detach().numpy()
    parameter = inserted(name, weight)
    raws = {role: raw.detach().clone() for role, raw in parameter.raws.items() if name not in GRIDS or role == "raw"}
    for size in (1e-4, 1e-2, 0.3, 3.0):
        for _ in range(50):
            with torch.no_grad():
                for role, raw in raws.items():
                    parameter.raws[role].copy_(raw + size * torch.tensor(random.standard_normal(raw.shape)))
            yield parameter.detach().numpy()


@pytest.mark.parametrize("kind", ["normal", "ten times"])
@pytest.mark.parametrize("name", ["singular_clip", "spectral", "spectral, norm 3", "spectral, bound"])
def test_in_the_spectral_norm_the_value_is_as_near_as_singular_values_can_be(name, kind):
    """No two matrices are nearer to each other there than their largest singular values are (Weyl)."""
    for weight in weights(name, kind):
        found = inserted(name, weight).detach().numpy().reshape(len(weight), -1)
        matrix = weight.reshape(len(weight), -1)
        largest = np.linalg.norm(matrix, 2)
        nearest = np.abs(largest - np.linalg.norm(found, 2))
        np.testing.assert_allclose(np.linalg.norm(matrix - found, 2), nearest, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1e3])
@pytest.mark.parametrize("size", [3, 8, 24])
def test_a_doubly_stochastic_matrix_is_nearest_at_every_scale(size, scale):
    for matrix in scale * np.random.default_rng(size).standard_normal((120 // size, size, size)):
        found = inserted("doubly_stochastic", matrix).detach().numpy()
        assert shortfall(matrix, found) <= 1e-8 * scale


def test_a_doubly_stochastic_matrix_is_found_where_steps_pause():
    """Rounds of alternating projections may leave a point where it is, and move it later."""
    matrix = np.array([[-1.0, 49.0, -26.0], [35.0, -29.0, 29.0], [-38.0, 32.0, -28.0]])
    expected = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    np.testing.assert_allclose(inserted("doubly_stochastic", matrix).detach().numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("size", [3, 5])
def test_a_correlation_matrix_is_nearest_at_every_scale(size, scale):
    for matrix in scale * np.random.default_rng(size).standard_normal((10, size, size)):
        found = inserted("correlation", matrix).detach().numpy()
        np.testing.assert_allclose(found, correlation(matrix), atol=1e-6)


@pytest.mark.parametrize("entry", [0.5, -0.9, 0.0, 3.0, -20.0])
@pytest.mark.parametrize("diagonal", [1.0, 0.0, 30.0, -2.0, -50.0])
def test_a_correlation_of_two_is_the_entry_cut_off_whatever_the_diagonal(diagonal, entry):
    found = inserted("correlation", np.array([[diagonal, entry], [entry, diagonal]])).detach().numpy()
    expected = np.clip(entry, -1, 1)
    np.testing.assert_allclose(found, [[1, expected], [expected, 1]], atol=1e-8)


@pytest.mark.parametrize(("name", "weight", "other"), [
    ("doubly_stochastic", [[1.5e6, 3e6], [0, 1e6]], [[0, 1], [1, 0]]),
    ("correlation", [[1, 4e6, 1e6], [4e6, 1, -1e6], [1e6, -1e6, 1]], [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
])  # fmt: skip
def test_entries_beyond_a_million_are_told_apart(name, weight, other):
    weight = np.array(weight, dtype=float)
    found = inserted(name, weight).detach().numpy()
    assert distance(found, weight) <= distance(np.array(other), weight)
