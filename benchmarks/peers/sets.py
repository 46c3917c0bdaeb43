"""How far a value is from the set that its constraint promises: by NumPy in float64, relative to its size.

Each measure is such that rounding every entry by a relative ``u`` moves a member of the set by ``u`` at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Measure = Callable[[np.ndarray], float]


def norm_is(norm: float) -> Measure:
    """The largest singular value."""
    return lambda value: abs(float(np.linalg.norm(value, 2)) - norm) / float(np.linalg.norm(value))


def norm_is_at_most(bound: float) -> Measure:
    """The same, from above."""
    return lambda value: max(0.0, float(np.linalg.norm(value, 2)) - bound) / float(np.linalg.norm(value))


def orthogonal(value: np.ndarray) -> float:
    """The distance to the polar factor, which is the nearest member."""
    u, _, vh = np.linalg.svd(value, full_matrices=False)
    return float(np.linalg.norm(value - u @ vh) / np.linalg.norm(value))


def unit_rows(value: np.ndarray) -> float:
    """The length of the worst row."""
    return float(np.abs(np.linalg.norm(value, axis=1) - 1).max())


def between(low: float, high: float) -> Measure:
    """How far the worst entry is outside."""
    return lambda value: float(max(low - value.min(), value.max() - high, 0.0))


def symmetric(value: np.ndarray) -> float:
    """The largest difference to the transpose."""
    return float(np.abs(value - value.T).max() / np.abs(value).max())


def skew(value: np.ndarray) -> float:
    """The largest sum with the transpose."""
    return float(np.abs(value + value.T).max() / np.abs(value).max())


def anything(value: np.ndarray) -> float:
    """Numbers, and nothing else."""
    return 0.0 if np.isfinite(value).all() else float("inf")


SETS: Mapping[str, Measure] = {
    "spectral": norm_is(1.0),
    "spectral(bound=0.5)": norm_is_at_most(0.5),
    "orthogonal": orthogonal,
    "positive": between(0.0, np.inf),
    "greater_than(0.1)": between(0.1, np.inf),
    "interval(-0.5, 0.5)": between(-0.5, 0.5),
    "unit_norm": unit_rows,
    "symmetric": symmetric,
    "skew": skew,
    "weight_norm": anything,
    "lora(2)": anything,
}
