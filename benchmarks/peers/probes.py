"""The fifteen probes, in the order of their numbers."""

from __future__ import annotations

from benchmarks.peers import (
    averages,
    baking,
    checkpoints,
    compiles,
    exports,
    loops,
    norms,
    optimizers,
    pickles,
    precision,
    reads,
    recurrent,
    rules,
    ties,
    undoing,
    writes,
)
from benchmarks.peers.observing import Probe

PROBES: tuple[Probe, ...] = (
    undoing.PROBE,
    baking.PROBE,
    checkpoints.PROBE,
    writes.PROBE,
    optimizers.PROBE,
    pickles.PROBE,
    ties.PROBE,
    reads.PROBE,
    rules.PROBE,
    recurrent.PROBE,
    compiles.PROBE,
    *loops.PROBES,
    exports.PROBE,
    averages.PROBE,
    precision.PROBE,
    *norms.PROBES,
)
