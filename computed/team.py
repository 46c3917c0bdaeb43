"""What one step of an optimizer moved is read again before the next one: it is evaluated in one go.

A step tells which computed parameters it moves. Those among them whose values were read become a team: the first that
is read after the step evaluates all, and one node in the autograd graph has all their gradients. A constraint that
knows how takes many in one call (`computed.together`); others are evaluated one by one, with one graph. Each gets the
bits that it has alone, and what nobody reads changes nothing: its state is kept only when it is read.

Large weights are evaluated alone, where calls cost little, and a gradient that waits for others would fill memory; so
are modules that are no constraints, which may do more than give a value.
"""

import weakref
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from torch import Tensor

from computed.chain import Link
from computed.constraint import Constraint
from computed.held import Held
from computed.hold import try_hold
from computed.inner import written_out
from computed.member import Member

# so many entries are large
LARGE = 1 << 16
Layout = tuple[Hashable, ...]
Team = tuple[tuple["weakref.ref[Any]", Layout], ...]
# whether a team is evaluated at this moment; the lock of all evaluations is held then
_evaluating = [False]


class Mate(Member, Protocol):
    """What a team needs to know of a computed parameter."""

    alone: bool
    _team: Team

    def raw_tensors(self) -> list[Tensor]:
        """Its raws."""

    def waits_for_step_value(self) -> bool:
        """Whether its next value may be evaluated by a mate."""


def form_teams(used: Sequence[Mate]) -> None:
    """Let those of one kind among ``used`` be evaluated in one go from now on."""
    groups: dict[Hashable, list[tuple[Mate, Layout]]] = {}
    for parameter in used:
        raws = parameter.raw_tensors()
        kind = None if parameter.alone or not raws else kind_of(parameter.links, raws)
        if kind is not None:
            layout = layout_of(raws[0])
            groups.setdefault((*kind, *layout[2:]), []).append((parameter, layout))
    for group in groups.values():
        team = tuple([(weakref.ref(parameter), layout) for parameter, layout in group])
        for parameter, _ in group:
            parameter.__dict__["_team"] = team if len(group) > 1 else ()


def kind_of(links: Sequence[Link], raws: Sequence[Tensor]) -> Layout | None:
    """What chains must have in common that are evaluated in one go, beside what their raws must; None for none."""
    one = written_out(links, raws)
    if one is not None:
        return (type(one), one.kind()) if one.takes_many(raws[0]) else None
    is_small = sum([raw.numel() for raw in raws]) < LARGE
    return () if is_small and all(isinstance(link.module, Constraint) for link in links) else None


def disband(parameters: Sequence[Mate]) -> None:
    """Let each be evaluated alone, until what is moved by an optimizer changes."""
    for parameter in parameters:
        parameter.__dict__["_team"] = ()


def try_together(members: Sequence[Member], *, with_graph: bool) -> list[Held] | None:
    """What each keeps, as `try_hold` gives it in train mode; None where that, or the evaluation of one, fails.

    Whoever fails says so when it is read itself, and not to those who read another.
    """
    _evaluating[0] = True
    try:
        return try_hold(members, training=True, with_graph=with_graph)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # all are evaluated again, each alone
    finally:
        _evaluating[0] = False


def mates(parameter: Mate) -> list[Any]:
    """Those of its team that wait to be evaluated as it does; none where its raw lies otherwise than it did.

    And none in the midst of the evaluation of a team, whose members may read each other.
    """
    if _evaluating[0]:
        return []
    found: list[Mate] = []
    for reference, layout in parameter._team:
        mate: Mate | None = reference()
        if mate is None or (mate is not parameter and not mate.waits_for_step_value()):
            continue
        same = layout_of(mate.raw_tensors()[0]) == layout
        if mate is not parameter and same:
            found.append(mate)
        elif not same and mate is parameter:
            return []
    return found


def layout_of(raw: Tensor) -> Layout:
    """What must be as it was when the team was formed; from the third on also what its raws have in common."""
    return raw.shape, raw.stride(), raw.dtype, raw.device, raw.requires_grad
