"""Evaluating a chain: ``value = c_n(... c_1(*raws))`` outside autocast and inference mode, in at least float32."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from computed.chain import Link, is_disabled
from computed.constraint import Constraint, IteratedConstraint, Preimage, State, state_dtype
from computed.torch_private import inside_transform


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """No autocast and no inference mode: a constraint must hold, and its value must be usable in autograd later."""
    if torch.is_inference_mode_enabled() or torch.is_autocast_enabled(device.type if device.type != "meta" else "cpu"):
        return _full_precision(device)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            # leaving inference mode turns gradients on
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(torch.no_grad())
        if device.type != "meta" and torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def promoted(tensor: Tensor) -> Tensor:
    """``tensor`` in the dtype of evaluation: at least float32."""
    return tensor.to(state_dtype(tensor.dtype)) if tensor.is_floating_point() else tensor


def evaluate(
    links: Sequence[Link], raws: Sequence[Tensor], dtype: torch.dtype, *, training: bool
) -> tuple[Tensor, list[State]]:
    """The value in ``dtype`` and the state of each link; writes nothing."""
    states: list[State] = []
    running: Tensor | None = None
    for link, arguments in arguments_by_link(links, raws):
        whole = arguments if running is None else (running, *arguments)
        running, state = link.evaluate(whole, training=training)
        states.append(state)
    assert running is not None
    value = running.to(dtype)
    # a foreign module's value is laid out as it makes it: it stands for what that module computed before
    return laid_out(value, raws) if isinstance(links[-1].module, Constraint) else value, states


def laid_out(value: Tensor, raws: Sequence[Tensor]) -> Tensor:
    """``value`` in the memory layout of the raw that has its shape, such as ``torch.channels_last``.

    Kernels and the layout of outputs are chosen by that of a weight: they stay those of the Parameter that stood here.
    A raw with gaps between its entries counts as one without. A transform's tensors have no memory to lay out.
    """
    first = raws[0] if raws else value
    if first.shape != value.shape or first.stride() == value.stride() or inside_transform():
        return value
    place = torch.empty_like(first, dtype=value.dtype)
    return value if place.stride() == value.stride() else place.copy_(value)


def evaluate_given(
    links: Sequence[Link], raws: Sequence[Tensor], dtype: torch.dtype, states: Sequence[State]
) -> Tensor:
    """The value for the states of an earlier evaluation, differentiable in the raws to any order."""
    running: Tensor | None = None
    for (link, arguments), state in zip(arguments_by_link(links, raws), states, strict=True):
        running = link.evaluate_given(arguments if running is None else (running, *arguments), state)
    assert running is not None
    return running.to(dtype)


def evaluate_traced(links: Sequence[Link], raws: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The value as part of a compiled or exported graph: each module is simply called."""
    running: Tensor | None = None
    for link, arguments in arguments_by_link(links, raws):
        whole = arguments if running is None else (running, *arguments)
        if link.roles:
            whole = tuple(a if role.trained else a.detach() for a, role in zip(whole, link.roles, strict=True))
        running = whole[0] if is_disabled(link) else link.module(*whole)
    assert running is not None
    return running.to(dtype)


def last_arguments(
    links: Sequence[Link], raws: Sequence[Tensor], *, training: bool
) -> tuple[tuple[Tensor, ...], list[State]]:
    """The arguments of the last link, for an op rule, and the state of each link; writes nothing.

    Its own raws are not cast, so that autocast acts on the operation.
    """
    carriers, own = _split_at_last(links, raws)
    if len(links) == 1:
        return _with_fixed(links[-1], own), [()]
    with full_precision(raws[0].device):
        running, states = evaluate(links[:-1], carriers, raws[0].dtype, training=training)
    return _with_fixed(links[-1], (running, *own)), [*states, ()]


def last_arguments_traced(links: Sequence[Link], raws: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The arguments of the last link as part of a compiled or exported graph."""
    carriers, own = _split_at_last(links, raws)
    before = (evaluate_traced(links[:-1], carriers, raws[0].dtype),) if len(links) > 1 else ()
    return _with_fixed(links[-1], (*before, *own))


def _split_at_last(links: Sequence[Link], raws: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    start = len(raws) - own_roles(links[-1], len(links) - 1)
    return raws[:start], raws[start:]


def _with_fixed(link: Link, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(a if role.trained else a.detach() for a, role in zip(arguments, link.roles, strict=True))


def arguments_by_link(links: Sequence[Link], raws: Sequence[Tensor]) -> Iterator[tuple[Link, tuple[Tensor, ...]]]:
    """Each link with its own raws, promoted: all its roles for the first, all but the carrier for a later one."""
    start = 0
    for position, link in enumerate(links):
        stop = start + own_roles(link, position)
        yield link, tuple(promoted(raw) for raw in raws[start:stop])
        start = stop


def own_roles(link: Link, position: int) -> int:
    """How many raws a link has of its own."""
    return len(link.roles) - (1 if position else 0)


def invert(links: Sequence[Link], value: Tensor) -> list[Preimage]:
    """One preimage a link, computed from ``value`` in at least float32."""
    with torch.no_grad(), full_precision(value.device):
        running = promoted(value.detach())
        found: list[Preimage] = []
        for link in reversed(links):
            preimage = link.invert(running)
            found.append(preimage)
            running = preimage.raws[0]
        return _with_later_states(links, found[::-1])


def _with_later_states(links: Sequence[Link], preimages: list[Preimage]) -> list[Preimage]:
    """Give each later iterated link the state of what the links before it really make of the raws.

    Going backwards, a link sees the value before those in front of it have projected theirs.
    """
    if not has_state(links[1:]):
        return preimages
    running: Tensor | None = None
    for position, (link, preimage) in enumerate(zip(links, preimages, strict=True)):
        whole = preimage.raws if running is None else (running, *preimage.raws[1:])
        if isinstance(link.module, IteratedConstraint):
            state = preimage.state if running is None else link.invert(running).state
            preimages[position] = Preimage(preimage.raws, state)
            running = link.module.value_given(whole[0], state)
        else:
            running = link.evaluate(whole, training=False)[0]
    return preimages


def start_from_raws(links: Sequence[Link], raws: Sequence[Tensor]) -> None:
    """Give iterated constraints the state that belongs to raws which were written or loaded without it."""
    running: Tensor | None = None
    for link, arguments in arguments_by_link(links, raws):
        whole = arguments if running is None else (running, *arguments)
        if isinstance(link.module, IteratedConstraint):
            state = link.module.right_inverse(whole[0]).state
            link.module.commit(state)
            link.module.settle(state)
            running = link.module.value_given(whole[0], state)
        else:
            running = link.evaluate(whole, training=False)[0]


def has_state(links: Sequence[Link]) -> bool:
    """Whether some link keeps a converged state for eval."""
    return any(isinstance(link.module, IteratedConstraint) for link in links)
