"""The contract of a constraint: raw -> value, a right inverse, a violation measure."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from computed.epoch import advance
from computed.errors import ConstraintDefinitionError
from computed.site import Site

# Weight initialisers such as DCGAN's `weights_init` search class names for these words and would initialise
# the constraint as if it were a layer: https://github.com/pytorch/examples/blob/main/dcgan/main.py
FORBIDDEN_IN_CLASS_NAMES = ("Conv", "Linear", "Norm", "Embedding", "LSTM", "GRU", "Dropout", "Attention")


State = tuple[Tensor, ...]


class Role(NamedTuple):
    """The name of a raw in its constraint, and who trains it.

    ``trained`` raws follow ``requires_grad`` of the parameter they replace; ``added`` ones (adapters) train even
    where that parameter was frozen; a raw that is not trained enters the value detached.
    """

    name: str
    trained: bool = True
    added: bool = False


class Preimage(NamedTuple):
    """What a right inverse gives: one tensor a role, and the initial state in the order of ``state_names``."""

    raws: tuple[Tensor, ...]
    state: tuple[Tensor, ...] = ()


def _check_role(cls: type, role: Role) -> None:
    taken = role.name in dir(nn.Module) or role.name in dir(Tensor) or role.name in ("constraints", "raws")
    if taken or not role.name.isidentifier():
        raise ConstraintDefinitionError(
            f"constraint class {cls.__qualname__!r}: role {role.name!r} is a name of Tensor or Module, and a computed "
            f"parameter answers those; choose another role name"
        )


class Constraint(nn.Module, abc.ABC):
    """A map from raws to a value, with a right inverse.

    A subclass names its ``roles`` and implements ``forward``, ``right_inverse`` and ``violation``:

    * ``forward(self, raw)`` takes one tensor for each role, in order, under the role's name. The first role is the
      *carrier*: where the constraint is a later one of a chain, the running value takes its place.
    * ``right_inverse(value)`` is total: any float tensor of a legal shape gives raws whose value is the nearest
      admissible one where a nearest one is known, and ``value`` itself where it is admissible already.
    * ``violation(value, raws)`` is 0 inside and measures how far outside the value is.

    Evaluation is done in ``promote_types(dtype, float32)`` and cast once to the raw's dtype, so all three see float32
    or float64. The class name may not contain a layer's name, since weight initialisers search class names.

    While ``disabled`` is set on an instance that keeps its weight, the value is that weight (`surgery.disabled`).

    ``found_from_settings`` are the names of fixed roles and of state that ``right_inverse`` finds by the settings: they
    are found anew when `surgery.configure` moves these.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role("raw"),)
    scriptable: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    factored_in_eval: ClassVar[bool] = False
    found_from_settings: ClassVar[tuple[str, ...]] = ()
    disabled: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse class and role names that would be misread elsewhere."""
        super().__init_subclass__(**kwargs)
        words = [word for word in FORBIDDEN_IN_CLASS_NAMES if word in cls.__name__]
        if words:
            raise ConstraintDefinitionError(
                f"constraint class {cls.__qualname__!r}: its name contains {words[0]!r}, which weight initialisers "
                f"search for in class names; choose another name"
            )
        for role in cls.roles:
            _check_role(cls, role)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set as a Module does; holds look at their settings anew (`computed.epoch`)."""
        if not isinstance(value, Tensor | nn.Module):
            advance()
        super().__setattr__(name, value)

    @abc.abstractmethod
    def right_inverse(self, value: Tensor) -> Preimage:
        """Raws and initial state whose value is ``value``, or the admissible value nearest to it."""

    @abc.abstractmethod
    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far ``value`` is outside the set; 0.0 inside. ``raws`` are this constraint's own arguments."""

    def tolerance(self, dtype: torch.dtype) -> float:
        """The largest `violation` that counts as inside, for values stored in ``dtype``."""
        return 16 * float(torch.finfo(dtype).eps)

    def bind(self, site: Site) -> None:
        """Resolve what only the host knows (``dim=None``, groups, stride); called once, on this site's own copy."""

    def why_not(self, site: Site) -> str | None:
        """The reason why this constraint cannot take the parameter at ``site``, or None."""
        return None

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """The shape of each raw for a value of ``shape``, in the order of ``roles``."""
        return tuple(shape for _ in self.roles)

    def scales_up(self, value: Tensor, state: State) -> bool:
        """Whether insertion makes ``value``, whose state is ``state``, larger although it was admissible as a bound.

        Plans mark it.
        """
        return False

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        """How ``op`` (``F.linear``, ``F.conv2d``...) is done without making the value, or None.

        The rule has the signature of ``op`` with the weight replaced by the tuple of this constraint's arguments. It
        acts in train mode and while compiling, in eval too where ``factored_in_eval``.
        """
        return None

    def has_op_rules(self) -> bool:
        """Whether `op_rule` gives one for some operation, as this is set."""
        return type(self).op_rule is not Constraint.op_rule

    def keeps_weight(self) -> bool:
        """Whether its first raw is the weight as it would stand here without this constraint."""
        return False

    def acts_on_inputs(self) -> bool:
        """Whether its op rules do what the value cannot, such as a dropout of inputs; it must be alone in its chain."""
        return False

    def spec(self) -> str:
        """The text form of this constraint, as rules and checkpoints write it."""
        return repr(self)

    def __repr__(self) -> str:
        """One line: class and settings, never the nested tree."""
        return f"{type(self).__name__}({self.extra_repr()})"


