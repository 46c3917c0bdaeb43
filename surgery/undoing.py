"""Taking back the last change of a model: every bit and object of the sites that it touched."""

from dataclasses import dataclass

from torch import nn

from computed.uncollected import uncollected
from surgery.errors import UndoError
from surgery.history import drop, latest
from surgery.restoring import Record
from surgery.wrapping import undo_refusals, warn_of_reduction


@dataclass(frozen=True, eq=False)
class Undo:
    """What `Plan.apply` returns: calling it takes the change back, as `surgery.undo(model)` does.

    ``sites`` is the number of places that were changed.
    """

    model: nn.Module
    record: Record
    sites: int

    def __call__(self) -> nn.Module:
        """Take the change back; it must be the last one."""
        found = latest(self.model)
        if found is None or found[1] is not self.record:
            raise UndoError(
                f"this change of the {type(self.model).__name__} is not the last one, or was taken back already; "
                f"surgery.undo(model) takes back the last"
            )
        return undo(self.model)


@uncollected()
def undo(model: nn.Module) -> nn.Module:
    """Take back the last apply on ``model`` or on a module inside it, whichever call made it; returns the model.

    Restores, for the sites that the apply touched and no others: Parameter objects, their bits, storages, ``grad`` and
    ``requires_grad``, the order of parameters and buffers, and hooks. Training of those sites since then is discarded.

    Errors: UndoError where nothing is left to take back, where the change was made on another module, and where the
    model was baked since.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> model = torch.nn.Linear(3, 2)
        >>> before = model.weight
        >>> _ = apply_constraints(model, {"weight": "spectral"})
        >>> undo(model).weight is before
        True
    """
    found = latest(model)
    if found is None:
        raise UndoError(
            f"nothing to undo on this {type(model).__name__}: no apply is left to take back here (copies and loaded "
            f"models have none, keep_undo=False keeps none; an apply is undone on the module it was called with)"
        )
    owner, record = found
    disturbed = record.disturbed()
    if disturbed is not None:
        raise UndoError(
            f"{disturbed} no longer holds what the last apply left there (it was baked or replaced since), so that "
            f"apply cannot be taken back; load the weights you want to have back"
        )
    taken = [parameter for _, parameter in record.made]
    sharded = undo_refusals(taken)
    if sharded:
        raise UndoError(
            f"{sharded[0]}: is sharded, and what stood there before is whole, so that its gradients would not be "
            f"reduced; undo before fully_shard(model)"
        )
    warn_of_reduction(model, taken, "undone")
    record.restore()
    drop(owner, record)
    return model
