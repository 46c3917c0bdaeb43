"""ComputedParameter: the Module that stands where a Parameter stood and is used as a tensor."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from computed.chain import GeneratorLink, Link, State, link_for
from computed.constraint import Constraint, IteratedConstraint
from computed.errors import ComputedParameterError
from computed.evaluation import (
    evaluate,
    evaluate_traced,
    full_precision,
    has_state,
    invert,
    last_arguments,
    own_roles,
)
from computed.hold import Hold, try_hold
from computed.living import living
from computed.tensorlike import TensorLike
from computed.torch_private import address_of, inside_transform, is_fx_tracing
from computed.watching import Slot, same_bits

# One lock for all: an evaluation may read other computed parameters, and two locks could wait for each other.
LOCK = threading.RLock()

# transformers sets this on every child module, then reads it from the tensor and skips the tensor's initialisation.
MODULE_MARKS = frozenset(("_is_hf_initialized",))

TRANSIENT = ("_holds", "_pending_state", "_written")


class PendingState(NamedTuple):
    """The state of a train-mode evaluation that no step has committed yet, and what shows that its raws moved."""

    states: list[State]
    hold: Hold | None


class Written(NamedTuple):
    """A value that was written and not projected yet; ``before`` is None where it must be projected in any case."""

    value: Tensor
    before: Tensor | None


class ComputedParameter(TensorLike, nn.Module):
    """A parameter that is computed: ``value = c_n(... c_1(*raws))``.

    A Module that is registered under the name of the Parameter it replaces and used as a tensor wherever that was. It
    has the shape, dtype and device of the Parameter; its raws are ordinary Parameters.

    ``ComputedParameter(module)`` takes any Module whose ``forward()`` needs no inputs and returns a tensor;
    `from_value` starts from a tensor and a constraint.

    Errors: a write with gradients on raises as a leaf does; names in `computed.tensorlike.REFUSED` raise
    ComputedParameterError.

    Reference: Thomas Viehmann, "Computed Parameters", lernapparat.de/computed-parameters, 2020.

    Example:
        >>> import torch
        >>> weight = ComputedParameter.from_value(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), "symmetric")
        >>> weight
        ComputedParameter(Symmetric(), shape=(2, 2), raw=float32[2, 2])
        >>> (weight @ torch.tensor([1.0, 0.0])).tolist()
        [3.0, 0.5]
    """

    links: tuple[Link, ...]

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        with torch.no_grad():
            value = module()
        if not isinstance(value, Tensor):
            raise ComputedParameterError(
                f"ComputedParameter(module): {type(module).__name__}.forward() returned {type(value).__name__}, "
                f"expected a tensor; for a constraint of a given tensor use ComputedParameter.from_value(tensor, spec)"
            )
        self._set_up_frame([module], (GeneratorLink(module),), value, name="")
        self._reset()

    @classmethod
    def from_value(cls, value: Tensor, spec: object) -> "ComputedParameter":
        """A computed parameter whose value is ``value``, or the admissible value nearest to it.

        Args:
            value: a float tensor of any shape the constraint takes. A Parameter becomes the raw itself where the
                constraint has one raw of the same shape, and passes on ``requires_grad``; a plain tensor is copied.
            spec: a name, a spec string, a chain ``"a | b"``, a constraint class or module, a torch parametrization,
                a `torch.distributions` Transform, `computed.function(f)`, or a function of a Site.

        Errors:
            ConstraintRefusedError: the constraint cannot take a tensor of this shape or dtype.

        Example:
            >>> import torch
            >>> w = ComputedParameter.from_value(torch.eye(2), "spectral(bound=0.5)")
            >>> w.tolist()
            [[0.5, 0.0], [0.0, 0.5]]
        """
        from computed.preparing import parameter_from_value  # noqa: PLC0415 - preparing builds on this class

        return parameter_from_value(value, spec)

    def _set_up_frame(self, modules: Sequence[nn.Module], links: Sequence[Link], like: Tensor, *, name: str) -> None:
        """Make the empty frame: constraints, links and metadata; raws are registered by the caller."""
        fields = self.__dict__
        fields["_shape"] = torch.Size(like.shape)
        fields["_dtype"] = like.dtype
        fields["_name"] = name
        fields["links"] = tuple(links)
        fields["ruled"] = overrides_op_rule(links[-1])
        fields["caching"] = True
        # a stock FX tracer keeps modules of torch.nn as leaves: https://pytorch.org/docs/stable/fx.html#torch.fx.Tracer
        fields["__module__"] = "torch.nn.computed_parameter"
        self.constraints = nn.ModuleList(modules)
        fields["_holds"] = [None, None]
        fields["_pending_state"] = None
        fields["_written"] = None
        self.register_load_state_dict_post_hook(after_load)
        living.add(self)

    def _reset(self) -> None:
        """Forget holds and whatever was pending; the registered raws are the ones to watch."""
        fields = self.__dict__
        fields["_holds"] = [None, None]
        fields["_pending_state"] = None
        fields["_written"] = None
        registered = tuple(id(slot.owner[slot.key]) for slot in self.raw_slots())
        if registered != fields.get("_registered"):
            fields["_registered"] = registered
            living.changed()

    # ---- what it is made of -------------------------------------------------------------------------------------

    def raw_slots(self) -> tuple[Slot, ...]:
        """Where the raws are registered, in the order of the chain."""
        slots = []
        for position, (link, module) in enumerate(zip(self.links, self.constraints, strict=True)):
            owner = self._parameters if position == 0 else module._parameters
            names = [role.name for role in link.roles]
            slots += [Slot(owner, name) for name in names[len(names) - own_roles(link, position) :]]
        return tuple(slots)

    @property
    def raws(self) -> dict[str, nn.Parameter]:
        """The raws by role; those of later constraints as ``constraints.<i>.<role>``."""
        self.absorb()
        found: dict[str, nn.Parameter] = {}
        for position, link in enumerate(self.links):
            prefix = f"constraints.{position}." if position else ""
            names = [role.name for role in link.roles][1 if position else 0 :]
            owner = self.constraints[position]._parameters if position else self._parameters
            found.update({prefix + name: owner[name] for name in names})  # type: ignore[misc]
        return found

    @property
    def trained_raws(self) -> tuple[nn.Parameter, ...]:
        """The raws of trained roles, and the parameters of foreign modules."""
        trained: list[nn.Parameter] = []
        slots = iter(self.raw_slots())
        for position, link in enumerate(self.links):
            for role in link.roles[1 if position else 0 :]:
                slot = next(slots)
                if role.trained:
                    trained.append(slot.owner[slot.key])
            if not isinstance(link.module, Constraint):
                trained += link.module.parameters()
        return tuple(trained)

    @property
    def spec(self) -> str:
        """The chain as a spec string."""
        return " | ".join(
            module.spec() if isinstance(module, Constraint) else type(module).__name__ for module in self.constraints
        )

    def may_hold(self) -> bool:
        """Whether its raws are the very Parameters that were registered here; those of others may be resized away."""
        slots = self.raw_slots()
        return self.caching and all(
            id(slot.owner[slot.key]) == known
            and type(slot.owner[slot.key]) is nn.Parameter
            and not slot.owner[slot.key].is_inference()
            and slot.owner[slot.key].device.type != "meta"
            for slot, known in zip(slots, self._registered, strict=True)
        )

    # ---- reading ------------------------------------------------------------------------------------------------

    def value(self) -> Tensor:
        """The value now: held where that is true, evaluated otherwise."""
        if torch.compiler.is_compiling():
            return evaluate_in_graph(self)
        if is_fx_tracing():
            traced: Tensor = self()
            return traced
        return self._held_value()

    def forward(self) -> Tensor:
        """The value; a graph records this call."""
        return evaluate_in_graph(self) if torch.compiler.is_compiling() else self._held_value()

    def _held_value(self) -> Tensor:
        hold = self._holds[self.training]
        if hold is None or self._written is not None or inside_transform() or not self._usable(hold):
            return self._evaluated_value()
        return hold.outer[0] if torch.is_grad_enabled() else hold.plain[0]  # type: ignore[no-any-return]

    def _usable(self, hold: Hold) -> bool:
        return (
            (hold.with_graph or not torch.is_grad_enabled())
            and address_of(hold.plain[0]) == hold.address[0]  # type: ignore[misc]
            and hold.fresh()
        )

    def _evaluated_value(self) -> Tensor:
        with LOCK:
            if inside_transform():
                return self.evaluated(training=self.training)
            self.absorb()
            hold = self._holds[self.training]
            if hold is None or not self._usable(hold):
                self._commit_if_moved()
                with_graph = self.training or torch.is_grad_enabled()
                hold = try_hold((self,), training=self.training, with_graph=with_graph)
                self._holds[self.training] = hold
                if hold is None:
                    return self._evaluated_unheld()
                self._keep_state(hold.states[0], hold)
            return hold.outer[0] if torch.is_grad_enabled() else hold.plain[0]

    def _evaluated_unheld(self) -> Tensor:
        value, states = self._evaluate(training=self.training)
        self._keep_state(states, None)
        return value

    def evaluated(self, *, training: bool) -> Tensor:
        """A value evaluated just now, in the given mode; writes nothing and holds nothing."""
        return self._evaluate(training=training)[0]

    def _evaluate(self, *, training: bool) -> tuple[Tensor, list[State]]:
        with full_precision(self.device):
            return evaluate(self.links, self._raw_tensors(), self.dtype, training=training)

    def _raw_tensors(self) -> list[Tensor]:
        return [slot.owner[slot.key] for slot in self.raw_slots()]

    def peek(self) -> Tensor:
        """The value without gradients, read by what only looks: no state becomes pending and none is committed."""
        with LOCK, torch.no_grad():
            self.absorb()
            hold = self._holds[self.training]
            if hold is not None and self._usable(hold):
                return hold.plain[0]
            return self.evaluated(training=self.training)

    def baked_value(self) -> Tensor:
        """The value that eval uses, from whichever mode; a tensor of its own."""
        with LOCK, torch.no_grad():
            self.absorb()
            modes = [(module, module.training) for module in self.modules()]
            try:
                for module, _ in modes:
                    module.training = False
                return self.evaluated(training=False).detach().clone()
            finally:
                for module, mode in modes:
                    module.training = mode

    def rule(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do ``func`` by the last constraint's op rule, where this stands as its weight and the rule is in force."""
        last = self.links[-1].module
        assert isinstance(last, Constraint)
        in_force = self.training or last.factored_in_eval or torch.compiler.is_compiling()
        as_weight = (len(args) > 1 and args[1] is self) or kwargs.get("weight") is self
        op_rule = last.op_rule(func) if in_force and as_weight else None
        if op_rule is None or is_fx_tracing():
            return NotImplemented
        if not torch.compiler.is_compiling():
            self.absorb()
        raws = last_arguments(self.links, self._raw_tensors(), training=self.training)
        new_args = [raws if argument is self else _value_of(argument) for argument in args]
        new_kwargs = {key: raws if argument is self else _value_of(argument) for key, argument in kwargs.items()}
        return op_rule(*new_args, **new_kwargs)

    # ---- state: pending, committed, settled ---------------------------------------------------------------------

    def _keep_state(self, states: list[State], hold: Hold | None) -> None:
        if not any(states):
            return
        if self.training:
            self.__dict__["_pending_state"] = PendingState(states, hold)
            return
        for link, state in zip(self.links, states, strict=True):
            if isinstance(link.module, IteratedConstraint):
                link.module.settle(state)

    def _commit_if_moved(self) -> None:
        pending = self._pending_state
        if pending is not None and pending.hold is not None and pending.hold.moved():
            self.commit()

    def commit(self) -> None:
        """Commit the state that is pending: the raws are about to move, or have."""
        pending = self._pending_state
        self.__dict__["_pending_state"] = None
        if pending is not None:
            for link, state in zip(self.links, pending.states, strict=True):
                link.commit(state)
            return
        for link in self.links:
            if isinstance(link.module, IteratedConstraint) and self.training:
                link.module.commit(link.module.state("pending_"))

    def before_step(self) -> None:
        """An optimizer is about to move the raws: project what was written, commit, let go of the snapshots."""
        with LOCK:
            self.absorb()
            self.commit()
            self.__dict__["_holds"] = [None, None]

    def settle(self) -> None:
        """Bring iterated state to convergence for eval, where there is any."""
        if has_state(self.links) and self.device.type != "meta" and not torch.compiler.is_compiling():
            with LOCK, torch.no_grad():
                if self._holds[False] is None or not self._usable(self._holds[False]):
                    self.absorb()
                    self._keep_settled()

    def _keep_settled(self) -> None:
        _, states = self._evaluate(training=False)
        for link, state in zip(self.links, states, strict=True):
            if isinstance(link.module, IteratedConstraint):
                link.module.settle(state)

    def forget(self) -> None:
        """Let go of what is held; the next read evaluates."""
        with LOCK:
            self.absorb()
            self._commit_if_moved()
            self.__dict__["_holds"] = [None, None]

    # ---- writing ------------------------------------------------------------------------------------------------

    def write_target(self, operation: str) -> Tensor:
        """The value's own tensor, watched: what is written to it is projected at the next access."""
        if torch.compiler.is_compiling():
            raise ComputedParameterError(f"{self._called()}: {operation} cannot be compiled; write outside of it")
        if torch.is_grad_enabled() and self.requires_grad:
            raise RuntimeError(
                f"{self._called()}: a leaf Variable that requires grad is being used in an in-place operation "
                f"({operation}); write under torch.no_grad()"
            )
        with torch.no_grad():
            value = self.value()
            if self._holds[self.training] is None and self._written is None:
                own = value.detach().clone()
                self.__dict__["_written"] = Written(own, own.clone())
        return self._written.value if self._written is not None else value

    def absorb(self) -> None:
        """Project what was written to the value since it was evaluated, once."""
        if self._written is None and self._holds[0] is None and self._holds[1] is None:
            return
        with LOCK:
            written, self.__dict__["_written"] = self._written, None
            if written is not None and (written.before is None or not same_bits(written.value, written.before)):
                self.assign(written.value)
                return
            for hold in self._holds:
                if hold is not None and not hold.untouched(0):
                    self.assign(hold.plain[0])
                    return

    def write_later(self, value: Tensor) -> None:
        """Make ``value`` the value; it is projected at the next access, unless a load or another write comes first."""
        self.__dict__["_written"] = Written(value, None)

    def assign(self, value: Tensor) -> None:
        """Make ``value``, or the admissible value nearest to it, the value now.

        Errors: ValueError where the shape differs; what the right inverse raises. Nothing is half written.
        """
        if value.shape != self.shape:
            raise ValueError(f"{self._called()}: cannot write a value of shape {tuple(value.shape)}")
        preimages = invert(self.links, value)
        found = [raw for i, preimage in enumerate(preimages) for raw in preimage.raws[1 if i else 0 :]]
        with torch.no_grad(), full_precision(self.device):
            for slot, new in zip(self.raw_slots(), found, strict=True):
                slot.owner[slot.key].copy_(new)
            for link, preimage in zip(self.links, preimages, strict=True):
                if isinstance(link.module, IteratedConstraint):
                    link.module.commit(preimage.state)
                    link.module.settle(preimage.state)
        self._reset()

    # ---- what is known without the value ------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """The shape of the value."""
        return self._shape  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the value: that of the first raw."""
        first = self._first()
        return self._dtype if first is None else first.dtype  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """The device of the first raw."""
        first = self._first()
        return torch.device("cpu") if first is None else first.device

    def _first(self) -> Tensor | None:
        return next(iter(self.parameters()), None)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of entries."""
        return self.shape.numel()

    def nelement(self) -> int:
        """The number of entries."""
        return self.shape.numel()

    def ndimension(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether the value's dtype is a float."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the value's dtype is complex."""
        return self.dtype.is_complex

    @property
    def is_cuda(self) -> bool:
        """Whether the raws are on a CUDA device."""
        return self.device.type == "cuda"

    @property
    def is_cpu(self) -> bool:
        """Whether the raws are in main memory."""
        return self.device.type == "cpu"

    @property
    def is_meta(self) -> bool:
        """Whether the raws have no data yet."""
        return self.device.type == "meta"

    @property
    def is_leaf(self) -> bool:
        """Whether no gradient flows to raws."""
        return not self.requires_grad

    @property
    def requires_grad(self) -> bool:
        """Whether some raw that is trained requires a gradient; setting it reaches the trained raws only."""
        return any(raw.requires_grad for raw in self.trained_raws)

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        for raw in self.trained_raws:
            raw.requires_grad_(wanted)

    def requires_grad_(self, requires_grad: bool = True) -> "ComputedParameter":  # noqa: FBT001, FBT002 - torch's signature
        """Set ``requires_grad`` of the trained raws."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> None:
        """None: gradients accumulate in the raws."""
        return

    @grad.setter
    def grad(self, new: Tensor | None) -> None:
        if new is not None:
            raise ComputedParameterError(f"{self._called()}: gradients accumulate in the raws; set those of w.raws")

    @property
    def data(self) -> Tensor:
        """The value without gradients; what is written to it is projected at the next access."""
        with torch.no_grad():
            return self.write_target("data")

    @data.setter
    def data(self, new: Tensor) -> None:
        if new.shape != self.shape:
            raise ValueError(
                f"{self._called()}: cannot set data of shape {tuple(new.shape)}; the shape of a constrained weight is fixed"
            )
        self.absorb()
        self.write_later(new.detach().to(device=self.device, dtype=self.dtype))

    # ---- the Module ---------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "ComputedParameter":  # noqa: FBT001, FBT002 - torch's signature
        """Switch the mode; iterated state is brought to convergence for eval."""
        if mode is not self.training:
            self.absorb()
        super().train(mode)
        if not mode:
            self.settle()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "ComputedParameter":  # noqa: FBT001, FBT002 - torch's signature
        self.absorb()
        super()._apply(fn, recurse)
        self._reset()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: FBT001 - torch's signature
        self.absorb()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if any(key.startswith(prefix) for key in state_dict):
            self._reset()
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles carry: everything but holds, which belong to this very object."""
        self.absorb()
        return {key: value for key, value in self.__dict__.items() if key not in TRANSIENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a copied or unpickled state."""
        import computed.placement  # noqa: F401, PLC0415 - a process that only unpickles needs the hooks as well

        super().__setstate__(state)
        self._reset()
        living.add(self)

    def __getattr__(self, name: str) -> Any:
        """Registered tensors and modules; marks that belong to tensors are answered by the first raw."""
        if name in MODULE_MARKS:
            first = self._first()
            if first is not None and name in vars(first):
                return vars(first)[name]
        elif name in self.__dict__.get("_parameters", ()):
            self.absorb()
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set as a Module does; marks that a walk over modules leaves are not the tensor's, and are ignored."""
        if name not in MODULE_MARKS:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        """Constraint, shape and raws in one line; ``str`` shows the numbers."""
        chain = " | ".join(repr(module) if isinstance(module, Constraint) else type(module).__name__ for module in self.constraints)
        raws = "".join(f", {name}={_summary(raw)}" for name, raw in self._raws_without_projection())
        return f"ComputedParameter({chain}, shape={tuple(self.shape)}{raws})"

    def _raws_without_projection(self) -> Iterable[tuple[str, Tensor]]:
        return ((slot.key, slot.owner[slot.key]) for slot in self.raw_slots())

    def _called(self) -> str:
        return f"{self._name}: {self!r}" if self._name else repr(self)


def after_load(parameter: nn.Module, incompatible: object) -> None:
    """A state dict has been loaded: what was loaded is watched from now on, and settled where eval uses it."""
    assert isinstance(parameter, ComputedParameter)
    parameter._reset()
    if not parameter.training:
        parameter.settle()


def evaluate_in_graph(parameter: ComputedParameter) -> Tensor:
    """The value as a part of the graph that is compiled or exported."""
    device = parameter.device.type
    raws = parameter._raw_tensors()
    with torch.autocast(device if device != "meta" else "cpu", enabled=False):
        return evaluate_traced(parameter.links, raws, parameter.dtype)


def overrides_op_rule(link: Link) -> bool:
    """Whether the link's constraint has op rules at all."""
    return isinstance(link.module, Constraint) and type(link.module).op_rule is not Constraint.op_rule


def links_for(modules: Sequence[nn.Module]) -> tuple[Link, ...]:
    """The links of a chain of constraints."""
    return tuple(link_for(module) for module in modules)


def _value_of(argument: Any) -> Any:
    return argument.value() if isinstance(argument, ComputedParameter) else argument


def _summary(raw: Tensor) -> str:
    dims = ", ".join(str(size) for size in raw.shape)
    return f"{str(raw.dtype).removeprefix('torch.')}[{dims}]"
