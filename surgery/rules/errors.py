"""The errors of rules: a pattern that cannot be read, and all that is wrong with a set of rules."""

from collections.abc import Iterable


class PatternError(ValueError):
    """A pattern is wrong: ``reason`` says how and what to write, ``position`` is the offset in ``pattern``.

    >>> print(PatternError("write one dot", "a..b", 2))
    pattern 'a..b', column 3: write one dot
    """

    # The pattern and the position have defaults since unpickling calls an error with its message alone.
    def __init__(self, reason: str, pattern: str | None = None, position: int = 0) -> None:
        super().__init__(reason if pattern is None else f"pattern {pattern!r}, column {position + 1}: {reason}")
        self.reason = reason
        self.pattern = pattern
        self.position = position


class RuleError(ValueError):
    """Rules are wrong: ``problems`` holds one sentence for each problem, all of them at once.

    >>> print(RuleError(["'a..b': 'spectral': write one dot"]))
    1 problem in the rules:
      'a..b': 'spectral': write one dot
    """

    def __init__(self, problems: Iterable[str] | str) -> None:
        listed = (problems,) if isinstance(problems, str) else tuple(problems)
        count = f"{len(listed)} problem{'' if len(listed) == 1 else 's'} in the rules"
        super().__init__("\n  ".join((f"{count}:", *listed)))
        self.problems = listed

    # Unpickling calls an error with its message, which would count as one more problem.
    def __reduce__(self) -> tuple[type["RuleError"], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)
