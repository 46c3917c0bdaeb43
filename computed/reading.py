"""Reading a computed parameter: its value is held where that is true, and evaluated otherwise."""

from typing import Any

import torch
from torch import Tensor

from computed.epoch import CELL as EPOCH
from computed.errors import ComputedParameterError
from computed.evaluating_once import evaluates_once, note, noted
from computed.evaluation import evaluate_traced
from computed.held import Held
from computed.hold import flag_as_parameter, try_hold
from computed.lending import Unwritable, lend
from computed.modes import as_in_eval
from computed.once import record, recorded
from computed.settling import LOCK
from computed.team import disband, mates, try_together
from computed.torch_private import (
    address_of,
    dispatch_modes,
    fx_tracing,
    inside_transform,
    is_fx_tracing,
    is_jit_tracing,
)
from computed.writing import Writing

# bound once, for the cost of a read
grad_enabled = torch.is_grad_enabled
is_dynamo_compiling = torch.compiler.is_dynamo_compiling


class Reading(Writing):
    """The value for operations, for those who only look, and for a bake.

    ``handed_on`` is set in a graph that hands it on to layers alone (`surgery.graph.handing_on`).
    """

    handed_on: bool = False

    def value(self) -> Tensor:
        """The value now: held where that is true, evaluated otherwise.

        `Held.usable`, written out. A read in the midst of a model's work finds nothing in the processor's caches: what
        counts is how many functions and objects it comes by, and a call more is a twentieth of it.
        """
        if is_dynamo_compiling():
            return evaluate_for_dynamo(self)
        held = self._holds[self.training]
        if (
            held is not None
            and (held.epoch == EPOCH[0] or held.settings_unchanged())
            and address_of(held.plain) == held.address
            # nobody records what is done here; a transform has raws of its own, which are not those that are watched
            and not (dispatch_modes() or fx_tracing() or is_jit_tracing())
        ):
            for owner, key, tensor, address in held.watched:
                if owner.get(key) is not tensor or address_of(tensor) != address:
                    break
            else:
                value = held.in_graph() if grad_enabled() else held.plain
                if value is not None:
                    if held.states is not None:
                        self._claim(held)
                    return value
        if torch.compiler.is_compiling():
            return evaluate_once_in_graph(self)
        if is_fx_tracing():
            traced: Tensor = self()
            return traced
        return self._traced_value() if is_jit_tracing() else self._evaluated_value()

    def forward(self) -> Any:
        """The value; a graph records this call. Where it is ``handed_on``, its layers ask how they are done."""
        if is_dynamo_compiling():
            return evaluate_for_dynamo(self)
        if torch.compiler.is_compiling():
            return evaluate_once_in_graph(self)
        if self.handed_on and self.ruled and self.training and not inside_transform():
            return self
        return self._traced_value() if is_jit_tracing() else self._evaluated_value()

    def _traced_value(self) -> Tensor:
        """The value for `torch.jit.trace`, which records operations and can save no derivative of ours."""
        with LOCK:
            self.absorb()
        return evaluate_in_graph(self)

    def _evaluated_value(self) -> Tensor:
        with LOCK:
            self.absorb()
            if inside_transform() or self.waits():
                return self.evaluated(training=self.training)
            held = self._holds[self.training]
            if held is None or not held.usable():
                self.take_over_data()
                self._commit_if_moved()
                self._holds[self.training] = held = self._hold_with_mates(
                    with_graph=self.training or torch.is_grad_enabled()
                )
                if held is None:
                    return self._evaluated_unheld()
            if held.states is not None:
                self._claim(held)
            return held.outer if torch.is_grad_enabled() else held.plain

    def _claim(self, held: Held) -> None:
        """Keep the state of a value that is read for the first time: a mate may have evaluated it."""
        with LOCK:
            states, held.states = held.states, None
            self._keep_state(states or (), held)

    def _hold_with_mates(self, *, with_graph: bool) -> Held | None:
        """A hold of this one, in train mode with those of its team that wait for theirs."""
        others = mates(self) if self.training and self._team else []
        found = try_together((self, *others), with_graph=with_graph) if others else None
        if found is None:
            if others:
                disband((self, *others))
            others = []
            found = try_hold((self,), training=self.training, with_graph=with_graph)
        if found is None:
            return None
        for mate, held in zip(others, found[1:], strict=True):
            mate._holds[True] = held
        return found[0]

    def was_read_in_training(self) -> bool:
        """Whether somebody has read the value that is held for train mode."""
        held = self._holds[True]
        return held is not None and held.states is None

    def waits_for_step_value(self) -> bool:
        """Whether its next value in train mode may be evaluated by a mate: nothing is held, written or pending."""
        fields = self.__dict__
        return (
            self.training
            and fields["_holds"][True] is None
            and fields["_factors"] is None
            and fields["_written"] is None
            and fields["_lent"] is None
            and fields["_pending_state"] is None
            and not self._awaits_data
        )

    def _evaluated_unheld(self) -> Tensor:
        lent = self._still_lent()
        if lent is not None and not torch.is_grad_enabled():
            return lent
        value, states = self._evaluate(training=self.training)
        self._keep_state(states, None)
        if value.requires_grad:
            guarded: Tensor = Unwritable.apply(value)  # type: ignore[no-untyped-call]
            return guarded
        value = value.detach()
        flag_as_parameter(value, self.raw_tensors())
        self.__dict__["_lent"] = lend(self, value) if self.owns_raws() else None
        return value

    def peek(self) -> Tensor:
        """The value without gradients, read by what only looks: no state becomes pending and none is committed."""
        with LOCK, torch.no_grad():
            self.absorb()
            held = self._holds[self.training]
            if held is not None and held.usable():
                return held.plain.detach()
            return self.evaluated(training=self.training)

    def baked_value(self) -> Tensor:
        """The value that eval uses, from whichever mode; a tensor of its own."""
        with LOCK, torch.no_grad():
            self.absorb()
            held = self._holds[False]
            if held is not None and held.usable():
                return held.plain.detach().clone()
            with as_in_eval(self.modules()):
                return self.evaluated(training=False).detach().clone()


def evaluate_for_dynamo(parameter: Reading) -> Tensor:
    """The value as a part of what Dynamo compiles; once in a block of `evaluate_once`."""
    if not evaluates_once() or parameter._draws():
        return evaluate_in_graph(parameter)
    known = noted(id(parameter), training=parameter.training)
    if known is not None:
        return known
    value = evaluate_in_graph(parameter)
    note(id(parameter), value, training=parameter.training)
    return value


def evaluate_once_in_graph(parameter: Reading) -> Tensor:
    """The value as a part of a graph that is traced by running the model: evaluated at the first read.

    A random one is a sample of its own at each.
    """
    if parameter._draws():
        return evaluate_in_graph(parameter)
    raws = tuple(parameter.raw_tensors())
    known = recorded(id(parameter), raws, training=parameter.training)
    if known is not None:
        return known
    value = evaluate_in_graph(parameter)
    record(id(parameter), raws, value, training=parameter.training)
    return value


def evaluate_in_graph(parameter: Reading) -> Tensor:
    """The value as a part of the graph that is compiled or exported."""
    if parameter._written is not None:
        raise ComputedParameterError(
            "a value was written to a computed parameter and not read since, and a graph cannot project it; "
            "read it once before, or call computed.invalidate(model), which does"
        )
    device = parameter.device.type
    with torch.autocast(device if device != "meta" else "cpu", enabled=False):
        return evaluate_traced(parameter.links, parameter.raw_tensors(), parameter.dtype)
