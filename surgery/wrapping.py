"""Wrappers for distributed training, and why a model that is wrapped already cannot be changed."""

import warnings
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from computed.parameter import ComputedParameter
from computed.sharding import is_sharded
from surgery.finding import Found, hosts, type_names


class Wrapping(NamedTuple):
    """What a model is, or contains: FullyShardedDataParallel, DistributedDataParallel."""

    sharded: bool
    reduced: bool


def wrapping(model: nn.Module) -> Wrapping:
    """The wrappers in ``model``."""
    # not model.modules(), a walk that projects what waits to be
    modules = [host for host, _ in hosts(model)]
    return Wrapping(
        any("FullyShardedDataParallel" in type_names(module) for module in modules),
        any(isinstance(module, DistributedDataParallel) for module in modules),
    )


def sharding_refusals(found: Found, wrapped: Wrapping) -> list[str]:
    """Why a sharded parameter cannot be computed."""
    if is_sharded(found.subject):
        return ["is sharded (a DTensor), and its projection needs the full value; constrain before fully_shard(model)"]
    if wrapped.sharded:
        return ["belongs to a model wrapped by FullyShardedDataParallel; constrain first, then wrap"]
    return []


def reduction_refusals(wrapped: Wrapping) -> list[str]:
    """Why new raws cannot be made."""
    if not wrapped.reduced:
        return []
    return [
        "belongs to a model wrapped by DistributedDataParallel, which would silently not reduce the gradients of new "
        "raws; constrain first, then wrap"
    ]


def freezing_refusals(found: Found, wrapped: Wrapping) -> list[str]:
    """Why a parameter cannot be frozen."""
    if is_sharded(found.subject) or wrapped.sharded:
        return ["is sharded, by a wrapper that has noted which parameters train; freeze first, then wrap"]
    if wrapped.reduced:
        return [
            "belongs to a model wrapped by DistributedDataParallel, which waits for the gradient of every parameter "
            "that trained when it was built; freeze first, then wrap"
        ]
    return []


def warn_of_reduction(model: nn.Module, taken: Iterable[ComputedParameter], what: str) -> None:
    """Warn where computed parameters are taken out of a model whose wrapper has noted what it reduces."""
    if wrapping(model).reduced and any(len(one.raw_slots()) != 1 or len(list(one.buffers())) for one in taken):
        warnings.warn(
            f"{what} inside DistributedDataParallel: it reduces and broadcasts what it found when it was made, and not "
            f"the Parameters that stand there now; to train on, wrap model.module anew",
            UserWarning,
            stacklevel=3,
        )


def undo_refusals(taken: Iterable[ComputedParameter]) -> list[str]:
    """Why computed parameters cannot be taken out again: their raws are sharded, and what was there is whole."""
    return [one.called() for one in taken if one.is_sharded()]
