"""What is timed: steps of training and forwards of whole networks, by what people do with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.variants import CACHED, HOOKS, OURS, PLAIN, TORCH, Variant, only, spectral_variants

Call = Callable[[], object]
Candidate = Callable[[Variant], Call]
RATE = 1e-4
ALL = (PLAIN, OURS, TORCH, HOOKS)
SHARED = (PLAIN, OURS, TORCH, CACHED)


@dataclass(frozen=True)
class Workload:
    """Candidates by name, made when they are timed; ``threads`` and ``calls`` of one sample, ``rounds`` of samples."""

    title: str
    make: Callable[[], Mapping[str, Call]]
    threads: int = 1
    calls: int = 1
    rounds: int = 41


def training(draw: Callable[[], Tensor], *, micro_batches: int = 1) -> Candidate:
    """A step of SGD, with as many forwards and backwards as there are micro-batches."""

    def of(variant: Variant) -> Call:
        model, x = variant.model.train(), draw()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

        def step() -> None:
            optimizer.zero_grad()
            for _ in range(micro_batches):
                with variant.within():
                    loss = model(x).square().mean()
                loss.backward()
            optimizer.step()

        return step

    return of


def inference(draw: Callable[[], Tensor]) -> Candidate:
    """A forward in eval mode without gradients."""

    def of(variant: Variant) -> Call:
        model, x = variant.model.eval(), draw()

        def forward() -> None:
            with torch.no_grad(), variant.within():
                model(x)

        return forward

    return of


def adversarial(draw: Callable[[], Tensor]) -> Candidate:
    """A step of the critic, of real images and of made ones, and one of the generator, with the hinge loss."""

    def of(variant: Variant) -> Call:
        critic, real = variant.model.train(), draw()
        torch.manual_seed(1)
        maker = networks.generator().train()
        noise = torch.randn(len(real), 128)
        of_critic, of_maker = (torch.optim.Adam(m.parameters(), lr=RATE, betas=(0.0, 0.9)) for m in (critic, maker))

        def step() -> None:
            of_critic.zero_grad()
            with variant.within():
                loss = torch.relu(1 - critic(real)).mean() + torch.relu(1 + critic(maker(noise).detach())).mean()
            loss.backward()
            of_critic.step()
            of_maker.zero_grad()
            with variant.within():
                loss = -critic(maker(noise)).mean()
            loss.backward()
            of_maker.step()

        return step

    return of


def images(batch: int, size: int = 64) -> Callable[[], Tensor]:
    """Random images."""
    return lambda: torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def rows(batch: int, *sizes: int) -> Callable[[], Tensor]:
    """Random rows."""
    return lambda: torch.randn(batch, *sizes, generator=torch.Generator().manual_seed(0))


def candidates(
    build: Callable[[], nn.Module], of: Candidate, *names: str, weights: tuple[str, ...] = ("weight",)
) -> Callable[[], dict[str, Call]]:
    """The candidates of some libraries, for a network whose layers of the widest kind are constrained."""

    def make() -> dict[str, Call]:
        torch.manual_seed(0)
        plain = build()
        kinds = (nn.LSTMCell, nn.Conv2d, nn.Linear)
        kind = next(kind for kind in kinds if any(isinstance(module, kind) for module in plain.modules()))
        return {name: of(variant) for name, variant in only(spectral_variants(plain, kind, weights), *names).items()}

    return make


def workloads() -> list[Workload]:
    """All of them, in the order of the page."""
    return [*steps(), *evals(), *shared()]


def steps() -> list[Workload]:
    """Steps of training."""
    r18, r50, mlp = networks.resnet18, networks.resnet50, networks.perceptron
    of_r18 = candidates(r18, training(images(8)), *ALL)
    of_mlp = candidates(mlp, training(rows(64, 64)), *ALL)
    return [
        Workload("ResNet-18, 64 px, batch 8, step", of_r18),
        Workload("ResNet-18, 64 px, batch 8, step", of_r18, threads=2),
        Workload("ResNet-18, 64 px, batch 1, step", candidates(r18, training(images(1)), *ALL)),
        Workload("ResNet-50, 64 px, batch 4, step", candidates(r50, training(images(4)), *ALL), rounds=21),
        Workload("12 x Linear(64), 64 rows, step", of_mlp, calls=10, rounds=101),
        *[
            Workload(f"Linear(4096, 4096), {n} rows, step", candidates(_wide, training(rows(n, 4096)), *ALL), rounds=21)
            for n in (1, 16, 64)
        ],
    ]


def evals() -> list[Workload]:
    """Forwards."""
    r18, r50 = networks.resnet18, networks.resnet50
    of_mlp = candidates(networks.perceptron, inference(rows(64, 64)), *ALL)
    return [
        Workload("ResNet-18, 64 px, batch 8, eval", candidates(r18, inference(images(8)), *ALL), rounds=101),
        Workload("ResNet-18, 64 px, batch 1, eval", candidates(r18, inference(images(1)), *ALL), rounds=101),
        Workload("ResNet-50, 64 px, batch 4, eval", candidates(r50, inference(images(4)), *ALL), rounds=61),
        Workload("12 x Linear(64), 64 rows, eval", of_mlp, calls=20, rounds=101),
    ]


def shared() -> list[Workload]:
    """Steps that read a value more than once."""
    micro = training(images(8), micro_batches=4)
    cell, weights = training(rows(16, 100, 32)), ("weight_ih", "weight_hh")
    return [
        Workload("ResNet-18, 4 micro-batches of 8, step", candidates(networks.resnet18, micro, *SHARED), rounds=15),
        Workload(
            "GAN, 32 px, batch 16, critic and generator",
            candidates(networks.critic, adversarial(images(16, 32)), *SHARED),
            rounds=21,
        ),
        Workload(
            "LSTMCell(32, 128) x 100, batch 16, step",
            candidates(networks.Unrolled, cell, *SHARED, weights=weights),
            rounds=31,
        ),
    ]


def _wide() -> nn.Module:
    return nn.Linear(4096, 4096, bias=False)
