"""Loading into a host of computed parameters what was saved from a plain one, or one with norms of torch's own.

torch asks a child only for keys that begin with its own name and a dot, so the plain key ``weight`` never reaches the
computed parameter ``weight``. The host rewrites it into the raws' keys before torch looks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from computed.adopted_keys import renamed
from computed.constraint import IteratedConstraint
from computed.evaluation import invert
from computed.formats import Foreign, foreign_entry, raws_of, shape_of, value_of
from computed.parameter import ComputedParameter
from computed.site import TRANSPOSED_CONVOLUTIONS


def accept_plain_keys(
    host: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *others: Any
) -> None:
    """Replace each plain key of a computed parameter, and those of torch's norms, by the keys of its raws and state."""
    errors: list[str] = others[-1]
    for name, child in host._modules.items():
        if isinstance(child, ComputedParameter):
            if not child.persistent:
                # what was a buffer that is not saved may be missing: then it stays as it is
                for own, tensor in child.state_dict(prefix=f"{prefix}{name}.").items():
                    state_dict.setdefault(own, tensor)
            assigns = metadata.get("assign_to_params_buffers", False)
            _accept(host, name, child, state_dict, prefix, errors, assigns=assigns)


def _accept(
    host: nn.Module,
    name: str,
    child: ComputedParameter,
    state_dict: dict[str, Any],
    prefix: str,
    errors: list[str],
    *,
    assigns: bool,
) -> None:
    """Rewrite the keys of one computed parameter, in whichever format they are."""
    key = prefix + name
    if isinstance(state_dict.get(key), Tensor):
        value: Tensor = state_dict.pop(key)
        if child.reshapes:
            _accept_reshaped(child, value, state_dict, key, errors)
        elif _fits(value.shape, child, key, errors):
            dtype = value.dtype if assigns else child.dtype
            state_dict.update(keys_for_value(child, value.to(child.dtype), dtype, key + "."))
        return
    before = renamed(state_dict, child, name, prefix)
    if before is not None:
        state_dict.update({own: state_dict.pop(old) for old, own in before.items()})
        return
    foreign = foreign_entry(state_dict, host, prefix, name)
    if foreign is not None:
        for each in foreign.keys:
            del state_dict[each]
        if _fits(shape_of(foreign), child, key, errors):
            state_dict.update(keys_for_foreign(child, foreign, host, key + "."))


def _accept_reshaped(
    child: ComputedParameter, value: Tensor, state_dict: dict[str, Any], key: str, errors: list[str]
) -> None:
    """Take a value of the shape that the plain model had, or of its own, as the right inverses take it."""
    found = keys_for_value(child, value.to(child.dtype), child.dtype, key + ".")
    own = {f"{key}.{raw.name}": raw.tensor.shape for raw in child.raw_slots()}
    if all(found[name].shape == shape for name, shape in own.items()):
        state_dict.update(found)
    else:
        errors.append(_mismatch(value.shape, child.shape, key))


def _fits(shape: torch.Size, child: ComputedParameter, key: str, errors: list[str]) -> bool:
    if shape == child.shape:
        return True
    errors.append(_mismatch(shape, child.shape, key))
    return False


def _mismatch(shape: torch.Size, own: torch.Size, key: str) -> str:
    """In torch's words, and as in torch also where strict=False."""
    return (
        f"size mismatch for {key}: copying a param with shape {shape} from checkpoint, the shape in current model is "
        f"{own}."
    )


def keys_for_foreign(parameter: ComputedParameter, foreign: Foreign, host: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The part of a state dict that gives ``parameter`` what ``foreign`` holds: part by part, or else its value."""
    parts = raws_of(foreign, parameter)
    if parts is not None:
        return {prefix + name: part for name, part in parts.items()}
    value = value_of(foreign, 1 if isinstance(host, TRANSPOSED_CONVOLUTIONS) else 0).to(parameter.dtype)
    return keys_for_value(parameter, value, parameter.dtype, prefix)


def keys_for_value(parameter: ComputedParameter, value: Tensor, dtype: torch.dtype, prefix: str) -> dict[str, Tensor]:
    """The part of a state dict that gives ``parameter`` the value ``value``, projected where it must be.

    Raws have ``dtype``: where they are copied that of the parameter, so that they are rounded once and not twice.
    """
    found: dict[str, Tensor] = {}
    for position, (link, preimage) in enumerate(zip(parameter.links, invert(parameter.links, value), strict=True)):
        raws = dict(zip((role.name for role in link.roles), preimage.raws, strict=True))
        if position:
            del raws[link.roles[0].name]
        inner = f"{prefix}constraints.{position}."
        own = f"{prefix}" if position == 0 else inner
        found.update({own + name: raw.to(dtype) for name, raw in raws.items()})
        module = link.module
        if isinstance(module, IteratedConstraint):
            found.update({inner + name: state for name, state in zip(module.state_names, preimage.state, strict=True)})
        else:
            found.update(
                {inner + name: tensor for name, tensor in module.state_dict().items() if inner + name not in found}
            )
    return found
