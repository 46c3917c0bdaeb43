"""What one step of an optimizer moved is read again before the next one: it is evaluated in one go.

A step tells which computed parameters it moves. Those among them whose values were read, and whose constraint knows
how, become a team: the first that is read after the step evaluates all. Each gets the bits that it has alone, and what
nobody reads changes nothing: its state is kept only when it is read.

Large weights are evaluated alone, where calls cost little, and a gradient that waits for others would fill memory.
"""

import weakref
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from torch import Tensor

from computed.inner import written_out
from computed.member import Member

Layout = tuple[Hashable, ...]
Team = tuple[tuple["weakref.ref[Any]", Layout], ...]


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
        one = written_out(parameter.links, raws)
        if one is not None and one.takes_many(raws[0]) and not parameter.alone:
            layout = layout_of(raws[0])
            groups.setdefault((type(one), one.kind(), *layout[2:]), []).append((parameter, layout))
    for group in groups.values():
        team = tuple([(weakref.ref(parameter), layout) for parameter, layout in group])
        for parameter, _ in group:
            parameter.__dict__["_team"] = team if len(group) > 1 else ()


def mates(parameter: Mate) -> list[Any]:
    """Those of its team that wait to be evaluated as it does; none where its raw lies otherwise than it did."""
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
