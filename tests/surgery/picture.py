"""A picture of a model down to bits and identities, to tell whether anything at all has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from computed.parameter import ComputedParameter

# what a read may fill: the held values, and the marks of an evaluation
TRANSIENT = ("_factors", "_found", "_holds", "_pending_state", "_team", "_written")
HOOKS = "_hooks"


def bits(tensor: Tensor) -> object:
    """Shape, dtype, device and bytes."""
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        return "uninitialised"
    head = tuple(tensor.shape), tensor.dtype, str(tensor.device)
    if tensor.is_meta:
        return head
    # a copy: torch marks the storage of what becomes a NumPy array
    dense = tensor.detach().clone().cpu().reshape(-1)
    return *head, dense.view(torch.uint8).numpy().tobytes() if dense.numel() else b""


def picture(model: nn.Module, *, identities: bool = True) -> dict[str, object]:
    """Everything about ``model``, by the place where it is, as plain values that compare; objects told by their ids."""
    found: dict[str, object] = {"random state": bits(torch.get_rng_state())}
    for name, module in model.named_modules(remove_duplicate=False):
        found.update((f"{name or '(root)'}: {what}", value) for what, value in _module(module, identities))
    return found


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """The places where two pictures differ."""
    return [place for place in before | after if before.get(place, "absent") != after.get(place, "absent")]


def _module(module: nn.Module, identities: bool) -> Iterator[tuple[str, object]]:
    yield "type", type(module)
    if identities:
        yield "id", id(module)
    computed = isinstance(module, ComputedParameter)
    yield (
        "attributes",
        [key for key in vars(module) if not ((computed and key in TRANSIENT) or key in _computed(module))],
    )
    yield "computed parameters", sorted(_computed(module))
    for key, value in vars(module).items():
        if key == "_modules":
            yield "children", [(name, _told(child, identities)) for name, child in value.items()]
            yield "mapping of children", (type(value), _told(value, identities and type(value) is dict))
        elif key in ("_parameters", "_buffers"):
            yield key, [name for name, _ in value.items()]
            for name, tensor in value.items():
                if tensor is not None:
                    yield from ((f"{name} {what}", about) for what, about in _tensor(tensor, identities))
        elif key.endswith(HOOKS) and isinstance(value, dict):
            yield key, [(number, _hook(hook)) for number, hook in value.items()]
        elif key in ("_flat_weights", "_flat_weight_refs"):
            yield key, [_told(weight if key == "_flat_weights" else weight(), identities) for weight in value]
        elif not (computed and key in TRANSIENT):
            yield key, _plain(value, identities)


def _computed(module: nn.Module) -> set[str]:
    """Those that stand among the attributes too; in which order, nobody can tell."""
    return {name for name, value in vars(module).items() if isinstance(value, ComputedParameter)}


def _tensor(tensor: Tensor, identities: bool) -> Iterator[tuple[str, object]]:
    yield "bits", bits(tensor)
    yield "requires_grad", tensor.requires_grad
    yield "type", type(tensor)
    lazy = isinstance(tensor, nn.parameter.UninitializedTensorMixin)
    gradient = None if lazy else tensor.grad
    yield "gradient", None if gradient is None else bits(gradient)
    if not lazy:
        yield "strides", tensor.stride()
    if identities:
        yield "id", id(tensor)
        yield "id of the gradient", id(gradient)
        yield "attributes", dict(vars(tensor))


def _hook(hook: Any) -> int:
    return id(getattr(hook, "hook", hook))


def _plain(value: object, identities: bool) -> object:
    if isinstance(value, bool | int | float | str | tuple | type(None)):
        return value
    if isinstance(value, list | set | dict):
        return repr(value)
    return _told(value, identities)


def _told(value: object, identities: bool) -> object:
    return id(value) if identities else type(value)
