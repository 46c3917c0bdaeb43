"""Optimizers follow a change of the model: new Parameters take the place and the options of those they replace."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from computed.parameter import ComputedParameter
from surgery.errors import SurgeryError
from surgery.proposal import PlannedSite
from surgery.restoring import KeptTensor, keep

Optimizers = Optimizer | Iterable[Optimizer] | None


@dataclass(frozen=True, eq=False)
class Exchange:
    """What a change does to the Parameters of one site.

    ``old`` stood there before and ``new`` stand there now, by their names; a Parameter that is in both stays where it
    is. Only what is trained is put in a place that is new to it. ``split`` says that the old one goes on as a parameter
    of another site, to which this one was tied.
    """

    name: str
    old: Mapping[str, nn.Parameter]
    new: Mapping[str, nn.Parameter]
    split: bool = False

    def leaving(self) -> list[nn.Parameter]:
        """The Parameters that no longer stand there."""
        staying = {id(parameter) for parameter in self.new.values()}
        return [parameter for parameter in self.old.values() if id(parameter) not in staying]

    def coming(self, *, trained_only: bool = False) -> dict[str, nn.Parameter]:
        """The Parameters that did not stand there before, all or the trained ones."""
        known = {id(parameter) for parameter in self.old.values()}
        return {
            name: one
            for name, one in self.new.items()
            if id(one) not in known and (one.requires_grad or not trained_only)
        }

    def reversed(self) -> "Exchange":
        """The exchange that takes this one back."""
        return Exchange(self.name, self.new, self.old, self.split)


def standing(name: str, subject: Tensor | ComputedParameter) -> dict[str, nn.Parameter]:
    """The Parameters that stand at a site, by their full names; none where a buffer does."""
    if not isinstance(subject, ComputedParameter):
        return {name: subject} if isinstance(subject, nn.Parameter) else {}
    # not subject.named_parameters(), a walk that projects what waits to be
    found = {raw.name: raw.tensor for raw in subject.raw_slots()}
    raws = {id(raw) for raw in found.values()}
    for position, module in enumerate(subject.constraints):
        own = module.named_parameters(prefix=f"constraints.{position}")
        found.update((role, parameter) for role, parameter in own if id(parameter) not in raws)
    return {f"{name}.{role}": parameter for role, parameter in found.items()}


def listed(optimizers: Optimizers) -> tuple[Optimizer, ...]:
    """One optimizer, several or none, as a tuple.

    Errors: SurgeryError for what is no `torch.optim.Optimizer`.
    """
    if optimizers is None:
        return ()
    found = (optimizers,) if isinstance(optimizers, Optimizer) else tuple(optimizers)
    for one in found:
        if not isinstance(one, Optimizer):
            raise SurgeryError(
                f"optimizer={type(one).__name__}: it is a torch.optim.Optimizer or a list of them; of a wrapper give "
                f"the optimizer inside"
            )
    return found


def parameters_held(optimizer: Optimizer) -> set[int]:
    """The ids of the Parameters in all groups of ``optimizer``."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


@dataclass(eq=False)
class KeptState:
    """The state that an optimizer had for one Parameter; None where it had none."""

    parameter: nn.Parameter
    entries: dict[str, Any] | None
    tensors: dict[str, KeptTensor]

    def restore(self, optimizer: Optimizer) -> None:
        """Give the Parameter its state back, bit for bit."""
        if self.entries is None:
            optimizer.state.pop(self.parameter, None)
            return
        for kept in self.tensors.values():
            kept.restore()
        optimizer.state[self.parameter] = dict(self.entries)


def keep_state(optimizer: Optimizer, parameter: nn.Parameter) -> KeptState:
    """Record the state of ``parameter``; its bits cost memory only once a step writes to them."""
    entries: dict[str, Any] | None = optimizer.state.get(parameter)
    if entries is None:
        return KeptState(parameter, None, {})
    tensors = {key: keep(value) for key, value in entries.items() if isinstance(value, Tensor)}
    return KeptState(parameter, dict(entries), tensors)


@dataclass(eq=False)
class Following:
    """One optimizer that follows changes, and goes back."""

    optimizer: Optimizer
    exchanges: list[Exchange] = field(default_factory=list)
    states: list[KeptState] = field(default_factory=list)

    def follow(self, exchanges: Iterable[Exchange]) -> None:
        """Let the optimizer follow those of ``exchanges`` whose Parameters it holds."""
        held = parameters_held(self.optimizer)
        for exchange in exchanges:
            known = [parameter for parameter in exchange.old.values() if id(parameter) in held]
            if known:
                self.exchanges.append(exchange)
                self.states += [keep_state(self.optimizer, parameter) for parameter in known]
        exchange_places(self.optimizer, self.exchanges)

    def go_back(self) -> None:
        """Put groups and states back as they were; Parameters that came since stay where they are."""
        exchange_places(self.optimizer, [exchange.reversed() for exchange in self.exchanges], trained_only=False)
        for state in self.states:
            state.restore(self.optimizer)


def exchange_places(optimizer: Optimizer, exchanges: Sequence[Exchange], *, trained_only: bool = True) -> None:
    """Take out of the groups what has left, and put what has come where the first of the old ones stands or stood.

    The lists are edited in place, since schedulers and LBFGS hold them too; no state is transformed.
    """
    held = parameters_held(optimizer)
    leaving = {id(parameter): parameter for exchange in exchanges for parameter in exchange.leaving()}
    arriving: dict[int, dict[str, nn.Parameter]] = {}  # of each old Parameter, those that come with it
    for exchange in exchanges:
        coming = exchange.coming(trained_only=trained_only)
        due = {name: parameter for name, parameter in coming.items() if id(parameter) not in held}
        arriving.update((id(parameter), due) for parameter in exchange.old.values())
    for group in optimizer.param_groups:
        params, names = group["params"], group.get("param_names")
        entries: list[tuple[str, nn.Parameter]] = []
        for name, parameter in zip(names or [""] * len(params), params, strict=True):
            if id(parameter) not in leaving:
                entries.append((name, parameter))
            due = arriving.get(id(parameter), {})
            entries += due.items()
            due.clear()  # all old ones of a site share it: only the first brings them
        params[:] = [parameter for _, parameter in entries]
        if names is not None:  # https://pytorch.org/docs/stable/optim.html#named-parameters
            names[:] = [name for name, _ in entries]
    for parameter in leaving.values():
        optimizer.state.pop(parameter, None)


def refusals(optimizers: Sequence[Optimizer], rows: Iterable[PlannedSite]) -> list[str]:
    """Why ``optimizers`` cannot follow a change, all reasons at once."""
    holdings = [(optimizer, parameters_held(optimizer)) for optimizer in optimizers]
    changing = [row for row in rows if row.prepared is not None] if holdings else []
    return [f"{row.name} {reason}" for row in changing for reason in _reasons(holdings, row)]


def _reasons(holdings: Sequence[tuple[Optimizer, set[int]]], row: PlannedSite) -> Iterator[str]:
    assert row.prepared is not None
    old = {id(parameter) for parameter in standing(row.name, row.subject).values()}
    holding = [optimizer for optimizer, held in holdings if held & old]
    adapters = [role.name for link in row.prepared.links for role in link.roles if role.added]
    if adapters and not holding:
        yield (
            f"is in no group of the optimizer, so {', '.join(adapters)} would have no place there and not be trained; "
            f"apply without optimizer= and give them to optimizer.add_param_group"
        )
    if any(isinstance(optimizer, LBFGS) and optimizer.state for optimizer in holding):
        yield "is held by an LBFGS with a history over all its parameters, which cannot follow; make a new LBFGS after"
