"""Watching tensors at their storage, and finding everything that a value depends on."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from computed.chain import Link
from computed.constraint import Constraint, IteratedConstraint
from computed.torch_private import CAN_WATCH, is_accumulate_grad, lazy_clone

MODULES_OWN = frozenset(vars(nn.Module())) - {"training"}
Setting = tuple[dict[str, Any], str, Any]
INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Slot(NamedTuple):
    """Where a tensor is registered: a module's ``_parameters`` or ``_buffers``, and the name there."""

    owner: dict[str, Any]
    key: str


class UnwatchableError(Exception):
    """A tensor whose storage cannot be watched: shared, mapped from a file, or not torch's own."""


def snapshot(tensor: Tensor) -> Tensor:
    """A copy-on-write snapshot of ``tensor``, a leaf."""
    if tensor.layout is torch.strided and not tensor.untyped_storage().resizable():  # in_foreign_memory, written out
        raise UnwatchableError("torch did not allocate this memory")
    try:
        return lazy_clone(tensor.detach() if tensor.requires_grad else tensor)
    except RuntimeError as error:
        raise UnwatchableError(str(error)) from error


def as_it_is(tensor: Tensor) -> Tensor:
    """What ``tensor``, in memory of our own, holds at this moment, whoever writes to it later."""
    return snapshot(tensor) if CAN_WATCH and not tensor.is_meta else tensor.clone()


def in_foreign_memory(tensor: Tensor) -> bool:
    """Whether torch did not allocate the storage (a loaded or mapped file, NumPy), so that it cannot be watched.

    A snapshot of some of these can be taken, of what `torch.load` gives for instance, but the next write crashes: torch
    would copy by the storage's allocator, and there is none.
    """
    return tensor.layout is torch.strided and not tensor.untyped_storage().resizable()


def own_storage(tensor: Tensor) -> None:
    """Move a tensor out of foreign memory, and one whose entries share memory; shared memory stays shared."""
    if tensor.is_shared():
        return
    if may_overlap_itself(tensor):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    elif in_foreign_memory(tensor):
        tensor.data = tensor.data.clone()


def may_overlap_itself(tensor: Tensor) -> bool:
    """Whether entries of ``tensor`` may be one number in memory (an expanded one's are): torch writes to none such."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return False
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def foreign_leaves(values: Iterable[Tensor], leaves: Sequence[Tensor]) -> bool:
    """Whether the graph of ``values`` ends in a leaf that is none of ``leaves``: its gradient would be lost."""
    ours = {id(leaf) for leaf in leaves}
    pending = [value.grad_fn for value in values if value.grad_fn is not None]
    if any(value.is_leaf and value.requires_grad and id(value) not in ours for value in values):
        return True
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_accumulate_grad(node) and id(node.variable) not in ours:  # type: ignore[attr-defined]
            return True
        pending += [parent for parent, _ in node.next_functions if parent is not None]
    return False


def own_slots(link: Link, known: Sequence[Slot], *, training: bool) -> list[Slot]:
    """Every tensor of a link's modules that a value depends on, registered or not, beside the raws in ``known``."""
    raws = {(id(slot.owner), slot.key) for slot in known}
    return [
        Slot(tensors, key)
        for module in link.module.modules()
        for tensors in (module._parameters, module._buffers, vars(module))
        for key, tensor in tensors.items()
        if isinstance(tensor, Tensor) and (id(tensors), key) not in raws and key not in _unread(link, training=training)
    ]


def _unread(link: Link, *, training: bool) -> set[str]:
    """The buffers of an iterated constraint that evaluation does not read: what is derived, and what eval leaves."""
    module = link.module
    if not isinstance(module, IteratedConstraint):
        return set()
    names = set(module.state_names)
    derived = {prefix + name for prefix in ("pending_", "settled_") for name in names}
    return derived if training or module.settles_from is None else derived | (names - set(module.settles_from))


def state_buffers(link: Link) -> tuple[Tensor, ...]:
    """The committed state of an iterated constraint; none for any other link."""
    return link.module.state() if isinstance(link.module, IteratedConstraint) else ()


class Settings(NamedTuple):
    """What is set on the modules of some links.

    ``told`` are the attributes of constraints, with what they were: a change of one moves the epoch. ``untold`` are
    those of other people's modules, of which only a comparison tells.
    """

    told: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    untold: tuple[Setting, ...]

    def told_unchanged(self) -> bool:
        """Whether those that move the epoch are what they were: it moves with any constraint of any model."""
        return all(
            now.keys() == before.keys() and all(now[key] is value for key, value in before.items())
            for now, before in self.told
        )

    def untold_unchanged(self) -> bool:
        """Whether those of other people's modules are what they were."""
        return all(attributes.get(key) is value for attributes, key, value in self.untold)


def settings_of(links: Sequence[Link]) -> Settings:
    """What is set on the modules of ``links`` and is no tensor: modes, and whatever else is no Module's own."""
    modules = [module for link in links for module in link.module.modules()]
    told = [(vars(module), dict(vars(module))) for module in modules if isinstance(module, Constraint)]
    untold = [
        (vars(module), key, value)
        for module in modules
        if not isinstance(module, Constraint)
        for key, value in vars(module).items()
        if key not in MODULES_OWN and not isinstance(value, Tensor)
    ]
    return Settings(tuple(told), tuple(untold))


class Bits(NamedTuple):
    """Tensors and the bits that they had."""

    tensors: tuple[Tensor, ...]
    snapshots: tuple[Tensor, ...]

    def moved(self) -> bool:
        """Whether the bits of some tensor are others now."""
        return any(not same_bits(one, other) for one, other in zip(self.tensors, self.snapshots, strict=True))


def bits_of(tensors: Sequence[Tensor]) -> Bits | None:
    """The bits of ``tensors``, or None where they cannot be watched."""
    if not CAN_WATCH or any(tensor.is_meta for tensor in tensors):
        return None
    try:
        return Bits(tuple(tensors), tuple(snapshot(tensor) for tensor in tensors))
    except UnwatchableError:
        return None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold the same bits (NaN equals NaN, -0.0 differs from 0.0); on meta, no bits."""
    if a.is_meta and b.is_meta:
        return a.shape == b.shape
    if a.dtype != b.dtype or a.device != b.device or a.shape != b.shape:
        return False
    integer = INTEGER_OF_SIZE.get(a.element_size())
    if integer is None:
        return torch.equal(a, b)
    return torch.equal(a.detach().view(integer), b.detach().view(integer))
