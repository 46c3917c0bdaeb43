"""Ask every library for everything, print the answers, and write docs/peers.md."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.observing import Observation, Probe, observe
from benchmarks.peers.page import page
from benchmarks.peers.probes import PROBES
from benchmarks.timing import machine

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"


def measured() -> str:
    """When and on what, with the versions of the libraries that stand beside torch."""
    others = ", ".join(library.told() for library in LIBRARIES if library.package != "torch")
    return f"`python -m benchmarks.peers`: {machine()}; {others}"


def results() -> dict[tuple[Probe, Library], Observation]:
    """All answers, printed as they come."""
    found = {}
    for probe in PROBES:
        print(f"\n{probe.label} {probe.asks}")
        for library in LIBRARIES:
            found[probe, library] = observe(probe, library)
            print(f"  {library.name:18} {found[probe, library]}", flush=True)
    return found


def main() -> None:
    """Measure all, then write the page."""
    missing = [library.package for library in LIBRARIES if not library.installed()]
    if missing:
        raise SystemExit(f"benchmarks.peers needs {' and '.join(missing)}; `make peers` installs them apart")
    torch.set_num_threads(1)
    torch._logging.set_logs(dynamo=logging.ERROR)  # a recompile limit is a finding here, and no news
    head = measured()
    PAGE.write_text(page(head, PROBES, results()))
    print(f"\nwritten: {os.path.relpath(PAGE)}")


if __name__ == "__main__":
    main()
