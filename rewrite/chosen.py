"""What is decided of rules and tensors: what is written at calls, what above classes, what is left and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from rewrite.sites import Site
from rewrite.verdicts import Tensor


@dataclass(frozen=True)
class Problem:
    """Why a rule cannot be written at a call: a code, and a sentence about the place."""

    code: str
    file: str
    line: int
    column: int
    message: str
    rules: frozenset[int]


@dataclass(frozen=True, eq=False)
class Decided:
    """A tensor of a site, and the rule that decides it."""

    site: Site
    tensor: Tensor
    rule: int


@dataclass(eq=False)
class Choice:
    """What is to be written: tensors at their calls, rules above the roots; and what was left.

    ``reasons`` are why rules are written above the roots, ``notes`` what else may be matched.
    """

    inline: list[Decided] = field(default_factory=list)
    above: tuple[int, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    reasons: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    matched: set[int] = field(default_factory=set)
