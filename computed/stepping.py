"""What happens before a torch optimizer steps: writes are projected, pending state is committed, snapshots let go.

A public global hook of torch, so it sees every torch optimizer, compiled steps too. The computed parameters that an
optimizer holds are found once and kept, until its groups or the set of computed parameters change.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from computed.errors import ComputedParameterError
from computed.living import living
from computed.parameter import ComputedParameter

Key = tuple[int, int]
_known: "weakref.WeakKeyDictionary[Optimizer, tuple[Key, list[weakref.ref[ComputedParameter]]]]" = (
    weakref.WeakKeyDictionary()
)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tell every computed parameter whose raws the optimizer is about to move."""
    for reference in held_by(optimizer):
        parameter = reference()
        if parameter is not None and Tensor in map(type, parameter._parameters.values()):
            raise ComputedParameterError(
                f"{parameter.called()}: a plain tensor stands in the place of a raw that an optimizer holds; "
                f"torch.func.functional_call leaves it there where the weight is tied: pass tie_weights=False"
            )
        # a raw without numbers is one that stands in parts, none of them here: its gradient is elsewhere
        if parameter is not None and any(raw.grad is not None or raw.numel() == 0 for raw in parameter.parameters()):
            parameter.before_step()


def held_by(optimizer: Optimizer) -> list["weakref.ref[ComputedParameter]"]:
    """The computed parameters with a raw in one of the optimizer's groups."""
    key = (living.changes, sum(len(group["params"]) for group in optimizer.param_groups))
    known = _known.get(optimizer)
    if known is None or known[0] != key:
        held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        found = [weakref.ref(p) for p in living.all() if any(id(tensor) in held for tensor in _tensors(p))]
        known = (key, found)
        _known[optimizer] = known
    return known[1]


def _tensors(parameter: ComputedParameter) -> list[Tensor]:
    """Its raws, and the parameters of its constraints; `parameters()` would project what waits to be.

    Wrappers may have taken raws away: FullyShardedDataParallel does, without ``use_orig_params=True``.
    """
    raws = [slot.owner[slot.key] for _, _, slot, _ in parameter.raw_slots() if slot.key in slot.owner]
    return [*raws, *parameter.constraints.parameters()]


register_optimizer_step_pre_hook(before_step)
