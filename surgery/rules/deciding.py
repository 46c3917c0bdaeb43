"""Which rule decides each parameter: the last one that matches any of its names."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from surgery.rules.hints import unmatched_text
from surgery.rules.matching import Name, Names
from surgery.rules.ruleset import Rule, RuleSet


@dataclass(frozen=True)
class Candidate:
    """A parameter as rules see it: its names, for each the class names of its host, and whether it is a buffer."""

    names: tuple[str, ...]
    host_types: tuple[tuple[str, ...], ...]
    buffer: bool = False


@dataclass(frozen=True)
class Decision:
    """What a set of rules decides.

    ``winner`` has for each candidate the position of the rule that decides, or None; ``matched`` and ``won`` count
    for each rule the candidates that it matches and those that it decides; ``hints`` tell of each rule that changes
    nothing why, and what was probably meant.
    """

    winner: tuple[int | None, ...]
    matched: tuple[int, ...]
    won: tuple[int, ...]
    hints: tuple[str, ...]

    @property
    def unmatched(self) -> tuple[int, ...]:
        """The rules that match nothing."""
        return tuple(rule for rule, count in enumerate(self.matched) if not count)

    @property
    def shadowed(self) -> tuple[int, ...]:
        """The rules that match something, all of which later rules decide."""
        return tuple(rule for rule, count in enumerate(self.matched) if count and not self.won[rule])


def decide(ruleset: RuleSet, candidates: Sequence[Candidate]) -> Decision:
    """Let the last matching rule decide each candidate.

    A rule changes nothing, and has a hint, if it matches nothing, if later rules decide all that it matches, and if
    it exempts what no earlier rule would constrain or freeze. A rule that needs a graph and has asked none is not
    matched.

    >>> rules = RuleSet.parse({"*.weight": "spectral", "head.*": None})
    >>> names = ["body.weight", "head.weight", "body.bias"]
    >>> decide(rules, [Candidate((name,), (("Linear",),)) for name in names]).winner
    (0, 1, None)
    """
    return _Deciding.of(ruleset.rules, candidates).decision()


@dataclass(frozen=True)
class _Deciding:
    """The rules, all names, and for each rule the positions of the candidates that it matches."""

    rules: Sequence[Rule]
    names: Names
    hits: Sequence[Collection[int]]
    winner: Sequence[int | None]

    @classmethod
    def of(cls, rules: Sequence[Rule], candidates: Sequence[Candidate]) -> Self:
        owners = [position for position, candidate in enumerate(candidates) for _ in candidate.names]
        names = Names(
            Name(name, types, candidate.buffer)
            for candidate in candidates
            for name, types in zip(candidate.names, candidate.host_types, strict=True)
        )
        hits: list[Collection[int]] = []
        winner: list[int | None] = [None] * len(candidates)
        for index, rule in enumerate(rules):
            matched = [] if rule.waits_for_graph else names.matched(rule.pattern)
            if rule.names is not None:
                matched = [row for row in matched if names.all[row].text in rule.names]
            hits.append(dict.fromkeys(owners[row] for row in matched))
            for position in hits[-1]:
                winner[position] = index
        return cls(rules, names, hits, winner)

    def decision(self) -> Decision:
        won = [0] * len(self.rules)
        for index in self.winner:
            if index is not None:
                won[index] += 1
        hints = (self._hint(index) for index in range(len(self.rules)))
        matched = tuple(len(hit) for hit in self.hits)
        return Decision(tuple(self.winner), matched, tuple(won), tuple(hint for hint in hints if hint is not None))

    def _hint(self, index: int) -> str | None:
        """Why a rule changes nothing, or None where it does change something."""
        rule, hit = self.rules[index], self.hits[index]
        if rule.waits_for_graph:
            return None
        if not hit and rule.unmet:
            return f"rule {rule} {rule.unmet}"
        if not hit:
            return f"rule {rule} {unmatched_text(rule.pattern, self.names)}"
        won = [position for position in hit if self.winner[position] == index]
        if not won:
            later = sorted({found for position in hit if (found := self.winner[position]) is not None})
            others = ", ".join(repr(self.rules[other].text) for other in later)
            return f"rule {rule} is shadowed entirely by later rules ({others}); put it behind them, or remove it"
        if rule.exempts and not any(self._taken_before(index, position) for position in won):
            return f"rule {rule} exempts what no earlier rule takes; put it behind the rule it is an exception of"
        return None

    def _taken_before(self, index: int, position: int) -> bool:
        earlier = zip(self.rules[:index], self.hits[:index], strict=True)
        return any(position in hit and not rule.exempts for rule, hit in earlier)
