"""Which rule decides each tensor, and in which style it is written: at the call, above the class, or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from rewrite.analysis import Analysis
from rewrite.chosen import Choice, Decided, Problem
from rewrite.verdicts import Judge
from rewrite.weighing import Weighing
from surgery.rules.ruleset import RuleSet


class Styles:
    """The names of ``--style``."""

    AUTO = "auto"
    INLINE = "inline"
    CLASS = "class"


def choose(analysis: Analysis, rules: RuleSet, style: str = Styles.AUTO) -> Choice:
    """Decide every tensor of every site by the last rule that takes it.

    Rules that are decided everywhere are written at the calls; those that are not, and all that share a tensor with
    them, above the roots where there are any.
    """
    judges = [Judge(rule.pattern, analysis) for rule in rules.rules]
    weighing = Weighing(analysis, rules, judges)
    weighing.weigh()
    choice = weighing.choice
    if not analysis.roots:
        choice.inline = _decided_by_file(weighing, style)
        choice.problems += _left_with_others(choice, rules, weighing.together, style)
        return choice
    everything = frozenset(range(len(rules.rules)))
    undecided = everything if style == Styles.CLASS else _undecided(choice.problems, weighing.together)
    choice.inline = [each for each in choice.inline if each.rule not in undecided]
    if style == Styles.INLINE:
        choice.problems += _left_with_others(choice, rules, weighing.together, style)
    else:
        choice.above = tuple(sorted(undecided & _with_effect(choice.matched, undecided, rules)))
        choice.problems, choice.reasons = [], choice.problems
    return choice


def _left_with_others(choice: Choice, rules: RuleSet, together: Iterable[frozenset[int]], style: str) -> list[Problem]:
    """Rules that are not written only since others are not, or since the style asks for a root, at the first place."""
    if style == Styles.CLASS:
        left = sorted(choice.matched)
        return [_alone(rules, index, "", 1, 1, "the style 'class' needs a root: name it with --root") for index in left]
    found = []
    for path in dict.fromkeys(problem.file for problem in choice.problems):
        mine = [problem for problem in choice.problems if problem.file == path]
        told = {rule for problem in mine for rule in problem.rules}
        why = "it decides parameters together with a rule that is left"
        for index in sorted(_undecided(mine, together) - told):
            if not rules.rules[index].exempts:
                found.append(_alone(rules, index, path, mine[0].line, mine[0].column, why))
    return found


def _alone(rules: RuleSet, index: int, path: str, line: int, column: int, why: str) -> Problem:
    return Problem("CS110", path, line, column, f"rule {rules.rules[index].text!r}: {why}", frozenset([index]))


def _decided_by_file(weighing: Weighing, style: str) -> list[Decided]:
    """What can be written without a root: rules that are decided everywhere in a file, file by file."""
    if style == Styles.CLASS:
        return []
    problems: dict[str, list[Problem]] = defaultdict(list)
    for problem in weighing.choice.problems:
        problems[problem.file].append(problem)
    undecided = {path: _undecided(mine, weighing.together) for path, mine in problems.items()}
    return [
        each
        for each in weighing.choice.inline
        if each.rule not in undecided.get(each.site.file.source.path, frozenset())
    ]


def _with_effect(matched: set[int], undecided: frozenset[int], rules: RuleSet) -> frozenset[int]:
    """Those of ``undecided`` that match something; exemptions only with others before them."""
    found = {index for index in undecided if index in matched}
    if all(rules.rules[index].exempts for index in found):
        return frozenset()
    return frozenset(found)


def _undecided(problems: Iterable[Problem], together: Iterable[frozenset[int]]) -> frozenset[int]:
    """The rules of problems, and all that decide a tensor together with one of these."""
    found = frozenset(rule for problem in problems for rule in problem.rules)
    groups = list(together)
    while True:
        more = found.union(*(group for group in groups if group & found))
        if more == found:
            return found
        found = more
