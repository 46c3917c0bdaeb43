"""Every tensor of every site, weighed by all rules: which decides it, and what stands in the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rewrite.analysis import Analysis
from rewrite.chosen import Choice, Decided, Problem
from rewrite.classes import Class
from rewrite.constraining import why_not_editable
from rewrite.following import Verdict
from rewrite.held import held_by_torch
from rewrite.sites import Kind, Site
from rewrite.steps import copies, pretrained_elsewhere, steps
from rewrite.verdicts import Judge, Tensor, tensors
from surgery.rules.ruleset import RuleSet


class Weighing:
    """Goes through all sites once."""

    def __init__(self, analysis: Analysis, rules: RuleSet, judges: Sequence[Judge]) -> None:
        self.analysis = analysis
        self.rules = rules
        self.judges = judges
        self.choice = Choice()
        self.together: set[frozenset[int]] = set()
        pretrained = pretrained_elsewhere(analysis.reached)
        self.foreign = f"{pretrained.name} is initialised by transformers" if pretrained is not None else None

    def weigh(self) -> None:
        """Fill ``choice`` and ``together``, the sets of rules that take a tensor together."""
        for site in self.analysis.sites:
            for tensor in tensors(site):
                self._tensor(site, tensor)
            self._unknown_below(site)
        for root, anywhere in self.analysis.begins.items():
            if root in self.analysis.roots or (anywhere and self.analysis.open_world):
                self._root(root)

    def _tensor(self, site: Site, tensor: Tensor) -> None:
        verdicts = [judge.verdict(site, tensor) for judge in self.judges]
        taking = [index for index, verdict in enumerate(verdicts) if verdict is not Verdict.NONE]
        if not taking:
            return
        self.choice.matched |= set(taking)
        self.together.add(frozenset(taking))
        undecided = list(_undecided_among(taking, verdicts))
        last = taking[-1]
        constrains = not all(self.rules.rules[index].exempts for index in taking)
        tie = self.judges[last].reaches_tie(site, tensor) if constrains else None
        if tie is not None:
            self._problem("CS112", f"{_called(site, tensor)} may be tied, at line {tie.node.lineno}", site, taking)
        elif undecided and constrains:
            self._problem(*_why(site, tensor), site, undecided)
        elif not undecided and not self.rules.rules[last].exempts:
            held = held_by_torch(self.analysis.classes.project, site, tensor.name)
            if held is not None:
                self._problem("CS115", f"{_called(site, tensor)} is computed by {held}", site, [last])
            else:
                self._take(site, tensor, last)

    def _take(self, site: Site, tensor: Tensor, rule: int) -> None:
        """Written at the call; where a root is known and this would give other values at first, above it."""
        obstacle = why_not_editable(site)
        copying = copies(site)
        if obstacle is not None:
            self._problem("CS114", f"{_called(site, tensor)}: {obstacle}", site, [rule])
        if copying is not None:
            message = f"{_called(site, tensor)}: {copying} copies states by their keys while it is made"
            self._problem("CS119", message, site, [rule])
        reason = steps(site, tensor) or self.foreign
        if reason is not None:
            message = f"{_called(site, tensor)} is initialised in steps: {reason}"
            if self.analysis.open_world:
                self.choice.notes.append(self._problem_at("CS125", message, site, [rule]))
            else:
                self._problem("CS125", message, site, [rule])
        self.choice.inline.append(Decided(site, tensor, rule))

    def _unknown_below(self, site: Site) -> None:
        """What a site may hold besides: a value that is not resolved, or a layer whose names cannot be listed."""
        if not (site.kind is Kind.UNRESOLVED or site.tensors.open):
            return
        rules = [index for index, judge in enumerate(self.judges) if judge.may_match_below(site)]
        taking = [index for index in rules if not self.rules.rules[index].exempts]
        if not taking:
            return
        message = f"{_source(site)} may hold parameters"
        if site.kind in (Kind.UNRESOLVED, Kind.CLASS) and self.analysis.open_world:
            self.choice.notes.append(self._problem_at("CS124", message, site, taking))
        else:
            self.choice.matched |= set(rules)
            self.together.add(frozenset(rules))
            self._problem("CS111", message, site, taking)

    def _root(self, root: Class) -> None:
        """What an instance of a root has from the layer that it is a kind of: no call makes it."""
        bases = root.unclear_bases()
        inherited = root.inherited()
        if not bases and (inherited is None or inherited.container):
            return
        taking = [index for index, judge in enumerate(self.judges) if judge.may_match_below_class(root)]
        if taking:
            file = root.file.source
            line, column = file.position(file.span(root.node)[0])
            message = f"{self._quoted(taking)}: {root.name} inherits parameters that no call here makes"
            if self.analysis.open_world:
                self.choice.notes.append(Problem("CS124", file.path, line, column, message, frozenset(taking)))
                return
            self.choice.problems.append(Problem("CS111", file.path, line, column, message, frozenset(taking)))
            self.choice.matched |= set(taking)
            self.together.add(frozenset(taking))

    def _problem(self, code: str, message: str, site: Site, rules: Iterable[int]) -> None:
        self.choice.problems.append(self._problem_at(code, message, site, rules))

    def _problem_at(self, code: str, message: str, site: Site, rules: Iterable[int]) -> Problem:
        line, column = site.file.source.position(site.file.source.span(site.node)[0])
        text = f"{self._quoted(rules)}: {message}"
        return Problem(code, site.file.source.path, line, column, text, frozenset(rules))

    def _quoted(self, rules: Iterable[int]) -> str:
        names = [repr(self.rules.rules[index].text) for index in rules]
        return f"{'rule' if len(names) == 1 else 'rules'} {', '.join(names)}"


def _undecided_among(taking: Sequence[int], verdicts: Sequence[Verdict]) -> Iterator[int]:
    """The rules between which a tensor is undecided: from the last down to the first that takes all."""
    if verdicts[taking[-1]] is Verdict.ALL:
        return
    for index in reversed(taking):
        yield index
        if verdicts[index] is Verdict.ALL:
            return


def _why(site: Site, tensor: Tensor) -> tuple[str, str]:
    if not tensor.certain:
        return "CS113", f"{_called(site, tensor)} may be missing"
    return "CS110", f"{_called(site, tensor)} is matched under some of the names it can have"


def _called(site: Site, tensor: Tensor) -> str:
    return f"{tensor.name} of {_source(site)}" if tensor.name else _source(site)


def _source(site: Site) -> str:
    source = site.file.source
    begin, end = source.span(site.node)
    text = " ".join(source.text[begin:end].split())
    return text if len(text) <= 50 else f"{text[:47]}..."
