"""Why a parameter of a model cannot be computed, whatever the constraint: its host would not use it as a tensor."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from computed.sharding import is_sharded
from computed.torch_private import address_of
from surgery.finding import Found

CALLS_ITS_CHILDREN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def host_refusals(found: Found) -> list[str]:
    """Why the hosts of ``found`` cannot take a computed parameter, one reason each."""
    reasons = (reason for place in found.slots for reason in _host_reasons(place.host, place.attribute))
    return list(dict.fromkeys(reasons))


def _host_reasons(host: nn.Module, attribute: str) -> Iterator[str]:
    kind = type(host).__name__
    if isinstance(host, CALLS_ITS_CHILDREN):
        yield (
            f"is owned directly by a {kind}, which calls its children, and a computed parameter would be one of them; "
            f"move the parameter into a module of its own"
        )
    if isinstance(host, ScriptModule):
        yield f"stands in a {kind}, which is compiled; constrain the model before torch.jit.script or torch.jit.trace"
    if isinstance(host, nn.Embedding | nn.EmbeddingBag) and attribute == "weight":
        if host.max_norm is not None:
            yield (
                f"is renormalised in place at each forward ({kind}(max_norm={host.max_norm})), which a constraint "
                f"would fight; set max_norm=None and use the constraint alone"
            )
        if host.sparse:
            yield f"has sparse gradients ({kind}(sparse=True)), which do not reach a raw; set sparse=False"


def holding_refusals(found: Found) -> list[str]:
    """Why a weight that something else computes cannot be computed once more, or frozen."""
    return [
        f"is held by {found.holder}; call surgery.adopt(model, {found.site.name!r}) first, then pass "
        f"existing='chain' or existing='replace', or remove what holds it"
    ]


def inference_refusals(found: Found) -> list[str]:
    """Why a tensor that was made in inference mode can be neither computed nor frozen."""
    subject = found.subject
    if not isinstance(subject, Tensor) or found.site.shape is None or not subject.is_inference():
        return []
    return ["is an inference tensor, which can be neither trained nor watched; build outside torch.inference_mode()"]


def shared_storage(found: Found, shared: dict[int, str]) -> list[str]:
    """Why a tensor that overlaps another parameter's memory cannot be computed; ``shared`` is from `overlapping`."""
    other = shared.get(id(found.subject))
    if other is None:
        return []
    return [
        f"shares its storage with {other}, so a write to one would change the other behind the constraint; "
        f"give it its own, weight.data = weight.data.clone(), or tie the two by one Parameter object"
    ]


def overlapping(found: Sequence[Found]) -> dict[int, str]:
    """For each parameter that overlaps another one's memory, ``id(parameter)`` -> the other's name."""
    spans = sorted(
        (*_span(one.subject), index)
        for index, one in enumerate(found)
        if isinstance(one.subject, Tensor) and _has_memory(one)
    )
    shared: dict[int, str] = {}
    widest: tuple[str, int, int] | None = None  # of those so far the one that reaches furthest
    for device, start, stop, index in spans:
        if widest is not None and widest[0] == device and start < widest[1]:
            shared.setdefault(id(found[widest[2]].subject), found[index].site.name)
            shared[id(found[index].subject)] = found[widest[2]].site.name
        if widest is None or widest[0] != device or stop > widest[1]:
            widest = device, stop, index
    return shared


def _has_memory(found: Found) -> bool:
    subject = found.subject
    assert isinstance(subject, Tensor)
    known = found.site.shape is not None and not subject.is_meta
    if not known or subject.layout is not torch.strided or subject.numel() == 0 or is_sharded(subject):
        return False
    return address_of(subject) != 0  # a wrapper has none of its own


def _span(tensor: Tensor) -> tuple[str, int, int]:
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = address_of(tensor)
    return str(tensor.device), start, start + extent * tensor.element_size()
