"""Random numbers that leave the global generators as they are."""

import hashlib
import math

import torch
from torch import Tensor


def generator_for(value: Tensor, role: str, seed: int | None = None) -> torch.Generator:
    """A generator that depends on the global seed, the bits of ``value`` and ``role`` alone.

    The global seed is `torch.initial_seed()`, read and not drawn from; ``seed`` takes its place. So two models that
    are built from one seed and hold the same weights get the same numbers, whatever was drawn in between.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((torch.initial_seed() if seed is None else seed, role, tuple(value.shape))).encode())
    if not value.is_meta:
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest.digest(), "big") >> 1)
    return generator


def kaiming_uniform(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform in ±1/sqrt(fan_in), as `nn.Linear` and `nn.Conv2d` start, where fan_in is the size of ``shape[1:]``.

    Drawn in float32 in main memory, so that the numbers do not depend on the device; given in dtype and on the device
    of ``like``.

    Reference: He et al., "Delving deep into rectifiers", 2015 (arXiv:1502.01852), with ``a = sqrt(5)``.
    """
    bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).to(like)
