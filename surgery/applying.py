"""Carrying out a plan: all of it, or nothing."""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from computed.parameter import ComputedParameter
from computed.placement import place
from computed.preparing import assemble
from computed.torch_private import rebuild_flat_weights
from computed.uncollected import uncollected
from surgery.declared_ties import redeclare
from surgery.history import forget, next_number, remember
from surgery.optimizers import Exchange, Following, standing
from surgery.progress import tracked
from surgery.proposal import Action, PlannedSite
from surgery.restoring import Record
from surgery.staleness import replacements
from surgery.storing import stays_trained


@uncollected()
def carry_out(
    model: nn.Module, rows: Iterable[PlannedSite], optimizers: Sequence[Optimizer] = (), *, keep_undo: bool = False
) -> Record:
    """Change ``model`` as ``rows`` say; where one of them fails, everything is put back and the error goes on.

    The ``optimizers`` follow; with ``keep_undo`` the model remembers the change.
    """
    record = Record(next_number())
    todo = [row for row in rows if row.changes]
    record.also.append(partial(redeclare, model))
    exchanges: list[Exchange] = []
    try:
        # raws made in inference mode could never be trained
        with torch.inference_mode(mode=False):
            for row in tracked(todo, "applying", len(todo)):
                record.note(row.found, freezes=row.action is Action.FREEZE)
                exchanges += _change(row, record)
        _followed(exchanges, optimizers, record)
        redeclare(model)
        if keep_undo:
            remember(model, record)  # the last step: from here on it can be taken back
        return record
    except BaseException:
        record.restore()
        forget(model, record)
        raise


def _followed(exchanges: Sequence[Exchange], optimizers: Sequence[Optimizer], record: Record) -> None:
    """Let optimizers follow, and note what those that were not given would train in vain."""
    for optimizer in optimizers:
        following = Following(optimizer)
        record.also.append(following.go_back)
        following.follow(exchanges)
    replacements.note(exchanges)
    record.also.append(partial(replacements.note, [exchange.reversed() for exchange in exchanges]))


def _change(row: PlannedSite, record: Record) -> list[Exchange]:
    if row.action is Action.FREEZE:
        _freeze(row)
        return []
    old = standing(row.name, row.subject)
    made = _assembled(row)
    for slot in row.found.slots:
        place(slot.host, slot.attribute, made)
        record.made.append((slot, made))
        rebuild_flat_weights(slot.host)
    set_mode(made, training=row.found.slots[0].host.training)
    stays = old if row.copies else {}  # with another part of a tie that is split
    return [Exchange(row.name, old, stays | standing(row.name, made), split=row.copies)]


def _assembled(row: PlannedSite) -> ComputedParameter:
    assert row.prepared is not None
    subject = row.subject
    if isinstance(subject, Tensor):
        if row.copies and isinstance(subject, nn.Parameter):
            subject = nn.Parameter(subject.detach().clone(), requires_grad=row.site.requires_grad)
        made = assemble(subject, row.prepared)
        made.__dict__["persistent"] = _persistent(row)
        return made
    value = torch.empty(subject.shape, dtype=subject.dtype, device=subject.device)
    like = nn.Parameter(value, requires_grad=stays_trained(subject))
    made = assemble(like, row.prepared, subject.raws)
    made.__dict__.update(buffer=subject.buffer, trainable=subject.trainable, persistent=subject.persistent)
    return made


def _persistent(row: PlannedSite) -> bool:
    slot = row.found.slots[0]
    return slot.attribute not in slot.host._non_persistent_buffers_set


def _freeze(row: PlannedSite) -> None:
    subject = row.subject
    if isinstance(subject, ComputedParameter):
        subject.requires_grad = False
    else:
        subject.requires_grad = False  # not requires_grad_, which a parameter without a shape refuses


def set_mode(parameter: ComputedParameter, *, training: bool) -> None:
    """Set the mode without settling: the state that a right inverse gives is converged already."""
    # not parameter.modules(), a walk that projects what waits to be
    for module in (parameter, *parameter.constraints.modules()):
        module.training = training
