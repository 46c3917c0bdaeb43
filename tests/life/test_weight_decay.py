"""Weight decay shrinks raws, and never takes a value out of its set: each is measured by NumPy in float64.

torch's own orthogonal, whose householder vectors decay, is measured beside.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import surgery
from tests.surgery.models import SPECS, SQUARE_SPECS

DECAY = 0.1
Matrix = np.ndarray
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "AdamW": lambda raws: torch.optim.AdamW(raws, 0.05, weight_decay=DECAY),
    "AdamW foreach": lambda raws: torch.optim.AdamW(raws, 0.05, weight_decay=DECAY, foreach=True),
    "AdamW fused": lambda raws: torch.optim.AdamW(raws, 0.05, weight_decay=DECAY, fused=True),
    "Adam": lambda raws: torch.optim.Adam(raws, 0.05, weight_decay=DECAY),
    "SGD": lambda raws: torch.optim.SGD(raws, 0.05, weight_decay=DECAY),
    "SGD, decay alone": lambda raws: torch.optim.SGD(raws, 9.0, weight_decay=DECAY),
}


def norm(weight: Matrix) -> float:
    return float(np.linalg.norm(weight, 2))


def off_orthogonal(weight: Matrix) -> float:
    """How far the columns, or the rows of a wide matrix, are from orthonormal."""
    tall = weight.T if weight.shape[0] < weight.shape[1] else weight
    return float(np.abs(tall.T @ tall - np.eye(tall.shape[1])).max())


def asymmetry(weight: Matrix) -> float:
    return float(np.abs(weight - weight.T).max())


# how far outside its set a value is; weight norm and adapters reach every matrix
OUTSIDE: dict[str, Callable[[Matrix], float]] = {
    "spectral(bound=0.5)": lambda weight: norm(weight) - 0.5,
    "spectral(norm=1.0)": lambda weight: abs(norm(weight) - 1),
    "operator_norm": lambda weight: abs(norm(weight) - 1),
    "orthogonal": off_orthogonal,
    "positive": lambda weight: -weight.min() if weight.min() <= 0 else 0,
    "greater_than(0.1)": lambda weight: 0.1 - weight.min() if weight.min() <= 0.1 else 0,
    "interval(-0.5, 0.5)": lambda weight: np.abs(weight).max() - 0.5,
    "unit_norm": lambda weight: np.abs(np.linalg.norm(weight, axis=1) - 1).max(),
    "weight_norm": lambda weight: 0.0,
    "lora(2, alpha=4)": lambda weight: 0.0,
    "symmetric": asymmetry,
    "skew": lambda weight: float(np.abs(weight + weight.T).max()),
    "symmetric | spectral(bound=0.5)": lambda weight: max(asymmetry(weight), norm(weight) - 0.5),
    "weight_norm | lora(2)": lambda weight: 0.0,
}
ALLOWED = 1e-3  # relative, of an iterated norm; the others are exact to rounding


def test_every_spec_is_measured():
    assert list(OUTSIDE) == [*SPECS, *SQUARE_SPECS]


def off_orthogonal_of(layer: nn.Linear) -> float:
    return off_orthogonal(layer.weight.detach().double().numpy())


def step(layer: nn.Module, optimizer: torch.optim.Optimizer, width: int, *, learn: bool = True) -> None:
    """One step along a random slope, or with no slope at all: then only the decay moves what is trained."""
    optimizer.zero_grad()
    loss = (layer(torch.randn(8, width)) * torch.randn(8, width)).sum()
    (loss if learn else 0 * loss).backward()
    optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("spec", OUTSIDE)
def test_five_steps_with_decay_leave_a_value_inside(spec: str, optimizer: str, size: str):
    """Most of all steps of decay alone, at a rate that takes nine tenths of a raw at each of them."""
    width = 6 if size == "small" else 32
    layer = surgery.constrain(nn.Linear(width, width), weight=spec)
    trained = [raw for raw in layer.parameters() if raw.requires_grad]
    before = [raw.detach().clone() for raw in trained]
    stepper = OPTIMIZERS[optimizer](trained)
    for _ in range(5):
        step(layer, stepper, width, learn="alone" not in optimizer)
        value = layer.eval().weight.detach().double().numpy()
        assert np.isfinite(value).all()
        allowed = ALLOWED if "spectral" in spec or spec == "operator_norm" else 1e-5
        assert OUTSIDE[spec](value) <= allowed * (0.5 if "bound" in spec else 1)
        layer.train()
    assert not any(torch.equal(raw, old) for raw, old in zip(trained, before, strict=True) if old.any())
    assert surgery.check(layer.eval()).ok


def test_torchs_householder_vectors_lose_orthogonality_and_ours_do_not(evidence: Callable[[str, str], None], size: str):
    """One step of AdamW; without decay torch keeps it, so that the decay is what breaks it."""
    width = 16 if size == "small" else 128
    off: dict[str, tuple[float, float]] = {}
    for name, decay in {"torch, no decay": 0.0, "torch": DECAY, "ours": DECAY}.items():
        torch.manual_seed(0)
        layer = nn.Linear(width, width)
        if name == "ours":
            surgery.constrain(layer, weight="orthogonal")
        else:
            parametrizations.orthogonal(layer, orthogonal_map="householder")
        before = off_orthogonal_of(layer)
        step(layer, torch.optim.AdamW(layer.parameters(), 0.01, weight_decay=decay), width)
        off[name] = before, off_orthogonal_of(layer)
    assert max(off["ours"]) < 5e-6
    assert max(*off["torch, no decay"], off["torch"][0]) < 5e-6
    assert off["torch"][1] > 0.1
    figures = (f"{name} {before:.0e} -> {after:.0e}" for name, (before, after) in off.items())
    evidence("largest entry of W^T W - 1 before and after one step of AdamW with weight decay", "; ".join(figures))
