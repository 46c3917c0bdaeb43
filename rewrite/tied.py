"""Which tensors may be a side of a tie, so that they have the names of its other sides too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from rewrite.arrival import arrivals
from rewrite.classes import Class, Classes
from rewrite.following import Verdict, follower
from rewrite.items import Part, Path, known_text
from rewrite.places import Place
from rewrite.sites import Site, name_below
from rewrite.ties import Tie
from surgery.rules.pattern import Pattern

ANY_NAME: Path = ((Part.ANYTHING,),)


class Tied:
    """The ties of a project, asked tensor by tensor."""

    def __init__(
        self, ties: Iterable[Tie], classes: Classes, sites: Iterable[Site], roots: Mapping[Class, bool]
    ) -> None:
        self.all = tuple(ties)
        self._classes = classes
        self._sites = tuple(sites)
        self._roots = roots
        self._known: dict[tuple[Site, str], tuple[Tie, ...]] = {}

    def of(self, site: Site, name: str) -> tuple[Tie, ...]:
        """The ties that the tensor ``name`` of ``site`` may be a side of."""
        if not self.all:
            return ()
        key = site, name
        if key not in self._known:
            self._known[key] = tuple(dict.fromkeys(tie for tie, asks in self._asking if asks(site, name)))
        return self._known[key]

    @cached_property
    def _asking(self) -> list[tuple[Tie, _Asking]]:
        """For each side whose name is known, what can tell its tensors; one that is not known is every tensor."""
        found: list[tuple[Tie, _Asking]] = []
        made: dict[str | None, _Asking] = {None: _Asking(None, self._classes, self._sites, self._roots)}
        for tie in self.all:
            for side in tie.sides:
                text = known_text(side.path)
                if text not in made:
                    made[text] = _Asking(text, self._classes, self._sites, self._roots)
                found.append((tie, made[text]))
        return found


class _Asking:
    """Whether a tensor may have a name that ends so."""

    def __init__(self, text: str | None, classes: Classes, sites: Iterable[Site], roots: Mapping[Class, bool]) -> None:
        self._text = text
        if text is not None:
            self._follower = follower(Pattern.parse(f"*.{text}"))
            self._reached = arrivals(self._follower, classes.by_node.values(), sites, roots)

    def __call__(self, site: Site, name: str) -> bool:
        if self._text is None:
            return True
        reached = self._follower.nothing
        for place in site.places:
            path = (*place.path, *name_below(name)) or ANY_NAME
            here = self._follower.along(self._reached[place.owner], path, inside=False)
            reached = self._follower.either(reached, here)
        return self._follower.verdict(reached) is not Verdict.NONE


def sides(ties: Iterable[Tie]) -> tuple[Place, ...]:
    """All sides of ties."""
    return tuple(side for tie in ties for side in tie.sides)
