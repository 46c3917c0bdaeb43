"""Reading a computed parameter: its value is held where that is true, and evaluated otherwise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from computed.constraint import Constraint
from computed.epoch import CELL as EPOCH
from computed.errors import ComputedParameterError
from computed.evaluating_once import evaluates_once, note, noted
from computed.evaluation import evaluate_traced, last_arguments, last_arguments_traced
from computed.hold import flag_as_parameter, try_hold
from computed.lending import Unwritable, lend
from computed.modes import as_in_eval
from computed.once import record, recorded
from computed.settling import LOCK
from computed.tensorlike import resolved
from computed.torch_private import address_of, inside_transform, is_fx_tracing, is_jit_tracing
from computed.writing import Writing

# bound once, for the cost of a read
grad_enabled = torch.is_grad_enabled
is_dynamo_compiling = torch.compiler.is_dynamo_compiling


class Reading(Writing):
    """The value for operations, for those who only look, for a bake, and for an op rule."""

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
        ):
            for owner, key, tensor, address in held.watched:
                if owner.get(key) is not tensor or address_of(tensor) != address:
                    break
            else:
                value = held.in_graph() if grad_enabled() else held.plain
                if value is not None and not inside_transform():
                    return value
        if torch.compiler.is_compiling():
            return evaluate_once_in_graph(self)
        if is_fx_tracing():
            traced: Tensor = self()
            return traced
        return self._traced_value() if is_jit_tracing() else self._evaluated_value()

    def forward(self) -> Tensor:
        """The value; a graph records this call."""
        if is_dynamo_compiling():
            return evaluate_for_dynamo(self)
        if torch.compiler.is_compiling():
            return evaluate_once_in_graph(self)
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
                with_graph = self.training or torch.is_grad_enabled()
                hold = try_hold((self,), training=self.training, with_graph=with_graph)
                self._holds[self.training] = held = None if hold is None else hold.values[0]
                if hold is None or held is None:
                    return self._evaluated_unheld()
                self._keep_state(hold.states[0], held)
            return held.outer if torch.is_grad_enabled() else held.plain

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
            with as_in_eval(self.modules()):
                return self.evaluated(training=False).detach().clone()

    def rule(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do ``func`` by the last constraint's op rule, where this stands as its weight and the rule is in force."""
        last = self.links[-1].module
        assert isinstance(last, Constraint)
        in_force = self.training or last.factored_in_eval or torch.compiler.is_compiling()
        as_weight = (len(args) > 1 and args[1] is self) or kwargs.get("weight") is self
        op_rule = last.op_rule(func) if in_force and as_weight else None
        if op_rule is None or is_fx_tracing():
            return NotImplemented
        raws = self._last_arguments()
        new_args = [raws if argument is self else resolved(argument) for argument in args]
        new_kwargs = {key: raws if argument is self else resolved(argument) for key, argument in kwargs.items()}
        return op_rule(*new_args, **new_kwargs)

    def _last_arguments(self) -> tuple[Tensor, ...]:
        """What the op rule of the last link takes; the state of links before it is kept, as that of a value is."""
        if torch.compiler.is_compiling():
            return last_arguments_traced(self.links, self.raw_tensors())
        with LOCK:
            self.absorb()
            self._commit_if_moved()
            arguments, states = last_arguments(self.links, self.raw_tensors(), training=self.training)
            self._keep_state(states, None)
            return arguments


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
