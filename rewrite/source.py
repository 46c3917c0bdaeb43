"""One Python source file: its text exactly as it is, its tree, and where in the text a node stands."""

from __future__ import annotations

import ast
import re
import tokenize
import warnings
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

# what the tokenizer of Python ends a line at; a form feed is none
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
BYTES_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")


class UnreadableError(ValueError):
    """A file cannot be read as Python: ``reason`` says why, ``line`` and ``column`` (both from 1) where."""

    def __init__(self, reason: str, line: int = 1, column: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.column = column


@dataclass(frozen=True)
class Source:
    """A file that is Python. ``text`` has its newlines as they are; ``encoding`` gives its bytes back, a mark too."""

    path: str
    text: str
    encoding: str = "utf-8"

    @classmethod
    def read(cls, path: str, data: bytes) -> Source:
        r"""The file ``path`` that holds ``data``; raises `UnreadableError` where that is no Python.

        >>> Source.read("a.py", b"# coding: latin-1\nname = '\xe9'\n").text[-4:]
        "'é'\n"
        """
        source = cls(path, *_decoded(data))
        source.tree  # noqa: B018 - read now, so that whoever holds a source can use it
        return source

    @classmethod
    def checked(cls, path: str, text: str, encoding: str = "utf-8") -> Source:
        """The file ``path`` with this text; raises `UnreadableError` where that is no Python."""
        source = cls(path, text, encoding)
        source.tree  # noqa: B018 - as in read
        return source

    def encoded(self, text: str) -> bytes:
        """``text`` in the encoding of this file; raises UnicodeEncodeError where that has no such character."""
        return text.encode(self.encoding)

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree; raises `UnreadableError` where there is none."""
        return parsed(self.text)

    def offset(self, line: int, column: int) -> int:
        """Where in the text a position of ``ast`` is: lines from 1, columns in bytes of UTF-8."""
        begin, end = self._lines[line - 1], self._lines[line] if line < len(self._lines) else len(self.text)
        part = self.text[begin:end]
        return begin + (column if part.isascii() else len(part.encode()[:column].decode()))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where in the text ``node`` begins and ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, the column in characters."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def line_at(self, offset: int) -> tuple[int, int]:
        """Where the line around ``offset`` begins, and where it ends, its newline included."""
        line = bisect_right(self._lines, offset)
        return self._lines[line - 1], self._lines[line] if line < len(self._lines) else len(self.text)

    def newline_near(self, offset: int) -> str:
        """The newline of the line around ``offset``; where that has none, the first of the text."""
        begin, end = self.line_at(offset)
        found = re.search(r"\r\n|\r|\n", self.text[begin:end]) or re.search(r"\r\n|\r|\n", self.text)
        return found[0] if found else "\n"

    @cached_property
    def _lines(self) -> list[int]:
        starts = [match.start() for match in LINE.finditer(self.text)]
        return starts[:-1] if len(starts) > 1 and starts[-1] == len(self.text) else starts


def lines_of(text: str) -> list[str]:
    r"""The lines of ``text`` with their newlines, as Python counts them.

    >>> lines_of("a\r\n\fb\rc")
    ['a\r\n', '\x0cb\r', 'c']
    """
    return [found for found in LINE.findall(text) if found]


def parsed(text: str) -> ast.Module:
    """The syntax tree of ``text``; raises `UnreadableError` where there is none."""
    if "\0" in text:  # the parser does not say where
        raise UnreadableError("it has a null byte", *Source("", text).position(text.index("\0")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes and comparisons in other people's code
            return ast.parse(text)
    except SyntaxError as error:
        raise UnreadableError(str(error.msg), error.lineno or 1, error.offset or 1) from error
    except (ValueError, RecursionError, MemoryError) as error:  # lone surrogates, or nested too deeply
        raise UnreadableError(str(error) or "it is nested too deeply") from error


def _decoded(data: bytes) -> tuple[str, str]:
    try:
        # lines as the parser has them: for `readline` of a file a lone CR ends none
        encoding, _ = tokenize.detect_encoding((match[0] for match in BYTES_LINE.finditer(data)).__next__)
    except SyntaxError as error:
        _decode(data, "utf-8")  # says where, if that is what is wrong
        raise UnreadableError(f"its encoding cannot be told: {error}") from error
    return _decode(data, encoding), encoding


def _decode(data: bytes, encoding: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the escapes that some encodings have
            text = data.decode(encoding)
            same = text.encode(encoding) == data
    except UnicodeDecodeError as error:
        *before, begun = re.split(rb"\r\n|\r|\n", error.object[: error.start])
        column = len(begun.decode(encoding, "replace")) + 1
        raise UnreadableError(f"it is not {encoding}: {error.reason}", len(before) + 1, column) from error
    except (LookupError, UnicodeError) as error:  # Python knows encodings that are none of texts
        raise UnreadableError(f"it is not {encoding}: {error}") from error
    if not same:
        raise UnreadableError(f"its bytes are not what {encoding} writes")
    return text
