"""Loading plain state dicts into a host of computed parameters.

torch asks a child only for keys that begin with its own name and a dot, so the plain key ``weight`` never reaches the
computed parameter ``weight``. The host rewrites it into the raws' keys before torch looks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from computed.constraint import IteratedConstraint
from computed.evaluation import invert
from computed.parameter import ComputedParameter


def accept_plain_keys(
    host: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *others: Any
) -> None:
    """Replace each plain key of a computed parameter by the keys of its raws and state."""
    errors: list[str] = others[-1]
    assigns = metadata.get("assign_to_params_buffers", False)
    for name, child in host._modules.items():
        key = prefix + name
        if isinstance(child, ComputedParameter) and not child.persistent:
            # what was a buffer that is not saved may be missing: then it stays as it is
            for own, tensor in child.state_dict(prefix=key + ".").items():
                state_dict.setdefault(own, tensor)
        if isinstance(child, ComputedParameter) and isinstance(state_dict.get(key), Tensor):
            value: Tensor = state_dict.pop(key)
            if value.shape == child.shape:
                dtype = value.dtype if assigns else child.dtype
                state_dict.update(keys_for_value(child, value.to(child.dtype), dtype, key + "."))
            else:
                # in torch's words, and as in torch also where strict=False
                errors.append(
                    f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, the shape in "
                    f"current model is {child.shape}."
                )


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
