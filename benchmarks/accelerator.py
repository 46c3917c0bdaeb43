"""The same networks on an accelerator: launches, time, and the least that memory allows.

A step of SGD for the plain network, ours, and torch's parametrization with the largest singular value of every weight
set to one, eager and compiled. Launches are the kernels of one step, as `torch.profiler` counts them; on a processor,
where nothing is launched, the operations. A time is that of the wall clock with the queue empty before and after. The
floor is what seven passes over the constrained weights take at the rate at which the machine copies: the power step
reads them, the scale reads and writes, the gradient reads two and writes one, and one pass is the product with it.

``python -m benchmarks.accelerator`` takes the first accelerator that there is, ``python -m benchmarks.accelerator cpu``
the processor, to try the program.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import networks
from benchmarks.timing import machine, table, units
from benchmarks.variants import OURS, PLAIN, TORCH, spectral_variants
from benchmarks.workloads import images, rows

PASSES = 7
WARM_UP = 5


class Network(NamedTuple):
    """A network, the kind of its layers, and its inputs."""

    title: str
    make: Callable[[], nn.Module]
    kind: type[nn.Module]
    draw: Callable[[], Tensor]


NETWORKS = (
    Network("12 x Linear(64), 64 rows", networks.perceptron, nn.Linear, rows(64, 64)),
    Network("ResNet-18, 64 px, batch 8", networks.resnet18, nn.Conv2d, images(8)),
    Network("ResNet-50, 64 px, batch 4", networks.resnet50, nn.Conv2d, images(4)),
)


def step_of(model: nn.Module, x: Tensor, *, compiled: bool) -> Callable[[], object]:
    """One step of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        forward(x).square().mean().backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], object], device: str, rounds: int) -> float:
    """The median of a step."""
    for _ in range(WARM_UP):
        step()
    found = []
    for _ in range(rounds):
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def launches(step: Callable[[], object], device: str) -> int:
    """How many kernels a step launches; on a processor, how many operations it is."""
    kinds = [ProfilerActivity.CPU] if device == "cpu" else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=kinds) as seen:
        step()
        _wait(device)
    if device == "cpu":
        return sum(event.count for event in seen.key_averages() if event.key.startswith("aten::"))
    return sum(event.device_type != torch.autograd.DeviceType.CPU for event in seen.events())


def floor(model: nn.Module, kind: type[nn.Module], device: str) -> float:
    """The seconds of seven passes over the weights of all layers of a kind."""
    size = sum(layer.weight.numel() * 4 for layer in model.modules() if isinstance(layer, kind))
    many = torch.ones(1 << 26, device=device)
    copy = torch.empty_like(many)
    rate = 2 * many.numel() * 4 / seconds(lambda: copy.copy_(many), device, 7)
    return PASSES * size / rate


def measured(network: Network, device: str, rounds: int, *, compiled: bool) -> list[str]:
    """A line of the table."""
    torch.manual_seed(0)
    x = network.draw().to(device)
    cells: list[str] = []
    times: dict[str, float] = {}
    for name in (PLAIN, OURS, TORCH):
        torch.compiler.reset()
        model = spectral_variants(network.make().to(device), network.kind, ("weight",), only=name)[name].model
        step = step_of(model.train(), x, compiled=compiled)
        times[name] = seconds(step, device, rounds)
        ratio = "" if name == PLAIN else f" ({times[name] / times[PLAIN]:.2f})"
        cells.append(f"{1e3 * times[name]:.2f}{ratio}, {launches(step, device)}")
    least = floor(network.make(), network.kind, device)
    return [network.title + (", compiled" if compiled else ""), *cells, f"{1e3 * least:.2f}"]


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def main(device: str | None = None, rounds: int = 31) -> None:
    """Print the table; eager alone on a processor, where a compiler of C++ would be needed."""
    found = torch.accelerator.current_accelerator(check_available=True)
    device = device or (None if found is None else found.type)
    if device is None:
        raise SystemExit("no accelerator here; python -m benchmarks.accelerator cpu tries the program on the processor")
    name = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"{machine()}, {name}; {units(device)}.\n")
    modes = (False,) if device == "cpu" else (False, True)
    lines = [measured(each, device, rounds, compiled=compiled) for each in NETWORKS for compiled in modes]
    print(table(("ms (times plain), launches", PLAIN, OURS, TORCH, "floor, ms"), lines))


if __name__ == "__main__":
    main(*sys.argv[1:2])
