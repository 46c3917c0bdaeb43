"""Constraints beside those of other libraries: distances moved, errors, and times in units of the work's floor.

Weights are projected and evaluated by this library, by `torch.nn.utils.parametrizations`, GeoTorch, PEFT and
TensorLy-Torch, in one process and on one thread. Candidates of one table take turns; times are medians.

* **Moved**: ``|value - W| / |W|`` right after insertion, for ``W`` of normal numbers with a
  deviation of one over the root of the rows; what is nearest moves least.
* **Maps**: one evaluation of the map and its derivative, as one step of training needs them, of a raw that is 1e-3 away
  from where it was inserted. The unit is one product of matrices: (larger side x smaller) by (smaller x smaller).
* **Scalings**: the unit is one copy of the weight.
* **Convolutions**: what `operator_norm` takes for the norm, as a multiple of the norm itself, on kernels that were
  trained on digits; the norm is that of the layer with zeros around images of that size, by power iterations in
  float64.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from benchmarks.convolutions import ratios_to_truth
from benchmarks.factors import factored_rows
from benchmarks.timing import Candidates, Samples, interleaved, machine, table
from computed.constraint import Constraint, IteratedConstraint
from computed.constraints.dynamic_orthogonal import DynamicOrthogonal
from computed.constraints.norms import UnitScale, WeightScale
from computed.constraints.orthogonal import Orthogonal
from computed.constraints.singular_values import Polar
from computed.constraints.spectral import Spectral
from computed.parameter import ComputedParameter

PACKAGES = ("geotorch", "peft", "tltorch")
NOISE = 1e-3
SHAPES = ((256, 256), (512, 512), (1024, 1024), (64, 576), (1024, 64))
COPIED = ((1024, 1024), (256, 256, 3, 3), (64, 64, 3, 3))
OURS: dict[str, Callable[[], Constraint]] = {
    "orthogonal": Orthogonal,
    "orthogonal(map='exp')": lambda: Orthogonal(map="exp"),
    "orthogonal(map='qr')": lambda: Orthogonal(map="qr"),
    "orthogonal(map='newton_schulz')": lambda: Orthogonal(map="newton_schulz"),
    "dynamic_orthogonal": DynamicOrthogonal,
    "bjorck": Polar,
}


def error_of(value: Tensor) -> float:
    """The largest entry of ``|QᵀQ - I|``, in float64."""
    q = value.detach().double()
    q = q if q.shape[0] >= q.shape[1] else q.T
    return float((q.T @ q - torch.eye(q.shape[1], dtype=q.dtype)).abs().max())


def linear_of(weight: Tensor) -> nn.Linear:
    """A Linear with a copy of a weight."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    return layer


