"""What a rule says of each tensor that a call makes: whether it takes all its instances, none, or some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rewrite.analysis import Analysis
from rewrite.arrival import arrivals
from rewrite.classes import Class
from rewrite.following import Follower, Verdict, follower
from rewrite.items import Name, Part, Path
from rewrite.layers import host_types
from rewrite.places import Place
from rewrite.sites import Site, name_below
from rewrite.tied import sides
from rewrite.ties import Tie
from surgery.rules.pattern import Pattern

SOMETHING: Name = (Part.ANYTHING,)


@dataclass(frozen=True)
class Tensor:
    """A tensor of a site by its name below; ``certain``: it is there in every run; ``buffer``: it is no parameter."""

    name: str
    certain: bool
    buffer: bool = False


def tensors(site: Site) -> Iterator[Tensor]:
    """The tensors that a site makes or may make, in the order of a state dict, buffers last."""
    yield from (Tensor(name, True) for name in site.tensors.certain)
    yield from (Tensor(name, False) for name in site.tensors.possible)
    yield from (Tensor(name, True, buffer=True) for name in site.tensors.buffers)
    yield from (Tensor(name, False, buffer=True) for name in site.tensors.possible_buffers)


class Judge:
    """One pattern, followed through a project."""

    def __init__(self, pattern: Pattern, analysis: Analysis) -> None:
        self.pattern = pattern
        self.follower: Follower = follower(pattern)
        self.tied = analysis.tied
        classes = analysis.classes.by_node.values()
        self.reached = arrivals(self.follower, classes, analysis.sites, analysis.begins)

    def verdict(self, site: Site, tensor: Tensor) -> Verdict:
        """What the pattern says of ``tensor``; one that may be missing is never taken in all its instances."""
        if tensor.buffer and not self.pattern.names_leaf:
            return Verdict.NONE
        own = self._by_name(site, tensor.name, ())
        if own is Verdict.NONE and not self._matches_a_side:  # then ties make no difference, and need not be asked
            return Verdict.NONE
        ties = self.tied.of(site, tensor.name)
        name = self._by_name(site, tensor.name, sides(ties)) if ties else own
        found = self._by_type(site, tensor.name, name, tied=bool(ties))
        return Verdict.SOME if found is Verdict.ALL and not tensor.certain else found

    @cached_property
    def _matches_a_side(self) -> bool:
        """Whether the pattern may match any side of any tie."""
        places = sides(self.tied.all)
        ends = (self.follower.along(self.reached[side.owner], side.path, inside=False) for side in places)
        return any(self.follower.verdict(end) is not Verdict.NONE for end in ends)

    def reaches_tie(self, site: Site, tensor: Tensor) -> Tie | None:
        """The first tie that a tensor may be a side of, where the pattern may match any of its names."""
        if self.verdict(site, tensor) is Verdict.NONE:
            return None
        ties = self.tied.of(site, tensor.name)
        return ties[0] if ties else None

    def may_match_below(self, site: Site) -> bool:
        """Whether the pattern may match something at any depth below what a site makes."""
        return any(self._somewhere(place.owner, place.path) for place in site.places)

    def may_match_below_class(self, owner: Class) -> bool:
        """Whether the pattern may match something at any depth below an instance of a class."""
        return self._somewhere(owner, ())

    def _somewhere(self, owner: Class | None, path: Path) -> bool:
        """Whether something at ``path``, or at any depth below it, may be matched."""
        here = self.reached[owner]
        reached = self.follower.along(here, (*path, SOMETHING), inside=False)
        if path:
            reached = self.follower.either(reached, self.follower.along(here, path, inside=False))
        return self.follower.verdict(reached) is not Verdict.NONE

    def _by_name(self, site: Site, name: str, others: Iterable[Place]) -> Verdict:
        reached: Any = self.follower.nothing
        below = name_below(name)
        paths = [(place.owner, (*place.path, *below) or (SOMETHING,)) for place in site.places]
        for owner, path in (*paths, *((place.owner, place.path) for place in others)):
            here = self.follower.along(self.reached[owner], path, inside=False)
            reached = self.follower.either(reached, here)
        return self.follower.verdict(reached)

    def _by_type(self, site: Site, name: str, found: Verdict, *, tied: bool) -> Verdict:
        asked = self.pattern.host_type
        if asked is None or found is Verdict.NONE:
            return found
        if tied:  # its hosts are several
            return Verdict.SOME
        answers = {any(map(asked.accepts, types)) for types in _hosts(site, name)}
        if len(answers) == 1:
            return found if answers == {True} else Verdict.NONE
        return Verdict.SOME


def _hosts(site: Site, name: str) -> Iterator[tuple[str, ...]]:
    """The class names of what may hold the tensor; a class whose bases are not all known may be of any type."""
    if site.layer is not None and "." in name:  # torch builds its host
        yield host_types(site.layer, name) or ()
        return
    if site.types:
        yield site.types
        return
    for place in site.places:
        if place.owner is None:
            yield ()
            continue
        for each in place.owner.below():
            yield each.types()
