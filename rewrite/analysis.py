"""Given files read as one project: its classes, its sites, and where names begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rewrite.arrival import escapes
from rewrite.children import hands_on_children
from rewrite.classes import Class, Classes
from rewrite.index import Index
from rewrite.places import ANYWHERE
from rewrite.project import Project
from rewrite.replaced import replacements
from rewrite.sites import Kind, Site, sites
from rewrite.source import Source
from rewrite.tied import Tied
from rewrite.ties import ties


class UnknownRootError(ValueError):
    """A class that is named as a root is none of the given files, or several of that name are."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What rules are decided on.

    ``roots`` are given, or ``found``, where only one is possible. ``begins`` are the classes at which names begin, True
    where they may begin anywhere; ``reached`` those whose code runs where instances of these are built, ``idle`` the
    sites in others.
    """

    classes: Classes
    sites: tuple[Site, ...]
    tied: Tied
    roots: tuple[Class, ...]
    found: bool
    begins: Mapping[Class, bool]
    reached: frozenset[Class]
    idle: tuple[Site, ...] = ()

    @property
    def open_world(self) -> bool:
        """Whether names may begin anywhere."""
        return not self.roots


def analysed(sources: Iterable[tuple[Source, str]], roots: Sequence[str] = (), *, find_root: bool = True) -> Analysis:
    """Read sources, each with its dotted module name.

    Raises `UnknownRootError` where ``roots``, names of classes, cannot be found.
    """
    classes = Classes.of(Project.of(sources))
    index = Index(classes)
    passed_on = [each for each in classes.by_node.values() if escapes(classes, index, each)]
    chosen = tuple(_named(classes, name) for name in roots)
    made = tuple(sites(classes, index, open_world=False)) if chosen or find_root else ()
    found = not chosen and find_root
    if found:
        chosen = _only_root(classes, made, passed_on)
        found = bool(chosen)
    if not chosen:
        made = tuple(sites(classes, index, open_world=True))
        begins = _anywhere(classes, made, passed_on)
    else:
        begins = dict.fromkeys(chosen, False) | dict.fromkeys(passed_on, True)
    if hands_on_children(classes, index):
        made = tuple(replace(site, places=site.places | {ANYWHERE}) for site in made)
    reached = _reached(classes, made, begins)
    idle = tuple(site for site in made if not _runs(classes, site, reached))
    made = tuple(site for site in made if site not in idle)
    every = (*ties(classes), *replacements(classes))
    meant = [tie for tie in every if tie.owner is None or tie.owner in reached]
    return Analysis(classes, made, Tied(meant, classes, made, begins), chosen, found, begins, frozenset(reached), idle)


def _runs(classes: Classes, site: Site, reached: set[Class]) -> bool:
    """Whether the code of a site may run where roots are built."""
    around = classes.around(site.file, site.node)
    return around is None or around in reached


def _anywhere(classes: Classes, made: Iterable[Site], passed_on: Sequence[Class]) -> dict[Class, bool]:
    """Each class may be a model of its own; one that nothing here builds may stand anywhere in others besides."""
    built = {site.made for site in made if site.kind is Kind.CLASS and _inside_a_class(classes, site)}
    return {each: each not in built or each in passed_on for each in classes.by_node.values()}


def _named(classes: Classes, name: str) -> Class:
    fitting = [each for each in classes.by_name.values() if f".{each.full_name}".endswith(f".{name}")]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(each.full_name for each in fitting)
        raise UnknownRootError(f"--root {name}: several classes have this name ({names}); write more of it")
    known = sorted({each.name for each in classes.by_node.values()})
    listed = f"the given files have {', '.join(known)}" if known else "the given files have no module class"
    raise UnknownRootError(f"--root {name}: no such class; {listed}")


def _only_root(classes: Classes, made: Iterable[Site], passed_on: Sequence[Class]) -> tuple[Class, ...]:
    """The one class that nothing builds, derives from or passes on; none where there are several."""
    built = {site.made for site in made if site.kind is Kind.CLASS and _inside_a_class(classes, site)}
    free = [each for each in classes.by_node.values() if each not in built and not each.subclasses]
    if len(free) != 1 or free[0] in passed_on or len(classes.by_node) != len(_reached(classes, made, free)):
        return ()
    return (free[0],)


def _inside_a_class(classes: Classes, site: Site) -> bool:
    return bool(site.places) or classes.around(site.file, site.node) is not None


def _reached(classes: Classes, made: Iterable[Site], begins: Iterable[Class]) -> set[Class]:
    """All classes whose code runs where instances of ``begins`` are built, their bases too."""
    outside = [each for each in classes.by_node.values() if each.is_known_outside()]
    edges: dict[Class | None, set[Class]] = {}
    for site in made:
        for owner in {classes.around(site.file, site.node), *(place.owner for place in site.places)}:
            if site.made is not None:
                edges.setdefault(owner, set()).add(site.made)
            elif site.kind is Kind.UNRESOLVED:
                edges.setdefault(owner, set()).update(outside)
    reached, waiting = set[Class](), [*begins, *edges.get(None, ())]
    while waiting:
        each = waiting.pop()
        if each not in reached:
            reached.add(each)
            waiting += [*edges.get(each, ()), *each.bases]
    return reached
