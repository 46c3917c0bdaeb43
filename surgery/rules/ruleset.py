"""A set of rules: pattern -> spec, read all at once, later rules first in command."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from computed.registry import check_call
from computed.spec import parse_spec
from computed.spec_error import SpecError
from surgery.rules.errors import PatternError, RuleError
from surgery.rules.pattern import Pattern

EXEMPTION = "none"
FREEZING = "frozen"


@dataclass(frozen=True)
class Rule:
    """One rule: which parameters, and what becomes of them.

    >>> Rule(Pattern.parse("*.bias"), None).exempts
    True
    """

    pattern: Pattern
    spec: object

    @property
    def text(self) -> str:
        """The pattern as it was written."""
        return self.pattern.text

    @property
    def exempts(self) -> bool:
        """Whether the rule leaves alone what it matches."""
        return self.spec is None or _word(self.spec) == EXEMPTION

    @property
    def freezes(self) -> bool:
        """Whether the rule only freezes what it matches."""
        return _word(self.spec) == FREEZING

    def __str__(self) -> str:
        """The rule as messages quote it."""
        return f"{self.text!r}: {written(self.spec)}"


@dataclass(frozen=True)
class RuleSet:
    """Rules in order.

    >>> rules = RuleSet.parse({"*.weight": "spectral", "head.*": None})
    >>> [str(rule) for rule in rules.rules]
    ["'*.weight': 'spectral'", "'head.*': None"]
    """

    rules: tuple[Rule, ...]

    @classmethod
    def parse(cls, rules: "Mapping[str, object] | Iterable[tuple[str, object]]") -> "RuleSet":
        """The rules that ``rules`` says; raises `RuleError` with all that is wrong."""
        found, problems = cls.read(rules)
        if problems:
            raise RuleError(problems)
        return found

    @classmethod
    def read(cls, rules: "Mapping[str, object] | Iterable[tuple[str, object]]") -> "tuple[RuleSet, tuple[str, ...]]":
        """The rules that can be read, and one text for each problem of those that cannot."""
        good: list[Rule] = []
        problems: list[str] = []
        for text, spec in rules.items() if isinstance(rules, Mapping) else rules:
            wrong = tuple(_problems(text, spec))
            problems += wrong
            if not wrong:
                good.append(Rule(Pattern.parse(text), spec))
        return cls(tuple(good)), tuple(problems)

    def refused_operations(self, route: str) -> tuple[str, ...]:
        """One text for each rule about an operation, which ``route`` cannot see."""
        return tuple(
            f"rule {rule}: @{rule.pattern.operation} is an operation, which only a graph knows, and the {route} route "
            f"has none; filter by the host's class, '*@Linear.weight'"
            for rule in self.rules
            if rule.pattern.operation is not None
        )


def written(spec: object) -> str:
    """A spec as messages quote it."""
    if spec is None or isinstance(spec, str):
        return repr(spec)
    return getattr(spec, "__name__", None) or type(spec).__name__


def _word(spec: object) -> str:
    return spec.strip() if isinstance(spec, str) else ""


def _problems(text: object, spec: object) -> Iterable[str]:
    if not isinstance(text, str):
        yield f"rule {text!r}: a pattern is a text, got {type(text).__name__}; write a dotted name such as '*.weight'"
        return
    try:
        Pattern.parse(text)
    except PatternError as error:
        yield f"rule {text!r}: {written(spec)}: {error}"
    if isinstance(spec, str) and _word(spec) not in (EXEMPTION, FREEZING):
        yield from _spec_problems(text, spec)


def _spec_problems(text: str, spec: str) -> Iterable[str]:
    try:
        calls = parse_spec(spec)
    except SpecError as error:
        yield f"rule {text!r}: {error}"
        return
    for call in calls:
        try:
            check_call(call)
        except SpecError as error:
            yield f"rule {text!r}: {spec!r}: {error}"
