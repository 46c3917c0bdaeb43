"""Source files: bytes to text and back, where nodes stand in it, and what is refused, with its place."""

from __future__ import annotations

import ast
import pickle
import re
import warnings
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import strategies as st

from rewrite.source import Source, UnreadableError, parsed

BOM = b"\xef\xbb\xbf"
HARD = '''# -*- coding: utf-8 -*-
"""Größe: 日本 🜁
of lines"""
\x0cfrom torch import nn as ñ, optim


class Überschrift(ñ.Module):
\tdef __init__(self, *, größe=3, **ключ): # tabs
\t\tsuper().__init__(); self.日本 = "🜁é" if größe else ñ.Linear(größe, 1)  # 🜁
\t\tself.x = \\
\t\t\t[f"ä{größe!r:>{3}}", "🜁" "é", b"\\xff", rf'\\d', *ключ]
\x0c
\tasync def forward(self, x, /, y: "int" = -1, *z) -> "é":
\t\tasync with x as y: return lambda q=x: (yield)
\t\tif (n := """é
🜁""" + x) < y <= 3: del self.日本[1:2, ...], x
'''
NEWLINES = ["\n", "\r\n", "\r"]
PROGRAM = b"x = 1\ny = '\xc3\xa9'\n"


def nodes(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """All that has a place, but what stands in an f-string, which Python 3.11 itself misplaces."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr | ast.stmt):
            yield node
        if not isinstance(node, ast.JoinedStr):
            yield from nodes(node)


def all_spans_are_right(source: Source) -> int:
    found = list(nodes(source.tree))
    for node in found:
        begin, end = source.span(node)
        assert source.text[begin:end] == ast.get_source_segment(source.text, node)
    return len(found)


def mixed(text: str) -> str:
    """``text`` with all kinds of newlines in turn."""
    parts = text.split("\n")
    return "".join(part + NEWLINES[place % 3] for place, part in enumerate(parts[:-1])) + parts[-1]


FORMS = {
    "LF": HARD,
    "CRLF": HARD.replace("\n", "\r\n"),
    "CR": HARD.replace("\n", "\r"),
    "mixed": mixed(HARD),
    "no newline at the end": HARD.rstrip("\n"),
    "blanks at the end": HARD + "\n  \t\n\x0c\n  ",
    "one line": "x = f(1)",
}


@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "BOM"])
@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_bytes_come_back_and_every_node_is_where_ast_says(text: str, mark: bytes):
    data = mark + text.encode()
    source = Source.read("a.py", data)
    assert source.text == text
    assert source.encoded(source.text) == data
    assert all_spans_are_right(source) > (60 if text.count("日本") else 4)
    assert ast.dump(source.tree, include_attributes=True) == ast.dump(ast.parse(data), include_attributes=True)


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("cookie", ["# coding: latin-1", "#!/usr/bin/python\n# vim: set fileencoding=iso-8859-15 :"])
def test_a_declared_encoding_is_kept(cookie: str, newline: str):
    text = f"{cookie}\nname = 'é'; other = 'ü' + name\n".replace("\n", newline)
    data = text.encode("latin-1")
    source = Source.read("a.py", data)
    assert source.text == text
    assert source.encoded(text.replace("name", "word")) == data.replace(b"name", b"word")
    assert all_spans_are_right(source) == 8
    with pytest.raises(UnicodeEncodeError, match="u65e5"):
        source.encoded(text + "日")


def test_a_lone_cr_ends_a_line_when_an_encoding_is_looked_for():
    source = Source.read("a.py", "# a licence\r\r# no coding: latin-1\rx = 'é'\r".encode())
    assert source.text.endswith("x = 'é'\r")


REFUSED = {
    "undeclared latin-1": (b"# a\nx = 1\ny = '\xe9\xe8'\n", "not utf-8: invalid continuation byte", 3, 6),
    "undeclared latin-1, first line": (b"# caf\xe9\nx = 1\n", "not utf-8: invalid continuation byte", 1, 6),
    "undeclared latin-1, CR": (b"# a\rx = 1\ry = '\xe9'\r", "not utf-8", 3, 6),
    "latin-1 after a mark": (BOM + b"x = '\xc3\xa9'\r\nyz = '\xe9'", "not utf-8-sig", 2, 7),
    "after wide characters": ("日本 = '🜁".encode() + b"\xff'", "not utf-8: invalid start byte", 1, 8),
    "cut short": (b"x = 1\n# \xf0\x9f", "not utf-8: unexpected end of data", 2, 3),
    "an encoding that nobody knows": (
        b"# coding: klingon\n",
        "encoding cannot be told: unknown encoding: klingon",
        1,
        1,
    ),
    "two encodings": (BOM + b"# coding: latin-1\n", "encoding cannot be told: encoding problem: utf-8", 1, 1),
    "an encoding of bytes": (b"# coding: hex\nx = 1\n", "not hex: 'hex' is not a text encoding", 1, 1),
    "an encoding that refuses": (b"# coding: undefined\nx = 1\n", "not undefined: .*undefined encoding", 1, 1),
    "an encoding with warnings": (b"# coding: unicode_escape\nx = '\\d'\n", "not what unicode_escape writes", 1, 1),
    "an encoding with two spellings": (b"# coding: utf-7\nx = '+AGE-'\n", "not what utf-7 writes", 1, 1),
    "UTF-16": ("x = 1\n".encode("utf-16"), "not utf-8: invalid start byte", 1, 1),
    "null bytes": (b"x = 1\r\ny = '\xc3\xa9\x00'\r\n", "null byte", 2, 7),
    "Python 2": (b"x = 1\nprint 'a'\n", "Missing parentheses", 2, 1),
    "a magic of IPython": (b"import x\n%matplotlib inline\n", "invalid syntax", 2, 1),
    "a string that does not end": (b"x = 1\ny = 'a\n", "unterminated string", 2, 5),
    "wrong indentation": (b"if x:\ny = 1\n", "expected an indented block", 2, 1),
    "brackets nested too deeply": (b"x = " + b"(" * 300 + b")" * 300, "too many nested parentheses", 1, 205),
    "operators nested too deeply": (b"x = " + b"-" * 100_000 + b"1", "nested too deeply|too complex", 1, 1),
    "attributes nested too deeply": (b"x = y" + b".z" * 100_000, "recursion|nested too deeply", 1, 1),
}


@pytest.mark.parametrize(("data", "reason", "line", "column"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_python_is_refused_with_its_place(data: bytes, reason: str, line: int, column: int):
    with pytest.raises(UnreadableError, match=reason) as caught:
        Source.read("a.py", data)
    assert (caught.value.line, caught.value.column) == (line, column)
    again = pickle.loads(pickle.dumps(caught.value))  # it comes from another process
    assert (again.reason, again.line, again.column) == (caught.value.reason, line, column)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(UnreadableError, match="surrogates not allowed"):
        parsed("x = '\ud800'")


def test_a_text_is_checked_as_a_file_is():
    assert Source.checked("a.py", "x = 1\n", "latin-1") == Source("a.py", "x = 1\n", "latin-1")
    with pytest.raises(UnreadableError, match="invalid syntax"):
        Source.checked("a.py", "x = = 1\n")


@pytest.mark.parametrize("text", ["", "\n", "# only\n", "\x0c", BOM.decode(), "\r\n\r\n"])
def test_nearly_nothing_is_python(text: str):
    source = Source.read("a.py", text.encode())
    assert source.tree.body == []
    assert source.encoded(source.text) == text.encode()
    assert source.position(len(source.text))[0] >= 1
    assert source.line_at(0)[0] == 0


def test_warnings_of_other_peoples_code_are_not_passed_on():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parsed("x = '\\d' is 'a'")
        with pytest.raises(SyntaxError, match="literal"):  # what the warning becomes
            compile("x is 'a'", "a.py", "exec")


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_positions_and_lines(text: str):
    source = Source("a.py", text)
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)  # of the standard library none splits so
    lines = lines[:-1] if len(lines) > 1 and not lines[-1] else lines
    place = 0
    for number, line in enumerate(lines, 1):
        for column, _ in enumerate(line, 1):
            assert source.position(place) == (number, column)
            assert source.line_at(place) == (place - column + 1, place - column + 1 + len(line))
            place += 1
    assert place == len(text)
    assert source.position(place) == (len(lines), len(lines[-1]) + 1)


def test_the_newline_that_is_near():
    source = Source("a.py", "a\r\nb\nc\rd")
    assert [source.newline_near(place) for place in (0, 1, 3, 5, 7, 8)] == ["\r\n", "\r\n", "\n", "\r", "\r\n", "\r\n"]
    assert Source("a.py", "a").newline_near(0) == "\n"


@hypothesis.given(st.text("aé日🜁 \t\x0c\r\n\x0b\x1c\x85\u2028'\"#=().,\\", max_size=40))
def test_any_text_is_read_as_python_reads_its_bytes(text: str):
    try:
        truth = ast.dump(ast.parse(text.encode()), include_attributes=True)
    except (SyntaxError, ValueError):
        with pytest.raises(UnreadableError, match=r"\w"):
            Source.read("a.py", text.encode())
        return
    source = Source.read("a.py", text.encode())
    assert ast.dump(source.tree, include_attributes=True) == truth
    assert source.encoded(source.text) == text.encode()
    all_spans_are_right(source)
