"""Random numbers that leave the global generators as they are."""

import hashlib
import math

import torch
from torch import Tensor

# Enough to tell two weights apart, and little to move and to hash where a weight has gigabytes.
SAMPLED = 2**16


def generator_for(value: Tensor, role: str, seed: int | None = None) -> torch.Generator:
    """A generator that depends on the global seed, the bits of ``value`` and ``role`` alone.

    The global seed is `torch.initial_seed()`, read and not drawn from; ``seed`` takes its place. So two
    models that are built from one seed and hold the same weights get the same numbers, whatever was drawn in
    between. Of large values, every n-th number is looked at.

    Example:
        >>> weight = torch.ones(3)
        >>> torch.equal(*(torch.rand(2, generator=generator_for(weight, "A", seed=0)) for _ in range(2)))
        True
    """
    digest = hashlib.blake2b(digest_size=8)
    start = torch.initial_seed() if seed is None else seed
    digest.update(repr((start, role, tuple(value.shape), str(value.dtype))).encode())
    if not value.is_meta:
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLED)].contiguous().cpu()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest.digest(), "big") >> 1)
    return generator


def kaiming_uniform(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform in ±1/sqrt(fan_in), as layers of torch start; fan_in is the product of ``shape[1:]``.

    Drawn in float32 in main memory, so that the numbers do not depend on the device; given in the dtype and
    on the device of ``like``.

    Reference: He et al., "Delving deep into rectifiers", 2015 (arXiv:1502.01852), section 2.2, with ``a =
    sqrt(5)``.
    """
    bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
    start = torch.empty(shape, dtype=torch.float32, device="cpu")  # whatever the defaults are
    return start.uniform_(-bound, bound, generator=generator).to(like)