class IteratedConstraint(Constraint):
    """A constraint whose value depends on an iterated state, such as a warm power iteration.

    State is kept in three sets of buffers: the committed one (persistent, part of the state dict), the *pending* one
    (computed beside a train-mode value, committed when an optimizer that holds the raw steps) and the *settled* one
    (converged, used in eval). Reading never writes the committed state; `commit` is its only writer.

    ``settles_from`` are the names of the committed state that `settled_state` reads, all where it is None.
    ``state_moves`` is False where the state is found once, at insertion, and no evaluation moves it.
    """

    state_names: ClassVar[tuple[str, ...]] = ()
    state_moves: ClassVar[bool] = True
    settles_from: ClassVar[tuple[str, ...] | None] = None

    @abc.abstractmethod
    def next_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """One step from the committed state; pure."""

    @abc.abstractmethod
    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The converged state, from the committed one as a start; pure."""

    @abc.abstractmethod
    def value_given(self, raw: Tensor, state: Sequence[Tensor]) -> Tensor:
        """The value for a given state, differentiable in ``raw``."""

    @abc.abstractmethod
    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """The shape of each state buffer for a value of ``shape``."""

    def allocate_state(self, shape: torch.Size, like: Tensor) -> None:
        """Register the buffers, on the device of ``like`` and in at least float32."""
        dtype = state_dtype(like.dtype)
        for name, buffer_shape in zip(self.state_names, self.state_shapes(shape), strict=True):
            empty = torch.zeros(buffer_shape, dtype=dtype, device=like.device)
            self.register_buffer(name, empty)
            self.register_buffer(f"pending_{name}", empty.clone(), persistent=False)
            self.register_buffer(f"settled_{name}", empty.clone(), persistent=False)

    def state(self, prefix: str = "") -> tuple[Tensor, ...]:
        """The committed state, or with ``prefix`` "pending_" or "settled_" that set."""
        return tuple(self._buffers[prefix + name] for name in self.state_names)  # type: ignore[misc]

    def commit(self, state: Sequence[Tensor]) -> None:
        """Make ``state`` the committed one."""
        self._write("", state)
        self._write("pending_", state)

    def settle(self, state: Sequence[Tensor]) -> None:
        """Keep ``state`` as the converged one that eval uses."""
        self._write("settled_", state)

    def await_commit(self, state: Sequence[Tensor]) -> None:
        """Keep ``state`` beside the committed one until the optimizer steps (compiled code has only buffers)."""
        self._write("pending_", state)

    def _write(self, prefix: str, state: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for buffer, new in self.writes(prefix, state):
                buffer.copy_(new)

    def writes(self, prefix: str, state: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The buffers of a set, and what is to be written to each."""
        return list(zip(self.state(prefix), state, strict=True))

    def add_commit(self, state: Sequence[Tensor], buffers: list[Tensor], new: list[Tensor]) -> None:
        """Add what `commit` writes to, and what it writes there, to those of others."""
        for name, value in zip(self.state_names, state, strict=True):
            buffers += self._buffers[name], self._buffers["pending_" + name]  # type: ignore[arg-type] # None only before allocate_state
            new += value, value

    def _apply(self, fn: Any, recurse: bool = True) -> "IteratedConstraint":
        """Move with the model, but keep the state in at least float32 whatever the model is cast to."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in kept.items():
            new = self._buffers[name]
            if new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(device=new.device, dtype=state_dtype(new.dtype))
        return self


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values are computed and state is kept: at least float32."""
    # not torch.promote_types, which an exported graph would record as an operation
    return torch.float64 if dtype is torch.float64 else torch.float32
