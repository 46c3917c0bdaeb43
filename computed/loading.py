"""Loading plain state dicts into a host of computed parameters.

torch asks a child only for keys that begin with its own name and a dot, so the plain key ``weight`` never reaches the
computed parameter ``weight``. The host rewrites it into the raws' keys before torch looks.
"""

from typing import Any

from torch import Tensor, nn

from computed.constraint import IteratedConstraint
from computed.evaluation import invert
from computed.parameter import ComputedParameter


def accept_plain_keys(host: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Replace each plain key of a computed parameter by the keys of its raws and state."""
    for name, child in host._modules.items():
        key = prefix + name
        if isinstance(child, ComputedParameter) and isinstance(state_dict.get(key), Tensor):
            value: Tensor = state_dict[key]
            # a wrong shape is left for torch to report, under the plain name
            if value.shape == child.shape:
                del state_dict[key]
                state_dict.update(keys_for_value(child, value, key + "."))


def keys_for_value(parameter: ComputedParameter, value: Tensor, prefix: str) -> dict[str, Tensor]:
    """The part of a state dict that gives ``parameter`` the value ``value``, projected where it must be."""
    found: dict[str, Tensor] = {}
    for position, (link, preimage) in enumerate(zip(parameter.links, invert(parameter.links, value), strict=True)):
        raws = dict(zip((role.name for role in link.roles), preimage.raws, strict=True))
        if position:
            del raws[link.roles[0].name]
        inner = f"{prefix}constraints.{position}."
        own = f"{prefix}" if position == 0 else inner
        found.update({own + name: raw.to(value.dtype) for name, raw in raws.items()})
        module = link.module
        if isinstance(module, IteratedConstraint):
            found.update({inner + name: state for name, state in zip(module.state_names, preimage.state, strict=True)})
        else:
            found.update(
                {inner + name: tensor for name, tensor in module.state_dict().items() if inner + name not in found}
            )
    return found
