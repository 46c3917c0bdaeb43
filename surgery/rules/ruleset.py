"""A set of rules: pattern -> spec, read all at once, later rules first in command."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from computed.registry import WHOLE_SPECS, check_call
from computed.spec import parse_spec
from computed.spec_error import SpecError
from surgery.rules.errors import PatternError, RuleError
from surgery.rules.pattern import Pattern

EXEMPTION, FREEZING = WHOLE_SPECS
EVERY = Pattern.parse("**")
FORM = "rules are a mapping of patterns to specs, such as {'*.weight': 'spectral'}, or pairs of them"
SPECS = (
    "give a name such as 'spectral', a constraint class or module, a Transform, a function, a list of these, or None"
)


@dataclass(frozen=True)
class Rule:
    """One rule: which parameters, and what becomes of them.

    A rule about an operation, or with a ``predicate`` on uses, needs a graph, which gives it the ``names`` that it is
    about; ``unmet`` says what it found instead where there are none.

    >>> Rule(Pattern.parse("*.bias"), None).exempts
    True
    """

    pattern: Pattern
    spec: object
    predicate: Callable[[Any], object] | None = None
    names: frozenset[str] | None = None
    unmet: str = ""

    @property
    def text(self) -> str:
        """The pattern as it was written, or the name of the predicate."""
        return self.pattern.text if self.predicate is None else getattr(self.predicate, "__name__", "a predicate")

    @property
    def needs_graph(self) -> bool:
        """Whether only a graph knows what the rule is about."""
        return self.predicate is not None or self.pattern.operation is not None

    @property
    def waits_for_graph(self) -> bool:
        """Whether it needs one and none was asked yet."""
        return self.needs_graph and self.names is None

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
        return f"{self.text if self.predicate is not None else repr(self.text)}: {written(self.spec)}"


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
        for item in _items(rules):
            if not (isinstance(item, tuple | list) and len(item) == 2):
                problems.append(f"{FORM}, got {item!r}")
                continue
            pattern, wrong = _read(*item)
            problems += wrong
            if pattern is not None and not wrong:
                good.append(Rule(pattern, item[1], item[0] if callable(item[0]) else None))
        return cls(tuple(good)), tuple(problems)

    def refused_operations(self, route: str) -> tuple[str, ...]:
        """One text for each rule about an operation, which ``route`` cannot see."""
        return tuple(
            f"rule {rule}: {_subject(rule)}, which only a graph knows, and the {route} route has none; filter by the "
            f"host's class, '*@Linear.weight', or pass via='fx'"
            for rule in self.rules
            if rule.waits_for_graph
        )


def _subject(rule: Rule) -> str:
    if rule.predicate is not None:
        return "a function as pattern is asked about uses of parameters"
    return f"@{rule.pattern.operation} is an operation"


def written(spec: object) -> str:
    """A spec as messages quote it."""
    if spec is None or isinstance(spec, str | int | float):
        return repr(spec)
    if isinstance(spec, list):
        return f"[{', '.join(map(written, spec))}]"
    return getattr(spec, "__name__", None) or type(spec).__name__


def _word(spec: object) -> str:
    return spec.strip() if isinstance(spec, str) else ""


def _items(rules: object) -> Iterable[object]:
    if isinstance(rules, Mapping):
        return tuple(rules.items())
    return (rules,) if isinstance(rules, str) or not isinstance(rules, Iterable) else rules


def _read(text: object, spec: object) -> tuple[Pattern | None, tuple[str, ...]]:
    """The pattern, where it can be read, and all that is wrong with the rule."""
    wrong = tuple(f"rule {text!r}: {written(spec)}: {reason}" for reason in _spec_problems(spec))
    if callable(text) and not isinstance(text, type):
        return EVERY, wrong
    if not isinstance(text, str):
        reason = f"a pattern is a text, got {type(text).__name__}; write a dotted name such as '*.weight'"
        return None, (f"rule {text!r}: {written(spec)}: {reason}", *wrong)
    try:
        return Pattern.parse(text), wrong
    except PatternError as error:
        reason = f"column {error.position + 1} of the pattern: {error.reason}"
        return None, (f"rule {text!r}: {written(spec)}: {reason}", *wrong)


def _chain_problems(specs: Sequence[object]) -> Iterator[str]:
    if not specs:
        yield "an empty list is no chain; give None to leave a parameter alone"
    for spec in specs:
        if spec is None or _word(spec) in WHOLE_SPECS:
            yield f"{spec!r} is a rule of its own and no part of a chain"
        else:
            yield from _spec_problems(spec)


def _spec_problems(spec: object) -> Iterator[str]:
    if spec is None or _word(spec) in WHOLE_SPECS:
        return
    if isinstance(spec, list):
        yield from _chain_problems(spec)
        return
    if not isinstance(spec, str):
        if not callable(spec):
            yield f"a value of type {type(spec).__name__} is no spec; {SPECS}"
        return
    try:
        calls = parse_spec(spec)
    except SpecError as error:
        column = "" if error.position is None else f"column {error.position + 1} of the spec: "
        yield f"{column}{error.reason}"
        return
    for call in calls:
        try:
            check_call(call)
        except SpecError as error:
            yield error.reason
