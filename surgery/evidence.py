"""Whether a model is still the one that a plan was made for: the same tensors, names and bits."""

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from computed.parameter import ComputedParameter
from computed.watching import UnwatchableError, same_bits, snapshot
from surgery.finding import Found, Subject, subjects
from surgery.quantised_bases import quantised_refusals


class Standing(NamedTuple):
    """One tensor under its names: which object, in which modules, and whether it is trained."""

    names: tuple[str, ...]
    subject: int
    hosts: tuple[int, ...]
    requires_grad: bool


@dataclass(frozen=True, eq=False)
class Evidence:
    """What stood where, and its bits where a plan depends on them."""

    standing: tuple[Standing, ...]
    bits: tuple[tuple[str, Tensor, "_Kept"], ...]

    def changes(self, model: nn.Module) -> str | None:
        """What has changed in ``model`` since, or None."""
        now = {one.names: one for one in standing(subjects(model))}
        for one in self.standing:
            if one.names not in now:
                return f"{one.names[0]} is gone or tied otherwise"
            if now[one.names] != one:
                return f"{one.names[0]} or its module is another object, or its requires_grad was set"
        if len(now) != len(self.standing):
            return "parameters were added"
        return next((f"the values of {name} changed" for name, tensor, kept in self.bits if not kept(tensor)), None)


def evidence_of(found: tuple[Found, ...], planned: tuple[Found, ...]) -> Evidence:
    """Evidence of everything that stands in the model, with the bits of what the plan is about."""
    bits = [(name, tensor, _Kept(tensor)) for one in planned for name, tensor in _tensors(one)]
    return Evidence(standing(found), tuple(bits))


def standing(found: Iterable[Subject | Found]) -> tuple[Standing, ...]:
    """What stands where, as far as comparing needs it."""
    return tuple(
        Standing(
            tuple([place.name for place in one.places]),
            id(one.subject),
            tuple([id(place.host) for place in one.places]),
            one.subject.requires_grad,
        )
        for one in found
    )


def _tensors(found: Found) -> list[tuple[str, Tensor]]:
    subject = found.subject
    if isinstance(subject, ComputedParameter):
        return [(f"{found.site.name}.{name}", raw) for name, raw in subject.raws.items()]
    # what another library has quantised has no bits to look at, and no plan changes them
    known = found.site.shape is not None and not subject.is_meta and not quantised_refusals(found)
    return [(found.site.name, subject)] if known else []


class _Kept:
    """The bits of a tensor as they were: a copy-on-write snapshot, or a digest where a storage cannot have one."""

    def __init__(self, tensor: Tensor) -> None:
        self.copy: Tensor | None = None
        with contextlib.suppress(UnwatchableError):
            self.copy = snapshot(tensor)
        self.digest = digest(tensor) if self.copy is None else b""

    def __call__(self, tensor: Tensor) -> bool:
        return digest(tensor) == self.digest if self.copy is None else same_bits(tensor, self.copy)


def digest(tensor: Tensor) -> bytes:
    """A digest of the bits."""
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().data).digest()