def torch_layers(weight: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """The weight under each of torch's orthogonal maps, and GeoTorch's."""
    for kind in ("matrix_exp", "cayley", "householder"):
        yield f"torch, {kind}", parametrizations.orthogonal(linear_of(weight), orthogonal_map=kind)
    import geotorch

    layer = linear_of(weight)
    geotorch.orthogonal(layer, "weight")
    yield "GeoTorch", layer


def moved_rows(shape: tuple[int, int]) -> Iterator[tuple[str, str, str, str]]:
    """How far a weight is moved to be orthonormal, and how orthonormal it is then."""
    torch.manual_seed(0)
    weight = torch.randn(shape) / shape[0] ** 0.5
    found = [(name, ComputedParameter.from_value(weight, make()).eval().detach()) for name, make in OURS.items()]
    found += [(name, layer.weight.detach()) for name, layer in torch_layers(weight)]
    for name, value in found:
        distance = float((value - weight).norm() / weight.norm())
        yield f"{shape[0]} x {shape[1]}", name, f"{distance:.3f}", f"{error_of(value):.1e}"


def ours(make: Callable[[], Constraint], weight: Tensor) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """One evaluation of our map in training, and its raws."""
    parameter = ComputedParameter.from_value(weight, make())
    constraint = parameter.constraints[0]
    assert isinstance(constraint, Constraint)
    raws = [raw.detach().clone().requires_grad_(raw.requires_grad) for raw in parameter.raws.values()]
    with torch.no_grad():
        raws[0].add_(NOISE * torch.randn_like(raws[0]))
    if not isinstance(constraint, IteratedConstraint):
        return lambda: constraint(*raws), raws

    def value() -> Tensor:
        with torch.no_grad():
            state = constraint.next_state(raws[0])
        return constraint.value_given(raws[0], state)

    return value, raws


def theirs(layer: nn.Module) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """One evaluation of a parametrization, and its raws."""
    chain: Any = layer.parametrizations["weight"]  # type: ignore[index] # torch types it as any module
    raws = list(chain.parameters())
    with torch.no_grad():
        raws[0].add_(NOISE * torch.randn_like(raws[0]))
    return chain, raws


def with_gradient(value: Callable[[], Tensor], raws: Iterable[Tensor], given: Tensor) -> Callable[[], object]:
    """Evaluate, and differentiate by the raws that train."""
    trained = [raw for raw in raws if raw.requires_grad]
    return lambda: torch.autograd.grad(value(), trained, given)


def both(makers: dict[str, tuple[Callable[[], Tensor], list[Tensor]]], given: Tensor) -> Candidates:
    """Forward, and forward and backward, of each."""
    found: dict[str, Callable[[], object]] = {}
    for name, (value, raws) in makers.items():
        found[f"{name}: forward"] = value
        found[f"{name}: both"] = with_gradient(value, raws, given)
    return found


def unit_rows(samples: Samples, unit: str, names: Iterable[str], label: str) -> Iterator[tuple[str, str, str, str]]:
    """Medians of the ratios to the unit."""
    for name in names:
        times = (samples.ratios(f"{name}: {part}", unit)[1] for part in ("forward", "both"))
        yield label, name, *(f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}" for ratio in times)  # type: ignore[misc] # two


def map_rows(shape: tuple[int, int], rounds: int) -> Iterator[tuple[str, str, str, str]]:
    """Orthogonal maps in units of one product."""
    torch.manual_seed(0)
    weight = nn.init.orthogonal_(torch.empty(shape))
    large, small = max(shape), min(shape)
    left, right = torch.randn(large, small), torch.randn(small, small)
    makers = {name: ours(make, weight) for name, make in OURS.items()}
    makers |= {name: theirs(layer) for name, layer in torch_layers(weight)}
    candidates = {"product": lambda: left @ right, **both(makers, torch.randn(shape))}
    samples = interleaved(candidates, rounds=rounds, calls=1)
    label = f"{shape[0]} x {shape[1]}, {1e3 * samples.median('product'):.2f} ms"
    yield from unit_rows(samples, "product", makers, label)


def scaling_rows(shape: tuple[int, ...], rounds: int) -> Iterator[tuple[str, str, str, str]]:
    """Weight norm, unit norm and spectral norm in units of one copy."""
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2:])
    weight = layer.weight.detach()
    copied = torch.empty_like(weight)
    makers = {
        "weight_norm": ours(WeightScale, weight),
        "torch, weight_norm": theirs(parametrizations.weight_norm(copy.deepcopy(layer))),
        "unit_norm": ours(UnitScale, weight),
        "spectral": ours(lambda: Spectral(dim=0), weight),
        "torch, spectral_norm": theirs(parametrizations.spectral_norm(copy.deepcopy(layer))),
    }
    candidates = {"copy": lambda: copied.copy_(weight), **both(makers, torch.randn(shape))}
    samples = interleaved(candidates, rounds=rounds, calls=max(1, 2**20 // weight.numel()))
    label = f"{' x '.join(map(str, shape))}, {1e6 * samples.median('copy'):.0f} us"
    yield from unit_rows(samples, "copy", makers, label)


def missing() -> list[str]:
    """The libraries that are not there."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def main(rounds: int = 9) -> None:
    """Print the tables."""
    if missing():
        raise SystemExit(f"{', '.join(missing())} not found: `make peers` makes an environment that has them")
    torch.set_num_threads(1)
    print(f"{machine()}, 1 thread.\n")
    rows = [row for shape in ((64, 64), (128, 64)) for row in moved_rows(shape)]
    print(table(("weight", "constraint", "moved", "largest of QᵀQ - I"), rows), "\n")
    rows = [row for shape in SHAPES for row in map_rows(shape, rounds)]
    print(table(("weight, one product", "map", "forward", "and backward"), rows), "\n")
    rows = [row for shape in COPIED for row in scaling_rows(shape, 5 * rounds)]
    print(table(("weight, one copy", "constraint", "forward", "and backward"), rows), "\n")
    print(
        table(("trained kernel", "images", "operator_norm / norm", "certified / norm"), list(ratios_to_truth())), "\n"
    )
    print(table(("weight", "by", "error", "ms forward"), list(factored_rows(rounds))))


if __name__ == "__main__":
    main()
