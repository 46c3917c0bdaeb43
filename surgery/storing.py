"""What is stored for a site, before and after: how many numbers, in which raws, and which of them are trained."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from computed.chain import reached_by_gradients
from computed.constraint import Constraint, Role
from computed.parameter import ComputedParameter
from computed.preparing import Prepared
from surgery.finding import Found


def numbers(subject: Tensor | ComputedParameter) -> tuple[int, int]:
    """How many numbers the Parameters of ``subject`` hold, and how many of them are trained."""
    if isinstance(subject, ComputedParameter):
        tensors: Sequence[Tensor] = list(subject.parameters())
    else:
        tensors = [subject] if isinstance(subject, nn.Parameter) else []
    sizes = [(0 if nn.parameter.is_lazy(tensor) else tensor.numel(), tensor.requires_grad) for tensor in tensors]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def stays_trained(subject: Tensor | ComputedParameter) -> bool:
    """Whether a Parameter in the place of ``subject`` is trained: what adapters train does not make it so."""
    if not isinstance(subject, ComputedParameter):
        return subject.requires_grad
    flags = [
        raw.tensor.requires_grad
        for raw in subject.raw_slots()
        if raw.role.trained and not raw.role.added and raw.reached
    ]
    return any(flags) if flags else subject.trainable and subject.requires_grad


def stored_sizes(prepared: Prepared, *, requires_grad: bool) -> list[tuple[int, bool]]:
    """The size of each Parameter that a chain will have, and whether it will be trained."""
    raws = []
    for position, role, _, shape in _raws(prepared):
        reached = reached_by_gradients(prepared.links, position)
        raws.append((shape.numel(), reached and role.trained and (role.added or requires_grad)))
    return raws + [(parameter.numel(), parameter.requires_grad) for parameter in _foreign(prepared)]


def makes_parameters(found: Found, prepared: Prepared) -> bool:
    """Whether the chain needs Parameters that are not there yet."""
    wanted = {name: shape for _, _, name, shape in _raws(prepared)}
    present: dict[str, torch.Size | None] = {}
    if found.computed is not None:
        present = {name: raw.shape for name, raw in found.computed.raws.items()}
    elif not found.site.buffer:
        present = dict.fromkeys(list(wanted)[:1], found.site.shape)
    return any(present.get(name) != shape for name, shape in wanted.items()) or any(True for _ in _foreign(prepared))


def _raws(prepared: Prepared) -> Iterator[tuple[int, Role, str, torch.Size]]:
    """Link, role, name and shape of each raw: all of the first link, all but the carrier of a later one."""
    for position, (link, shapes) in enumerate(zip(prepared.links, prepared.raw_shapes, strict=True)):
        prefix = f"constraints.{position}." if position else ""
        own = list(zip(link.roles, shapes, strict=True))[1 if position else 0 :]
        yield from ((position, role, prefix + role.name, shape) for role, shape in own)


def _foreign(prepared: Prepared) -> Iterator[nn.Parameter]:
    """The own Parameters of modules that are no constraints of ours."""
    for link in prepared.links:
        if not isinstance(link.module, Constraint):
            yield from link.module.parameters()
