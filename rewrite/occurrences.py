"""Where a word stands in a file, and whether it gives a name or makes something there: from the tree, without scopes.

Most words that a file has in common with a rule are read, spoken of, or arguments of a method; to see that, only the
nodes around each have to be looked at, which takes a small part of the time that reading names and scopes takes.
"""

from __future__ import annotations

import ast
import re
from functools import cached_property

from rewrite.giving import is_called, is_given, names_another
from rewrite.source import BYTES_LINE, Source
from rewrite.wanted import Names

Placed = ast.expr | ast.stmt | ast.arg | ast.keyword | ast.alias | ast.excepthandler | ast.pattern


class Occurrences:
    """The words of one file, with the nodes around them."""

    def __init__(self, source: Source) -> None:
        self._tree = source.tree
        self._bytes = source.text.encode()

    def give(self, name: Names) -> bool:
        """Whether one of these names may be given here to a module."""
        return any(
            is_called(around) and not names_another(around, name.written) if each["called"] else is_given(around)
            for each in name.given.finditer(self._bytes)
            if (around := self._around(each))
        )

    def make(self, kind: re.Pattern[bytes]) -> bool:
        """Whether a type that ``kind`` matches, as `Wanted.kind`, is more than asked for here."""
        return any(is_called(around) for each in kind.finditer(self._bytes) if (around := self._around(each)))

    def _around(self, found: re.Match[bytes]) -> list[ast.AST]:
        """The nodes around a word, outermost first; none where it is no part of one, as in a comment."""
        end = found.end(found.lastgroup or 0)
        around: list[ast.AST] = [self._tree]
        while (inner := self._child(around[-1], end)) is not None:
            around.append(inner)
        word = self._bytes[found.start(found.lastgroup or 0) : end].decode()
        return around if self._says(around[-1], word, end) else []

    def _child(self, node: ast.AST, end: int) -> ast.AST | None:
        """The child of a node in which the character before ``end`` stands."""
        if isinstance(node, ast.JoinedStr):  # Python 3.11 does not say where its parts are
            return None
        for child in ast.iter_child_nodes(node):
            begins, ends = self._span(child)
            if begins < end <= ends:
                return child
        return None

    def _span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins, its decorators included, and ends; an empty span for what is nowhere."""
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                first = node.decorator_list[0] if node.decorator_list else node
                return self._offset(first.lineno, first.col_offset), self._end(node)
            case (
                ast.expr() | ast.stmt() | ast.arg() | ast.keyword() | ast.alias() | ast.excepthandler() | ast.pattern()
            ):
                return self._offset(node.lineno, node.col_offset), self._end(node)
        spans = [span for child in ast.iter_child_nodes(node) if (span := self._span(child)) != (0, 0)]
        return (min(begin for begin, _ in spans), max(end for _, end in spans)) if spans else (0, 0)

    def _says(self, node: ast.AST, word: str, end: int) -> bool:
        """Whether the word is what a node says, and not only beside it."""
        match node:
            case ast.Attribute() | ast.Name():
                return self._end(node) == end
            case ast.keyword(arg=name) | ast.ClassDef(name=name):
                return name == word
            case ast.alias(asname=name):
                return name is not None
            case ast.Constant(value=str()) | ast.JoinedStr():
                return True
        return False

    def _end(self, node: Placed) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        return self._lines[line - 1] + column

    @cached_property
    def _lines(self) -> list[int]:
        return [match.start() for match in BYTES_LINE.finditer(self._bytes)]
