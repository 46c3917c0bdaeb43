"""What a migration rule is, and what it finds."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

from rewrite.code import Code, Weight
from rewrite.insertion import Insertion
from rewrite.migration.codes import LEFT
from rewrite.migration.examples import Example
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped


class Safety(Enum):
    """What a rule may do without being asked twice."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    DIAGNOSED = "diagnosed"


class Part(Enum):
    """What a place does to a norm: applied and removed are rewritten together, or not at all."""

    APPLIES = "applies"
    REMOVES = "removes"
    READS = "reads"
    NONE = "none"


@dataclass(frozen=True)
class Change:
    """An edit that waits for the local names of the ``functions`` of this package that it calls."""

    functions: frozenset[str]
    make: Callable[[Mapping[str, str]], tuple[Insertion, ...]]


@dataclass(frozen=True)
class Finding:
    """One place. Without a ``change`` it is only told. ``families`` are the norms it belongs to, by what made them.

    ``takes`` are the calls of other norms of which it takes the module.
    """

    file: Scoped
    node: ast.expr | ast.stmt
    code: str
    message: str
    change: Change | None = None
    safety: Safety = Safety.SAFE
    families: frozenset[str] = frozenset()
    part: Part = Part.NONE
    takes: frozenset[ast.Call] = frozenset()

    @property
    def offset(self) -> int:
        """Where it is told."""
        return self.file.source.span(self.node)[0]

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file.source.path}:{self.node.lineno}"

    @property
    def lines(self) -> tuple[int, int]:
        """The lines of its statement."""
        statement = self.node if isinstance(self.node, ast.stmt) else self.file.statement_of(self.node)
        return statement.lineno, statement.end_lineno or statement.lineno

    def left(self, reason: str, code: str = LEFT) -> Finding:
        """The same place, which stays as it is."""
        return replace(self, code=code, message=reason, change=None)


class Rule(ABC):
    """One old idiom."""

    code: ClassVar[str]
    safety: ClassVar[Safety]
    title: ClassVar[str]
    explanation: ClassVar[str]
    examples: ClassVar[tuple[Example, ...]] = ()
    unchanged: ClassVar[tuple[str, ...]] = ()
    weight: ClassVar[Weight] = Weight.EDIT

    @abstractmethod
    def find(self, tree: Tree, file: Scoped) -> Iterator[Finding]:
        """Every place of the idiom in a file."""

    def told(self) -> Code:
        """The code, as it is listed with all others."""
        return Code(self.code, self.weight, self.title, self.explanation)
