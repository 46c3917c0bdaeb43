"""The frame of a computed parameter: its chain of constraints, its raws, and which raws are its own."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from computed.chain import Link, is_stochastic, reached_by_gradients
from computed.constraint import Constraint, IteratedConstraint, state_dtype
from computed.evaluation import own_roles
from computed.factors import Factors
from computed.found import Found
from computed.held import Held
from computed.layout import Layout
from computed.lending import Lent
from computed.living import living
from computed.pending import PendingState, Written
from computed.raw_slot import RawSlot
from computed.scaled import is_ruled
from computed.sharding import is_sharded
from computed.tensorlike import TensorLike
from computed.watching import Slot, own_storage


class Frame(TensorLike, nn.Module):
    """Constraints in the order of application, raws under their roles, and what was noted about them.

    ``trainable``, ``buffer`` and ``persistent`` say how the tensor was registered whose place it took, for a bake;
    ``reshapes`` whether it had another shape. ``alone`` keeps it from being evaluated with others.

    Fields are written through ``__dict__``: ``Module.__setattr__`` would search its registries at each write.
    """

    links: tuple[Link, ...]
    caching: bool
    reshapes: bool
    buffer: bool
    persistent: bool
    trainable: bool
    _name: str
    _shape: torch.Size
    _dtype: torch.dtype
    _holds: list[Held | None]
    _factors: Factors | None
    _team: tuple[Any, ...]
    alone: bool
    _pending_state: PendingState | None
    _written: Written | None
    _lent: Lent | None
    _registered: tuple[int, ...]
    _awaits_data: bool
    _found: Found

    def _set_up_frame(self, modules: Sequence[nn.Module], links: Sequence[Link], like: Tensor, *, name: str) -> None:
        """Make the empty frame: constraints, links and metadata; raws are registered by the caller."""
        fields = self.__dict__
        fields["_shape"] = torch.Size(like.shape)
        fields["_dtype"] = like.dtype
        fields["_name"] = name
        fields["buffer"] = not isinstance(like, nn.Parameter)
        fields["persistent"] = True
        fields["trainable"] = like.requires_grad
        fields["links"] = tuple(links)
        fields["_found"] = Found()
        fields["_team"] = ()
        fields["alone"] = False
        fields["ruled"] = is_ruled(links, like.shape, training=self.training)
        fields["caching"] = True
        fields["reshapes"] = False
        # a stock FX tracer keeps modules of torch.nn as leaves: https://pytorch.org/docs/stable/fx.html#torch.fx.Tracer
        fields["__module__"] = "torch.nn.computed_parameter"
        self.constraints = nn.ModuleList(modules)
        self._forget_everything()
        self.register_load_state_dict_post_hook(after_load)  # type: ignore[no-untyped-call]
        living.add(self)

    def _forget_everything(self) -> None:
        fields = self.__dict__
        self.let_go()
        fields["_pending_state"] = None
        fields["_written"] = None
        fields["_lent"] = None

    def let_go(self) -> None:
        """Hold nothing any more."""
        self.__dict__["_holds"] = [None, None]
        self.__dict__["_factors"] = None

    def reset(self) -> None:
        """Forget holds and whatever was pending; the registered raws are the ones to watch."""
        self._forget_everything()
        self.__dict__["_awaits_data"] = any(raw.is_meta for raw in self.raw_tensors())
        registered = tuple(id(raw.tensor) for raw in self.raw_slots())
        if registered != self.__dict__.get("_registered"):
            self.__dict__["_registered"] = registered
            living.changed()

    def raw_slots(self) -> tuple[RawSlot, ...]:
        """The raws and where they are registered, in the order of the chain; found once for a chain."""
        # to keep what was found would be a side effect of compiled code
        if torch.compiler.is_compiling():
            return tuple(self._raw_slots())
        known = self._found.raw_slots
        if known is None or known[0] is not self.links or known[1] is not self._parameters:
            self._found.raw_slots = known = (self.links, self._parameters, tuple(self._raw_slots()))
        return known[2]

    def registered(self, *, training: bool) -> Layout:
        """Where all that its value depends on is registered, found anew where that has changed."""
        known = self._found.layouts[training]
        if known is None or not known.holds_for(self.links):
            raws = [raw.slot for raw in self.raw_slots()]
            self._found.layouts[training] = known = Layout(self.links, raws, training=training)
        return known

    def _raw_slots(self) -> Iterator[RawSlot]:
        for position, (link, module) in enumerate(zip(self.links, self.constraints, strict=True)):
            owner = self._parameters if position == 0 else module._parameters
            prefix = f"constraints.{position}." if position else ""
            reached = reached_by_gradients(self.links, position)
            for role in link.roles[len(link.roles) - own_roles(link, position) :]:
                yield RawSlot(prefix + role.name, role, Slot(owner, role.name), reached)

    def raw_tensors(self) -> list[Tensor]:
        """The raws as they are: what is pending stays pending."""
        return [raw.tensor for raw in self.raw_slots()]

    @property
    def raws(self) -> dict[str, nn.Parameter]:
        """The raws by role; those of later constraints as ``constraints.<i>.<role>``."""
        self.absorb()
        return {raw.name: raw.tensor for raw in self.raw_slots()}

    @property
    def trained_raws(self) -> tuple[nn.Parameter, ...]:
        """The raws of trained roles that gradients reach, and the parameters of foreign modules."""
        trained = [raw.tensor for raw in self.raw_slots() if raw.role.trained and raw.reached]
        foreign = [
            link.module
            for position, link in enumerate(self.links)
            if not isinstance(link.module, Constraint) and reached_by_gradients(self.links, position)
        ]
        return (*trained, *(tensor for module in foreign for tensor in module.parameters()))

    @property
    def spec(self) -> str:
        """The chain as a spec string."""
        return " | ".join(
            module.spec() if isinstance(module, Constraint) else type(module).__name__ for module in self.constraints
        )

    def may_hold(self, *, training: bool) -> bool:
        """Whether a value may be held. A random one is not in train mode: each read is a sample of its own."""
        if not self.caching or (training and any(is_stochastic(link) for link in self.links)):
            return False
        return self.owns_raws()

    def owns_raws(self) -> bool:
        """Whether its raws are the very Parameters that were registered here.

        Those that a wrapper puts there for a while are its own: it resizes them away, and a snapshot would crash that.
        """
        for slot, known in zip(self.raw_slots(), self._registered, strict=True):
            raw = slot.tensor
            if id(raw) != known or type(raw) is not nn.Parameter or raw.is_inference() or raw.is_meta:
                return False
        return True

    def is_sharded(self) -> bool:
        """Whether only a part of some raw is here."""
        return any(is_sharded(raw) for raw in self.raw_tensors())

    def take_over_data(self) -> None:
        """Watch raws that were assigned where there had been none with data (``from_pretrained`` does that)."""
        if not self._awaits_data:
            return
        raws = self.raw_tensors()
        if not any(raw.is_meta or is_sharded(raw) for raw in raws):
            for raw in raws:
                own_storage(raw)
            for link in self.links:
                if isinstance(link.module, IteratedConstraint):
                    link.module.await_commit(link.module.state())
            self.reset()

    def _draws(self) -> bool:
        """Whether each evaluation in train mode is a sample of its own."""
        return self.training and any(is_stochastic(link) for link in self.links)

    def absorb(self) -> None:
        """Project what was written to the value since it was evaluated; see `computed.writing`."""
        raise NotImplementedError

    def settle(self) -> None:
        """Bring iterated state to convergence for eval; see `computed.settling`."""
        raise NotImplementedError

    def called(self) -> str:
        """How messages call it: by its full name where it stands in a model, and by what it is."""
        return f"{self._name}: {self!r}" if self._name else repr(self)


def stamps(parameter: nn.Module) -> tuple[tuple[int, int], ...]:
    """What changes where a state dict is loaded into a raw or a buffer: the object, or its version."""
    tensors = (*parameter.parameters(), *parameter.buffers())
    return tuple((id(tensor), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)


def after_load(parameter: nn.Module, incompatible: object) -> None:
    """Where a state dict had something for it: that is watched from now on, and settled where eval uses it.

    A load without its keys, or with keys that do not fit, leaves it as it was, a pending write included.
    """
    assert isinstance(parameter, Frame)
    if parameter.__dict__.pop("_before_load", None) == stamps(parameter):
        return
    for raw in parameter.raw_slots():
        own_storage(raw.tensor)
    for link in parameter.links:
        if isinstance(link.module, IteratedConstraint):
            _state_follows(link.module, parameter.raw_tensors()[0])
            link.module.await_commit(link.module.state())
    parameter.reset()
    if not parameter.training:
        parameter.settle()


def _state_follows(constraint: IteratedConstraint, raw: Tensor) -> None:
    """Tensors that were assigned may have another dtype or device: what is not in a state dict follows them."""
    dtype, device = state_dtype(raw.dtype), raw.device
    for name, buffer in constraint._buffers.items():
        if buffer is not None and (buffer.dtype != dtype or buffer.device != device):
            has_data = not buffer.is_meta or raw.is_meta
            like = buffer if has_data else torch.zeros(buffer.shape)
            constraint._buffers[name] = like.to(device=device, dtype=dtype)
