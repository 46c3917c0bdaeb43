"""Which rule decides each parameter: the last one that matches any of its names."""

from collections.abc import Sequence
from dataclasses import dataclass

from surgery.rules.hints import unmatched_text
from surgery.rules.ruleset import Rule, RuleSet


@dataclass(frozen=True)
class Candidate:
    """A parameter as rules see it: its names, for each the class names of its host, and whether it is a buffer."""

    names: tuple[str, ...]
    host_types: tuple[tuple[str, ...], ...]
    buffer: bool = False


@dataclass(frozen=True)
class Decision:
    """For each candidate the index of the rule that decides, or None; ``hints`` tell of rules that change nothing."""

    winner: tuple[int | None, ...]
    hints: tuple[str, ...]


def decide(ruleset: RuleSet, candidates: Sequence[Candidate]) -> Decision:
    """Let the last matching rule decide each candidate.

    >>> rules = RuleSet.parse({"*.weight": "spectral", "head.*": None})
    >>> names = ["body.weight", "head.weight", "body.bias"]
    >>> decide(rules, [Candidate((name,), (("Linear",),)) for name in names]).winner
    (0, 1, None)
    """
    matches = [[_matches(rule, candidate) for rule in ruleset.rules] for candidate in candidates]
    winner = tuple(_last(row) for row in matches)
    hints = [_hint(index, ruleset.rules, candidates, matches, winner) for index in range(len(ruleset.rules))]
    return Decision(winner, tuple(hint for hint in hints if hint is not None))


def _matches(rule: Rule, candidate: Candidate) -> bool:
    pattern = rule.pattern
    if pattern.operation is not None or (candidate.buffer and not pattern.names_leaf):
        return False
    return any(pattern.matches(name, types) for name, types in zip(candidate.names, candidate.host_types, strict=True))


def _last(row: Sequence[bool]) -> int | None:
    return next((index for index in reversed(range(len(row))) if row[index]), None)


def _hint(
    index: int,
    rules: Sequence[Rule],
    candidates: Sequence[Candidate],
    matches: Sequence[Sequence[bool]],
    winner: Sequence[int | None],
) -> str | None:
    """Why a rule changes nothing, or None where it does change something."""
    rule = rules[index]
    if rule.pattern.operation is not None:
        return None
    hit = [position for position, row in enumerate(matches) if row[index]]
    if not hit:
        names = [(name, types) for c in candidates for name, types in zip(c.names, c.host_types, strict=True)]
        buffers = [c.names[0] for c in candidates if c.buffer and any(map(rule.pattern.matches, c.names, c.host_types))]
        return f"rule {rule} {unmatched_text(rule.pattern, names, buffers)}"
    won = [position for position in hit if winner[position] == index]
    if not won:
        later = sorted({found for position in hit if (found := winner[position]) is not None})
        others = ", ".join(repr(rules[other].text) for other in later)
        return f"rule {rule} is shadowed entirely by later rules ({others}); put it behind them, or remove it"
    if rule.exempts and not any(_taken_before(matches[position][:index], rules) for position in won):
        return f"rule {rule} exempts what no earlier rule takes; put it behind the rule it is an exception of"
    return None


def _taken_before(row: Sequence[bool], rules: Sequence[Rule]) -> bool:
    return any(matched and not rule.exempts for matched, rule in zip(row, rules, strict=False))
