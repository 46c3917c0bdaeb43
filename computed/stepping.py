"""What happens before a torch optimizer steps: writes are projected, pending state is committed, snapshots let go.

A public global hook of torch, so it sees every torch optimizer, compiled steps too. The computed parameters that an
optimizer holds are found once and kept, until its groups or the set of computed parameters change.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from computed.epoch import CELL as EPOCH
from computed.errors import ComputedParameterError
from computed.living import living
from computed.parameter import ComputedParameter
from computed.settling import LOCK
from computed.team import form_teams
from computed.torch_private import foreach_copy_, outside_compilation

Key = tuple[int, int]
Slots = tuple[tuple[dict[str, Any], str], ...]
Moved = tuple["weakref.ref[ComputedParameter]", Slots]
# for which computed parameters, and at which settings, teams were formed before the last step
_formed: "weakref.WeakKeyDictionary[Optimizer, list[int]]" = weakref.WeakKeyDictionary()
_known: "weakref.WeakKeyDictionary[Optimizer, tuple[Key, list[Moved]]]" = weakref.WeakKeyDictionary()


@outside_compilation
def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tell every computed parameter whose raws the optimizer is about to move."""
    moved = [
        parameter
        for reference, slots in held_by(optimizer)
        if (parameter := reference()) is not None and _is_moved(parameter, slots)
    ]
    with LOCK:
        evaluated = [parameter for parameter in moved if parameter.was_read_in_training()]
        buffers: list[Tensor] = []
        new: list[Tensor] = []
        for parameter in moved:
            parameter.before_step(buffers, new)
        if buffers:
            with torch.no_grad():
                foreach_copy_(buffers, new)
        formed = [EPOCH[0], *map(id, evaluated)]
        if _formed.get(optimizer) != formed:
            form_teams(evaluated)
            _formed[optimizer] = formed


def _is_moved(parameter: ComputedParameter, slots: Slots) -> bool:
    """Whether some of its raws has a gradient; one without numbers stands in parts, whose gradient is elsewhere."""
    if Tensor in map(type, parameter._parameters.values()):
        raise ComputedParameterError(
            f"{parameter.called()}: a plain tensor stands in the place of a raw that an optimizer holds; "
            f"torch.func.functional_call leaves it there where the weight is tied: pass tie_weights=False"
        )
    for owner, key in slots:
        raw = owner.get(key)
        if raw is not None and (raw.grad is not None or raw.numel() == 0):
            return True
    return False


def held_by(optimizer: Optimizer) -> list[Moved]:
    """The computed parameters with a raw in one of the optimizer's groups, and where their tensors are registered."""
    key = (living.changes, sum([len(group["params"]) for group in optimizer.param_groups]))
    known = _known.get(optimizer)
    if known is None or known[0] != key:
        held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        found = [(weakref.ref(parameter), _slots(parameter)) for parameter in living.all()]
        known = (key, [moved for moved in found if any(id(owner.get(key)) in held for owner, key in moved[1])])
        _known[optimizer] = known
    return known[1]


def _slots(parameter: ComputedParameter) -> Slots:
    """Where its raws and the parameters of its constraints are registered.

    Wrappers may have taken raws away: FullyShardedDataParallel does, without ``use_orig_params=True``.
    """
    below = [module._parameters for module in parameter.constraints.modules()]
    raws = [(slot.owner, slot.key) for _, _, slot, _ in parameter.raw_slots()]
    return (*raws, *[(owner, name) for owner in below for name in owner])


register_optimizer_step_pre_hook(before_step)
