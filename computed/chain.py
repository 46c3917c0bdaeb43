"""The links of a chain ``c_n(... c_1(*raws))``: our constraints, foreign modules and modules without inputs."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from computed.constraint import Constraint, IteratedConstraint, Preimage, Role, State
from computed.errors import ConstraintRefusedError
from computed.together import IteratedTogether, evaluate_alone
from computed.torch_private import inside_transform


class Link(abc.ABC):
    """One constraint of a chain, as evaluation and inversion see it. ``module`` is what the state dict holds."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    @abc.abstractmethod
    def roles(self) -> tuple[Role, ...]:
        """The roles of its arguments; the first is the carrier."""

    @abc.abstractmethod
    def evaluate(self, arguments: Sequence[Tensor], *, training: bool) -> tuple[Tensor, State]:
        """The value and the state that belongs to it; writes nothing."""

    @abc.abstractmethod
    def evaluate_given(self, arguments: Sequence[Tensor], state: State) -> Tensor:
        """The value for the state of an earlier `evaluate`."""

    @abc.abstractmethod
    def commit(self, state: State) -> None:
        """Make the state of a train-mode evaluation the committed one."""

    @abc.abstractmethod
    def invert(self, value: Tensor) -> Preimage:
        """Raws and state for ``value``."""

    @abc.abstractmethod
    def with_inputs(self, inputs: int) -> "Link":
        """This link for as many inputs as its right inverse gives."""


class ConstraintLink(Link):
    """A `Constraint` of ours."""

    module: Constraint

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that the class declares."""
        return self.module.roles

    def evaluate(self, arguments: Sequence[Tensor], *, training: bool) -> tuple[Tensor, State]:
        """Evaluate with the next state in training, with the settled one otherwise."""
        arguments = detach_fixed(arguments, self.roles)
        if self.module.disabled:
            return arguments[0].clone(), ()  # not the raw itself: a value may be written to
        if not isinstance(self.module, IteratedConstraint):
            return self.module(*arguments), ()
        raw = arguments[0]
        if training and isinstance(self.module, IteratedTogether) and not inside_transform():
            return evaluate_alone(self.module, raw)
        with torch.no_grad():
            state = self.module.next_state(raw) if training else self.module.settled_state(raw)
        return self.module.value_given(raw, state), state

    def evaluate_given(self, arguments: Sequence[Tensor], state: State) -> Tensor:
        """Evaluate with exactly ``state``."""
        arguments = detach_fixed(arguments, self.roles)
        if self.module.disabled:
            return arguments[0].clone()
        if isinstance(self.module, IteratedConstraint):
            return self.module.value_given(arguments[0], state)
        value: Tensor = self.module(*arguments)
        return value

    def commit(self, state: State) -> None:
        """Hand the state to the constraint, where there is one: where an op rule stood for it, there is none."""
        if isinstance(self.module, IteratedConstraint) and state:
            self.module.commit(state)

    def invert(self, value: Tensor) -> Preimage:
        """Apply the constraint's right inverse."""
        return self.module.right_inverse(value)

    def with_inputs(self, inputs: int) -> Link:
        """This link: the class declares its roles."""
        if inputs != len(self.roles):
            raise ConstraintRefusedError(
                f"{type(self.module).__name__}.right_inverse gave {inputs} raws for {len(self.roles)} roles"
            )
        return self


