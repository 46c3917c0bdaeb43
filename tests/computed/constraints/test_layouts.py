"""Which matrix a weight is, host by host: every constraint applies along the right dimension, or says why not.

Truth is NumPy in float64 on the value, permuted by hand as the table says, and torch's own norms on the same hosts.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers.pytorch_utils import Conv1D

import surgery
from computed.registry import catalogue
from tests.surgery.catalogue import SPEC_OF

Array = np.ndarray


class Own(nn.Module):
    """A host that nobody knows."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))


class Host(NamedTuple):
    """A layer, its weight's shape, the dimension of the outputs (None: it must be said), and how it is called."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    outputs: int | None
    attribute: str = "weight"


HOSTS: dict[str, Host] = {
    "Linear": Host(lambda: nn.Linear(9, 6), (6, 9), 0),
    "Conv1d": Host(lambda: nn.Conv1d(9, 6, 3), (6, 9, 3), 0),
    "Conv2d": Host(lambda: nn.Conv2d(9, 6, 3), (6, 9, 3, 3), 0),
    "Conv3d": Host(lambda: nn.Conv3d(9, 6, 3), (6, 9, 3, 3, 3), 0),
    "Conv2d, groups": Host(lambda: nn.Conv2d(9, 6, 3, groups=3), (6, 3, 3, 3), 0),
    "ConvTranspose1d": Host(lambda: nn.ConvTranspose1d(9, 6, 3), (9, 6, 3), 1),
    "ConvTranspose2d": Host(lambda: nn.ConvTranspose2d(9, 6, 3), (9, 6, 3, 3), 1),
    "ConvTranspose3d": Host(lambda: nn.ConvTranspose3d(9, 6, 3), (9, 6, 3, 3, 3), 1),
    "ConvTranspose2d, groups": Host(lambda: nn.ConvTranspose2d(9, 6, 3, groups=3), (9, 2, 3, 3), 1),
    "Bilinear": Host(lambda: nn.Bilinear(9, 9, 6), (6, 9, 9), None),
    "Embedding": Host(lambda: nn.Embedding(6, 9), (6, 9), 0),
    "RNN, ih": Host(lambda: nn.RNN(9, 6), (6, 9), 0, "weight_ih_l0"),
    "RNN, hh": Host(lambda: nn.RNN(9, 6), (6, 6), 0, "weight_hh_l0"),
    "LSTM, ih": Host(lambda: nn.LSTM(9, 6), (24, 9), 0, "weight_ih_l0"),
    "LSTM, hh": Host(lambda: nn.LSTM(9, 6), (24, 6), 0, "weight_hh_l0"),
    "GRU, hh": Host(lambda: nn.GRU(9, 6), (18, 6), 0, "weight_hh_l0"),
    "MultiheadAttention": Host(lambda: nn.MultiheadAttention(9, 3), (27, 9), 0, "in_proj_weight"),
    "transformers.Conv1D": Host(lambda: Conv1D(6, 9), (9, 6), 1),
    "experts": Host(lambda: Own(3, 6, 9), (3, 6, 9), None),
    "unknown, square": Host(lambda: Own(6, 6), (6, 6), 0),
}


class Weight(NamedTuple):
    """What a check sees: value and raws in float64, and the dimension of the outputs."""

    value: Array
    raws: Mapping[str, Array]
    outputs: int

    @property
    def matrix(self) -> Array:
        """(out, in * k)."""
        return along(self.value, self.outputs)

    @property
    def change(self) -> Array:
        """What an adapter has added to its base, as a matrix."""
        return self.matrix - along(self.raws["base"], self.outputs)

    def slices(self, dim: int = 0) -> Array:
        """One row for each index of a dimension."""
        return along(self.value, dim)


def along(weight: Array, dim: int) -> Array:
    return np.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)


def singular(matrix: Array) -> Array:
    return np.linalg.svd(matrix, compute_uv=False)


def near(found: object, wanted: object, tolerance: float = 1e-4) -> bool:
    return bool(np.allclose(found, wanted, rtol=tolerance, atol=tolerance))


def rank(matrix: Array) -> int:
    return int(np.linalg.matrix_rank(matrix, tol=1e-4 * max(1e-3, float(singular(matrix)[0]))))


def orthonormal(matrix: Array) -> bool:
    smaller = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return near(smaller, np.eye(len(smaller)))


def lengths(w: Weight) -> Array:
    return np.linalg.norm(w.slices(), axis=1)


def levels(w: Weight) -> list[int]:
    return [len(np.unique(row.astype(np.float32))) for row in w.slices()]


def turned(w: Weight) -> bool:
    """Inputs were turned: products of rows with rows stay, and the weight does not."""
    base = along(w.raws["base"], w.outputs)
    return near(w.matrix @ w.matrix.T, base @ base.T) and not near(w.matrix, base)


def symmetric(w: Weight, sign: float = 1.0) -> bool:
    return np.array_equal(w.value, sign * np.swapaxes(w.value, -1, -2))


def eigenvalues(w: Weight) -> Array:
    return np.linalg.eigvalsh(w.value)


def diagonal_spread(w: Weight, *, turns: bool) -> float:
    """The largest difference of entries on one diagonal of the last two dimensions, or on a turned one."""
    rows, columns = w.value.shape[-2:]
    which = np.subtract.outer(np.arange(rows), np.arange(columns))
    which = which % columns if turns else which
    return max(float(np.ptp(w.value[..., which == each], axis=-1).max()) for each in np.unique(which))


def outside_blocks(w: Weight) -> Array:
    rows, columns = w.value.shape[-2:]
    same = np.arange(rows)[:, None] * 2 // rows == np.arange(columns) * 2 // columns
    return w.value[..., ~same]


def one_product(matrix: Array, down: int, across: int) -> bool:
    """A Kronecker product of a matrix (down, across): rearranged so that blocks are rows, of rank one."""
    rows, columns = matrix.shape
    blocks = matrix.reshape(down, rows // down, across, columns // across).swapaxes(1, 2)
    return rank(blocks.reshape(down * across, -1)) == 1


def groups_of_three(w: Weight) -> Array:
    moved = np.moveaxis(w.value, 1, -1)
    return (moved.reshape(-1, 3) != 0).sum(1)


def fully_low(w: Weight, most: int) -> bool:
    return all(rank(along(w.value, dim)) <= most for dim in (0, 1))


ADMITS: dict[str, Callable[[Weight], bool]] = {
    # the matrix (out, in * k)
    "spectral": lambda w: abs(singular(w.matrix)[0] - 0.5) < 1e-3,
    "orthogonal": lambda w: orthonormal(w.matrix),
    "special_orthogonal": lambda w: orthonormal(w.matrix) and near(np.linalg.det(w.matrix), 1),
    "grassmannian": lambda w: orthonormal(w.matrix),
    "dynamic_orthogonal": lambda w: orthonormal(w.matrix),
    "fixed_rank": lambda w: rank(w.matrix) == 2,
    "invertible": lambda w: bool(np.linalg.det(w.matrix) > 0),
    "bjorck": lambda w: orthonormal(w.matrix),
    "low_rank": lambda w: rank(w.matrix) == 2,
    "singular_clip": lambda w: near(singular(w.matrix)[0], 0.5),
    "almost_orthogonal": lambda w: bool(np.all(np.abs(singular(w.matrix) - 1) < 0.25 + 1e-4)),
    "gain": lambda w: (
        near(w.value, w.raws["g"] * w.raws["raw"]) and near(singular(along(w.raws["raw"], w.outputs))[0], 1)
    ),
    "lora": lambda w: near(w.change, w.raws["B"] @ w.raws["A"].reshape(2, -1)) and rank(w.change) == 2,
    "loha": lambda w: w.raws["A1"].size == 2 * w.matrix.shape[1] and w.raws["B1"].size == 2 * w.matrix.shape[0],
    "lokr": lambda w: one_product(w.change, *w.raws["C"].shape),
    "vera": lambda w: rank(w.change) == 2 and w.raws["b"].size == len(w.matrix),
    "delora": lambda w: rank(w.change) == 2,
    "dora": lambda w: near(np.linalg.norm(w.matrix, axis=1), np.abs(w.raws["m"].flatten())),
    "oft": turned,
    "boft": turned,
    "hra": turned,
    "ia3": lambda w: near(w.matrix, w.raws["gains"].reshape(-1, 1) * along(w.raws["base"], w.outputs)),
    # slices along dimension 0, whatever the host
    "unit_norm": lambda w: near(lengths(w), 1),
    "weight_norm": lambda w: near(lengths(w), np.abs(w.raws["g"].flatten())),
    "max_norm": lambda w: near(lengths(w).max(), 0.5),
    "min_max_norm": lambda w: bool(np.all((lengths(w) > 0.3 - 1e-5) & (lengths(w) < 0.6 + 1e-5))),
    "sphere": lambda w: near(lengths(w), 2),
    "centred": lambda w: near(w.slices().mean(1), 0),
    "weight_standardization": lambda w: near(w.slices().mean(1), 0) and near(w.slices().std(1), 1, 1e-3),
    "scaled_weight_standardization": lambda w: (
        near(w.slices().mean(1), 0) and near(lengths(w), np.abs(w.raws["g"].flatten()))
    ),
    "equalized_lr": lambda w: near(w.value * w.slices().shape[1] ** 0.5, w.raws["raw"]),
    "fake_quant": lambda w: max(levels(w)) <= 16,
    "lsq": lambda w: max(levels(w)) <= 16,
    "binary": lambda w: all(len(np.unique(np.abs(row.astype(np.float32)))) == 1 for row in w.slices()),
    "ternary": lambda w: max(levels(w)) <= 3,
    "cat": lambda w: bool(w.value[0].min() > 0) and near(lengths(w)[3:], 1),
    "stack": lambda w: (
        bool(w.value[0].min() >= 0 and np.abs(w.value[1]).max() < 0.5)
        and near(w.value[3].mean(), 0)
        and near(lengths(w)[5], 2)
    ),
    # dimension 1, pairs of dimensions, the whole
    "n_m": lambda w: bool(np.all(groups_of_three(w) <= 1)),
    "tucker": lambda w: fully_low(w, 2),
    "cp": lambda w: fully_low(w, 3),
    "tensor_train": lambda w: fully_low(w, 2),
    "frobenius": lambda w: near(np.linalg.norm(w.value), 2),
    "mask": lambda w: abs((w.value == 0).mean() - 0.5) < 1 / w.value.size,
    # matrices in the last two dimensions, and vectors in the last one
    "symmetric": symmetric,
    "skew": lambda w: symmetric(w, -1.0),
    "lower_triangular": lambda w: np.array_equal(w.value, np.tril(w.value)),
    "upper_triangular": lambda w: np.array_equal(w.value, np.triu(w.value)),
    "psd": lambda w: near(w.value, np.swapaxes(w.value, -1, -2)) and bool(eigenvalues(w).min() > -1e-5),
    "positive_definite": lambda w: bool(eigenvalues(w).min() > 0.01 - 1e-4),
    "cholesky": lambda w: (
        np.array_equal(w.value, np.tril(w.value)) and bool(np.diagonal(w.value, axis1=-2, axis2=-1).min() > 0)
    ),
    "correlation": lambda w: near(np.diagonal(w.value, axis1=-2, axis2=-1), 1) and bool(eigenvalues(w).min() > -1e-4),
    "doubly_stochastic": lambda w: near(w.value.sum(-1), 1, 1e-3) and near(w.value.sum(-2), 1, 1e-3),
    "toeplitz": lambda w: diagonal_spread(w, turns=False) == 0,
    "circulant": lambda w: diagonal_spread(w, turns=True) == 0,
    "block_diagonal": lambda w: bool(np.all(outside_blocks(w) == 0)),
    "kronecker": lambda w: one_product(w.value, 2, 3),
    "simplex": lambda w: near(w.value.sum(-1), 1) and bool(w.value.min() >= 0),
    "ordered": lambda w: bool(np.diff(w.value, axis=-1).min() >= 0),
    # entries
    "positive": lambda w: bool(w.value.min() > 0),
    "greater_than": lambda w: bool(w.value.min() > 0.1),
    "interval": lambda w: bool(np.abs(w.value).max() < 0.5),
    "less_than": lambda w: bool(w.value.max() < 0.1),
    "nonnegative": lambda w: bool(w.value.min() >= 0),
    "exp": lambda w: near(w.value, np.exp(w.raws["raw"])),
    "bounded": lambda w: bool(np.abs(w.value).max() <= 0.3 + 1e-6),
    "monotone": lambda w: bool(w.value.min() >= 0),
    "powerprop": lambda w: near(np.abs(w.value), w.raws["raw"] ** 2),
    "affine": lambda w: near(w.value, 0.5 * w.raws["raw"] + 1),
    "soft_threshold": lambda w: near(w.value, np.sign(w.raws["raw"]) * np.maximum(np.abs(w.raws["raw"]) - 0.05, 0)),
}
# what is said of a layer as an operator, and the least norm that it leaves it
OPERATORS = {"operator_norm": 0.9, "orthogonal_conv": 0.9, "aol": 0.2}
MATRICES = ("spectral", "orthogonal", "dynamic_orthogonal", "bjorck", "low_rank", "fixed_rank", "singular_clip")
MATRICES += ("gain", "almost_orthogonal", "lora", "loha", "lokr", "vera", "delora", "dora", "oft", "boft", "hra", "ia3")
SQUARE_MATRICES = ("special_orthogonal", "invertible")
SQUARE = ("symmetric", "skew", "psd", "positive_definite", "cholesky", "correlation", "doubly_stochastic", "circulant")
SPECS = SPEC_OF | {"monotone": "monotone"}
INITIAL = ("lora", "loha", "lokr", "vera", "delora", "dora", "oft", "boft", "hra", "ia3")


def takes(name: str, host: Host) -> bool:
    """What the table says: whether a constraint takes the weight of a host without ``dim=``."""
    shape = host.shape
    if name in (*MATRICES, *SQUARE_MATRICES, "grassmannian"):
        is_square = host.outputs is not None and shape[host.outputs] ** 2 == math.prod(shape)
        wanted = {"grassmannian": not is_square}.get(name, is_square or name in MATRICES)
        return host.outputs is not None and wanted
    if name in SQUARE:
        return shape[-1] == shape[-2]
    conditions = {
        "block_diagonal": shape[-1] % 2 == 0 and shape[-2] % 2 == 0,
        "kronecker": len(shape) == 2 and shape[0] % 2 == 0 and shape[1] % 3 == 0,
        "n_m": shape[1] % 3 == 0,
        "cat": shape[0] == 6,
        "stack": shape[0] == 6,
        "tensor_train": len(shape) == 4,
    }
    return conditions.get(name, True)


def built(host: Host) -> nn.Sequential:
    model = nn.Sequential(host.build())
    weight = model.get_parameter(f"0.{host.attribute}")
    assert tuple(weight.shape) == host.shape
    nn.init.normal_(weight, 0.0, 0.3)
    return model


def seen(model: nn.Sequential, host: Host, outputs: int) -> Weight:
    parameter = surgery.computed_parameters(model)[f"0.{host.attribute}"]
    raws = {role: raw.detach().double().numpy() for role, raw in parameter.raws.items()}
    return Weight(parameter.detach().double().numpy(), raws, outputs)


def move(model: nn.Module) -> None:
    """Adapters start at their base: only a moved one shows along which dimension it acts."""
    with torch.no_grad():
        for role, raw in next(iter(surgery.computed_parameters(model).values())).raws.items():
            if role != "base":
                raw.add_(torch.randn(raw.shape))


def test_the_table_has_every_constraint():
    assert set(catalogue()) <= {*ADMITS, *OPERATORS}


@pytest.mark.parametrize("name", [name for name in SPECS if name not in OPERATORS])
def test_each_host_is_read_along_its_dimension_or_refused_by_name(name: str):
    for called, host in HOSTS.items():
        model = built(host)
        rule = {f"0.{host.attribute}": SPECS[name]}
        if not takes(name, host):
            with pytest.raises(surgery.PlanError) as refusal:
                surgery.apply_constraints(model, rule)
            said = str(refusal.value)
            assert f"0.{host.attribute} ({type(model[0]).__name__}), rule" in said
            assert f"exempt it with '0.{host.attribute}': None" in said
            assert re.search(r"\(\d+(, \d+)+\)", said), said
            continue
        surgery.apply_constraints(model, rule).eval()
        if name in INITIAL:
            move(model)
        assert ADMITS[name](seen(model, host, host.outputs or 0)), called
        assert surgery.check(model).ok


# a matrix and its transpose have the same singular values and the same rank; a Kronecker product is one by both
EITHER_WAY = ("spectral", "orthogonal", "dynamic_orthogonal", "bjorck", "low_rank", "fixed_rank", "singular_clip")
EITHER_WAY += ("gain", "almost_orthogonal", "delora")
ONE_WAY = [
    (name, host)
    for host in ("Conv2d", "ConvTranspose1d", "transformers.Conv1D")
    for name in MATRICES
    if name != "lokr" and not (host == "transformers.Conv1D" and name in EITHER_WAY)
]


@pytest.mark.parametrize(("name", "host"), ONE_WAY)
def test_the_other_dimension_would_be_seen(name: str, host: str):
    found = HOSTS[host]
    model = surgery.apply_constraints(built(found), {"0.weight": SPECS[name]}).eval()
    if name in INITIAL:
        move(model)
    try:
        admitted = ADMITS[name](seen(model, found, 1 - (found.outputs or 0)))
    except ValueError:  # not even the shapes are those
        admitted = False
    assert not admitted


@pytest.mark.parametrize("host", ["Bilinear", "experts"])
@pytest.mark.parametrize("name", MATRICES)
def test_three_dimensions_of_an_unknown_host_are_refused_with_both_readings(name: str, host: str):
    """One matrix by either, and none for each expert: what has batches of matrices is in the last two dimensions."""
    first, second, third = HOSTS[host].shape
    model = built(HOSTS[host])
    with pytest.raises(surgery.PlanError) as refusal:
        surgery.apply_constraints(model, {"0.weight": SPECS[name]})
    said = " ".join(str(refusal.value).split())
    assert (
        f"does not know how {type(model[0]).__name__} uses its weight of shape ({first}, {second}, {third}): " in said
    )
    assert f"give dim=0 to read it as a matrix ({first}, {second * third}), " in said
    assert f"dim=1 for a matrix ({second}, {first * third}), or exempt it with '0.weight': None" in said
    for dim in (0, 1):
        spec = SPECS[name]
        given = f"{spec[:-1]}, dim={dim})" if spec.endswith(")") else f"{spec}(dim={dim})"
        other = surgery.apply_constraints(built(HOSTS[host]), {"0.weight": given}).eval()
        if name in INITIAL:
            move(other)
        assert ADMITS[name](seen(other, HOSTS[host], dim)), dim


LAYERS = [name for name, host in HOSTS.items() if len(host.shape) > 2 and host.outputs is not None] + ["Linear"]


@pytest.mark.parametrize("host", LAYERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_norms_of_operators_are_those_of_the_layer_group_by_group(name: str, host: str):
    """A power iteration on the layer itself, in float64, on an image with so many pixels that its edge is little."""
    model, dims = built(HOSTS[host]), len(HOSTS[host].shape) - 2
    if name == "orthogonal_conv" and ("groups" in host or dims == 0):
        with pytest.raises(surgery.PlanError, match=r"0\.weight .*exempt it with '0\.weight': None"):
            surgery.apply_constraints(model, {"0.weight": name})
        return
    layer = surgery.bake(surgery.apply_constraints(model, {"0.weight": name}).eval())[0].double()
    layer.bias = None
    x = torch.randn(1, 9, *[{1: 40, 2: 24, 3: 12}.get(dims)] * dims, dtype=torch.float64)
    norm = 0.0
    for _ in range(60):
        x = (x / x.norm()).requires_grad_()
        y = layer(x)
        norm = float(y.detach().norm())
        (x,) = torch.autograd.grad(y, x, y.detach())
    assert OPERATORS[name] < norm < 1.001


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("host", ["Bilinear", "experts"])
def test_norms_of_operators_need_a_layer(name: str, host: str):
    with pytest.raises(surgery.PlanError, match=r"0\.weight .*exempt it with '0\.weight': None"):
        surgery.apply_constraints(built(HOSTS[host]), {"0.weight": SPECS[name]})


TORCH = [name for name, host in HOSTS.items() if name != "transformers.Conv1D" and host.outputs is not None]


@pytest.mark.parametrize("name", TORCH)
def test_norms_run_where_torchs_run(name: str):
    """Outputs for spectral_norm, so dimension 1 of transposed convolutions; dimension 0 for weight_norm, always."""
    host = HOSTS[name]
    model = built(host)
    theirs = parametrizations.spectral_norm(copy.deepcopy(model[0]), host.attribute, n_power_iterations=300).eval()
    ours = surgery.apply_constraints(copy.deepcopy(model), {f"0.{host.attribute}": "spectral"}).eval()
    ours_value = getattr(ours[0], host.attribute).detach()
    torch.testing.assert_close(ours_value, getattr(theirs, host.attribute).detach(), rtol=1e-3, atol=1e-5)
    theirs = parametrizations.weight_norm(copy.deepcopy(model[0]), host.attribute)
    ours = surgery.apply_constraints(copy.deepcopy(model), {f"0.{host.attribute}": "weight_norm"})
    lengths_of = theirs.parametrizations[host.attribute].original0
    assert torch.equal(getattr(ours[0], host.attribute).raws["g"].detach(), lengths_of.detach())
    with torch.no_grad():
        lengths_of.mul_(2.0)
        getattr(ours[0], host.attribute).raws["g"].mul_(2.0)
    ours_value, theirs_value = getattr(ours[0], host.attribute).detach(), getattr(theirs, host.attribute).detach()
    torch.testing.assert_close(ours_value, theirs_value, rtol=1e-6, atol=1e-7)


def test_orthogonal_is_torchs_for_matrices_and_not_for_kernels():
    """A matrix is on the same side, rows where there are fewer; of a convolution torch takes each kernel (k, k)."""
    for shape in ((6, 9), (9, 6), (6, 6)):
        start = torch.linalg.qr(torch.randn(max(shape), min(shape)))[0]
        layer = nn.Linear(*shape[::-1], bias=False)
        with torch.no_grad():
            layer.weight.copy_(start if shape[0] >= shape[1] else start.t())
        theirs = parametrizations.orthogonal(copy.deepcopy(layer))
        ours = surgery.apply_constraints(layer, {"weight": "orthogonal"})
        torch.testing.assert_close(ours.weight.detach(), theirs.weight.detach(), rtol=0, atol=1e-5)
    convolution = nn.Conv2d(9, 6, 3)
    theirs = parametrizations.orthogonal(copy.deepcopy(convolution)).weight.detach().double()
    ours = surgery.apply_constraints(convolution, {"weight": "orthogonal"}).weight.detach().double()
    assert near(theirs @ theirs.mT, np.eye(3))
    assert orthonormal(along(ours.numpy(), 0))
    assert not orthonormal(along(theirs.numpy(), 0))


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        second.weight = first.weight


def strides_apart() -> Tied:
    return Tied(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(3, 4, 3))


def reversed_sides() -> Tied:
    return Tied(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3))


def test_layers_of_a_tie_with_two_operator_norms_are_refused():
    """The second layer's norm was 1.43 where that of the first was set to 1."""
    model = strides_apart()
    said = (
        r"first\.weight .*another one for each layer of a tie: first\.weight has stride=\(2, 2\), dilation=\(1, 1\) "
        r"and groups=1, second\.weight has stride=\(1, 1\), dilation=\(1, 1\) and groups=1; pass tie='split', use "
    )
    with pytest.raises(surgery.PlanError, match=said):
        surgery.apply_constraints(model, {"*.weight": "operator_norm"})
    surgery.apply_constraints(model, {"*.weight": "operator_norm"}, tie="split")
    assert [each.weight.constraints[0].strides for each in (model.first, model.second)] == [[2, 2], [1, 1]]
    adjoint = surgery.apply_constraints(reversed_sides(), {"*.weight": "operator_norm"})
    assert adjoint.first.weight is adjoint.second.weight
    mirrored = Tied(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(surgery.PlanError, match=r"operator_norm has no bound for padding_mode='reflect'"):
        surgery.apply_constraints(mirrored, {"*.weight": "operator_norm"})


@pytest.mark.parametrize("name", ["spectral", "orthogonal", "low_rank", "lora", "oft"])
def test_layers_of_a_tie_with_two_matrices_are_refused(name: str):
    spec = {"low_rank": "low_rank(2)", "lora": "lora(2)", "oft": "oft(3)"}.get(name, name)
    said = (
        rf"{name} reads a weight with its outputs as rows, and a tie has them along dim=0 of first\.weight \(Conv2d\) "
        r"and dim=1 of second\.weight \(ConvTranspose2d\): give dim=0 to read all as a matrix \(4, 27\), dim=1 for a "
        r"matrix \(3, 36\), pass tie='split', or exempt it with 'first\.weight': None"
    )
    with pytest.raises(surgery.PlanError, match=said):
        surgery.apply_constraints(reversed_sides(), {"*.weight": spec})
    model = surgery.apply_constraints(reversed_sides(), {"*.weight": spec}, tie="split")
    assert [each.weight.constraints[0].dim for each in (model.first, model.second)] == [0, 1]
    given = f"{spec[:-1]}, dim=1)" if spec.endswith(")") else f"{spec}(dim=1)"
    model = surgery.apply_constraints(reversed_sides(), {"*.weight": given})
    assert model.first.weight is model.second.weight


@pytest.mark.parametrize("name", SQUARE_MATRICES)
def test_whether_a_matrix_is_square_is_asked_of_the_outputs_dimension(name: str):
    """A kernel (2, 6, 3) is square with its outputs as rows, one of (6, 2, 3) with its inputs."""
    model = surgery.apply_constraints(nn.Sequential(nn.ConvTranspose1d(2, 6, 3)), {"0.weight": name}).eval()
    raws: dict[str, Array] = {}
    assert ADMITS[name](Weight(model[0].weight.detach().double().numpy(), raws, 1))
    with pytest.raises(surgery.PlanError, match=rf"{name} needs a square matrix, got \(2, 18\) of shape \(6, 2, 3\)"):
        surgery.apply_constraints(nn.ConvTranspose1d(6, 2, 3), {"weight": name})


def test_adapters_of_transformers_conv1d_act_on_its_inputs_and_outputs():
    """It is (in, out): A meets the inputs, as in PEFT with ``fan_in_fan_out``, and gains scale the outputs."""
    layer, x = Conv1D(6, 9), torch.randn(4, 9)
    surgery.apply_constraints(layer, {"weight": "lora(2)"})
    raws = layer.weight.raws
    assert {role: tuple(raw.shape) for role, raw in raws.items()} == {"base": (9, 6), "A": (2, 9), "B": (6, 2)}
    nn.init.normal_(raws["B"])
    expected = x @ raws["base"] + (x @ raws["A"].t()) @ raws["B"].t() + layer.bias
    torch.testing.assert_close(layer(x), expected)
    surgery.undo(layer)
    plain = layer(x).detach() - layer.bias
    surgery.apply_constraints(layer, {"weight": "ia3"})
    gains: Tensor = layer.weight.raws["gains"]
    nn.init.normal_(gains)
    torch.testing.assert_close(layer(x) - layer.bias, plain * gains.flatten())
