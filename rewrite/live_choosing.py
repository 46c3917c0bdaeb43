"""Which planned tensors of a live model are written at the calls that made them, and which rules go above its class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rewrite.any_model import AnyModel
from rewrite.constraining import WRAPPER, NotEditableError, followed, wrapped
from rewrite.held import held_by_torch
from rewrite.live import Made, Traced, Untold
from rewrite.own_files import OwnFile, OwnFiles
from rewrite.sites import Kind, Site
from rewrite.steps import steps
from rewrite.verdicts import Tensor
from surgery.rules.ruleset import RuleSet


@dataclass(frozen=True)
class Planned:
    """A tensor of the model that a rule decides: all its names, and the rules that match one of them, the last wins.

    ``changes``: it is to be constrained; ``tied``: it stands in several modules; ``raws`` are the names of what a
    constraint that stands here already computes it from; ``initialised`` says why it would have other values at first
    if it were constrained where it is made.
    """

    names: tuple[str, ...]
    taking: tuple[int, ...]
    changes: bool
    tied: bool = False
    buffer: bool = False
    raws: tuple[str, ...] = ()
    initialised: str = ""

    @property
    def rule(self) -> int:
        """The rule that decides."""
        return self.taking[-1]


@dataclass(frozen=True)
class Inline:
    """A tensor that is written at the call, or after the statement, that made it."""

    made: Made
    site: Site
    rule: int


@dataclass(frozen=True)
class Reason:
    """Why rules are not written at calls: a code and a sentence, about the place that made a tensor if that is told."""

    code: str
    message: str
    made: Made | None
    rules: frozenset[int]


@dataclass(eq=False)
class LiveChoice:
    """What is written where. ``others``: places at which other models may be changed too."""

    inline: list[Inline] = field(default_factory=list)
    above: tuple[int, ...] = ()
    reasons: list[Reason] = field(default_factory=list)
    others: list[Inline] = field(default_factory=list)


def choose_live(
    planned: Sequence[Planned], traced: Traced, rules: RuleSet, files: OwnFiles, *, root_only: bool
) -> LiveChoice:
    """Decide for each rule: at the calls, where these made nothing else and no other model could differ, or above.

    Rules that share a tensor with one that goes above go there too.
    """
    weighing = _Weighing(planned, traced, rules, files, root_only=root_only)
    choice = LiveChoice()
    choice.reasons += weighing.lost()
    for made, ones in weighing.by_place().items():
        found = weighing.weigh(made, ones)
        if isinstance(found, Reason):
            choice.reasons.append(found)
        else:
            choice.inline.append(found)
    changing = {rule for each in planned if each.changes for rule in each.taking}
    undecided = _shared({rule for each in choice.reasons for rule in each.rules if rule in changing}, planned)
    choice.inline = [each for each in choice.inline if each.rule not in undecided]
    choice.others = [each for each in choice.inline if root_only and not weighing.is_safe(each)]
    if not all(rules.rules[index].exempts for index in undecided):
        choice.above = tuple(sorted(undecided))
    return choice


def _shared(undecided: set[int], planned: Iterable[Planned]) -> set[int]:
    """These rules, and all that match a tensor together with one of them."""
    groups = {frozenset(each.taking) for each in planned}
    while True:
        more = undecided.union(*(group for group in groups if group & undecided))
        if more == undecided:
            return undecided
        undecided = more


class _Weighing:
    """What is known of the places that made a model."""

    def __init__(
        self, planned: Sequence[Planned], traced: Traced, rules: RuleSet, files: OwnFiles, *, root_only: bool
    ) -> None:
        self._planned = planned
        self._traced = traced
        self._rules = rules
        self._files = files
        self._root_only = root_only
        self._told: Mapping[str, Made | Untold] = {**traced.parameters, **traced.buffers}
        self._any_model = AnyModel(rules)
        self._tensors: dict[Made, set[str]] = defaultdict(set)
        for name, made in self._told.items():
            if isinstance(made, Made):
                self._tensors[made].add(name)

    def by_place(self) -> dict[Made | Untold, list[Planned]]:
        """The tensors that are to change, by what made them."""
        found: dict[Made | Untold, list[Planned]] = {}
        for each in self._planned:
            if each.changes:
                found.setdefault(self._told[each.names[0]], []).append(each)
        return found

    def lost(self) -> Iterator[Reason]:
        """Constraints that stand already, where it is not told what made their tensors: any of the calls may have."""
        for each in self._planned:
            if each.raws and not any(self._is_told(raw) for raw in each.raws):
                message = f"{each.names[0]} is constrained already, and what made it is not told"
                yield Reason("CS110", message, None, frozenset(each.taking))

    def _is_told(self, raw: str) -> bool:
        made = self._told.get(raw)
        return isinstance(made, Made) and self._files.get(made.file) is not None

    def weigh(self, made: Made | Untold, ones: Sequence[Planned]) -> Inline | Reason:
        """Whether the tensors that a place made can be written there, or why not."""
        rules = frozenset(rule for each in ones for rule in each.taking)
        where = made if isinstance(made, Made) else None
        try:
            return self._inline(made, ones)
        except _NotInlineError as error:
            return Reason(error.code, str(error), where, rules)

    def _inline(self, made: Made | Untold, ones: Sequence[Planned]) -> Inline:
        first = ones[0].names[0]
        if isinstance(made, Untold):
            raise _NotInlineError("CS111", f"{first}: {made.reason}")
        for each in ones:
            self._check(each)
        self._check_all_alike(made, ones)
        file = self._files.get(made.file)
        if file is None:
            raise _NotInlineError("CS118", f"{first} is made in {made.file}, which is not to be edited")
        site = file.site(made)
        if site is None:
            raise _NotInlineError("CS114", f"{first}: the parameter is not simply assigned to an attribute")
        found = Inline(made, site, max(each.rule for each in ones))
        self._check_text(file, found)
        if not self.is_safe(found):
            if not self._root_only:
                raise _NotInlineError("CS110", f"{first}: the same call may make a parameter of another model")
            self._check_not_copied(first)
        return found

    def _check(self, each: Planned) -> None:
        name = each.names[0]
        if each.tied:
            raise _NotInlineError("CS112", f"{name} is tied to {', '.join(each.names[1:])}")
        if each.buffer:
            raise _NotInlineError("CS110", f"{name} is a buffer")
        if each.initialised:
            raise _NotInlineError("CS125", f"{name} is initialised in steps: {each.initialised}")
        if any(one in self._traced.elsewhere for one in each.names):
            raise _NotInlineError("CS110", f"{name} was copied or moved to where it stands")

    def _check_all_alike(self, made: Made, ones: Sequence[Planned]) -> None:
        """Whether all that the place made is to change in the same way."""
        names = {name for each in ones for name in each.names}
        first = ones[0].names[0]
        others = [name for name in self._tensors[made] if name not in names]
        if others:
            raise _NotInlineError("CS110", f"{first} is matched, and {sorted(others)[0]} of the same call is not")
        specs = {self._rules.rules[each.rule].spec: each.names[0] for each in ones}
        if len(specs) > 1:
            raise _NotInlineError("CS110", f"one call made {' and '.join(specs.values())}, of different rules")

    def _check_not_copied(self, name: str) -> None:
        """What is copied after it was made has the constraint too; a copy has the same last name."""
        last = name.rpartition(".")[2]
        copies = sorted(each for each in self._traced.elsewhere if each.rpartition(".")[2] == last)
        if copies:
            raise _NotInlineError("CS110", f"{copies[0]} may be a copy of {name}")

    def _check_text(self, file: OwnFile, found: Inline) -> None:
        spec = self._rules.rules[found.rule].spec
        assert isinstance(spec, str)
        project = file.analysis.classes.project
        held = held_by_torch(project, found.site, found.made.name_below)
        if held is not None:
            raise _NotInlineError("CS115", f"{found.made.name_below} is computed by {held}")
        reason = steps(found.site, Tensor(found.made.name_below, certain=True))
        if reason is not None:
            raise _NotInlineError("CS125", f"{found.made.name_below or 'it'} is initialised in steps: {reason}")
        try:
            if found.made.kind == "call":
                wrapped(found.site, {found.made.name_below: spec}, WRAPPER)
            else:
                followed(found.site, spec, WRAPPER)
        except NotEditableError as error:
            raise _NotInlineError("CS114", str(error)) from error

    def is_safe(self, found: Inline) -> bool:
        """Whether no model could be wrong with this edit."""
        file = self._files.get(found.made.file)
        assert file is not None
        if (found.made.kind == "parameter") != (found.site.kind is Kind.PARAMETER):
            return False
        return self._any_model.takes_all(file, found.site, found.made.name_below, found.rule)


class _NotInlineError(Exception):
    """Why a tensor is not written where it is made."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