class ForeignLink(Link):
    """Any module that maps tensors to a tensor, such as a torch parametrization.

    Its buffers are state and run on copies, so a read writes nothing. Where it has no ``right_inverse`` the value is
    taken as the raw, as torch does: nothing is promised about nearness, and plans print the distance moved.
    """

    def __init__(self, module: nn.Module, inputs: int = 1) -> None:
        super().__init__(module)
        self.inputs = inputs

    @property
    def roles(self) -> tuple[Role, ...]:
        """``raw`` for one tensor; ``0``, ``1``... for a right inverse that gives several."""
        return (Role("raw"),) if self.inputs == 1 else tuple(Role(str(i)) for i in range(self.inputs))

    def evaluate(self, arguments: Sequence[Tensor], *, training: bool) -> tuple[Tensor, State]:
        """Call the module on copies of its buffers; what it wrote there is the next state."""
        copies = {name: buffer.detach().clone() for name, buffer in self.module.named_buffers()}
        # without tie_weights: torch leaves what it is given in a module that stands under two names
        if copies:
            value = functional_call(self.module, copies, tuple(arguments), tie_weights=False)
        else:
            value = self.module(*arguments)
        if not isinstance(value, Tensor):
            raise ConstraintRefusedError(
                f"{type(self.module).__name__}.forward returned {type(value).__name__}; it must return a tensor"
            )
        return value, tuple(copies.values()) if training else ()

    def evaluate_given(self, arguments: Sequence[Tensor], state: State) -> Tensor:
        """Call the module once more on the buffers as they are."""
        return self.evaluate(arguments, training=False)[0]

    def commit(self, state: State) -> None:
        """Write the state into the module's buffers."""
        with torch.no_grad():
            for buffer, new in zip(self.module.buffers(), state, strict=False):
                buffer.copy_(new)

    def invert(self, value: Tensor) -> Preimage:
        """Use the module's own right inverse, if it has one, without drawing from the global generator."""
        inverse: Callable[[Tensor], Any] | None = getattr(self.module, "right_inverse", None)
        if inverse is None:
            return Preimage((value,))
        try:
            with torch.random.fork_rng(devices=[]):
                raws = inverse(value.clone())  # some keep it, as a base
        except NotImplementedError:  # how modules of torch say that they have none
            return Preimage((value,))
        return Preimage((raws,) if isinstance(raws, Tensor) else self._checked(raws))

    def _checked(self, raws: object) -> tuple[Tensor, ...]:
        inverse = f"{type(self.module).__name__}.right_inverse"
        if not isinstance(raws, Sequence) or isinstance(raws, str):
            raise ConstraintRefusedError(
                f"{inverse} returned {type(raws).__name__}; it must return a tensor or a sequence of tensors"
            )
        for position, raw in enumerate(raws):
            if not isinstance(raw, Tensor):
                raise ConstraintRefusedError(
                    f"{inverse} returned {type(raw).__name__} at position {position}; it must return tensors alone"
                )
        return tuple(raws)

    def with_inputs(self, inputs: int) -> Link:
        """A link for a module of several inputs."""
        return ForeignLink(self.module, inputs)


class GeneratorLink(Link):
    """A module without inputs whose ``forward()`` returns the value."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """None: its tensors are its own."""
        return ()

    def evaluate(self, arguments: Sequence[Tensor], *, training: bool) -> tuple[Tensor, State]:
        """Call the module."""
        value: Tensor = self.module()
        return value, ()

    def evaluate_given(self, arguments: Sequence[Tensor], state: State) -> Tensor:
        """Call the module."""
        return self.evaluate(arguments, training=False)[0]

    def commit(self, state: State) -> None:
        """Nothing to commit."""

    def invert(self, value: Tensor) -> Preimage:
        """Refuse: nothing is known about the module."""
        raise ConstraintRefusedError(
            f"{type(self.module).__name__} takes no inputs and has no right inverse, so its value cannot be written; "
            f"write its own parameters"
        )

    def with_inputs(self, inputs: int) -> Link:
        """This link: it has none."""
        return self


def link_for(module: nn.Module) -> Link:
    """The link for a module of a spec; generators are linked by `ComputedParameter` itself."""
    return ConstraintLink(module) if isinstance(module, Constraint) else ForeignLink(module)


def detach_fixed(arguments: Sequence[Tensor], roles: Sequence[Role]) -> tuple[Tensor, ...]:
    """The arguments, those of fixed roles detached."""
    return tuple(
        argument if role.trained else argument.detach() for argument, role in zip(arguments, roles, strict=True)
    )


def reached_by_gradients(links: Sequence[Link], position: int) -> bool:
    """Whether gradients reach the raws of a link: a later one that takes the running value as fixed stops them."""
    return all(link.roles[0].trained for link in links[position + 1 :])


def overrides_op_rule(link: Link) -> bool:
    """Whether the link's constraint has op rules at all."""
    return isinstance(link.module, Constraint) and link.module.has_op_rules()


def is_disabled(link: Link) -> bool:
    """Whether the link's constraint stands aside for a while."""
    return isinstance(link.module, Constraint) and link.module.disabled


def is_stochastic(link: Link) -> bool:
    """Whether the link's constraint says that its value is random."""
    return isinstance(link.module, Constraint) and link.module.stochastic


def links_for(modules: Sequence[nn.Module]) -> tuple[Link, ...]:
    """The links of a chain of constraints."""
    return tuple(link_for(module) for module in modules)
