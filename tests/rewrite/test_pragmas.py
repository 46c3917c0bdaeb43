"""Comments that ask to be left alone: which are heard, where they are written, and that nothing else changes."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import strategies as st

from rewrite import pragmas
from rewrite.pragmas import Pragmas, add_noqa
from rewrite.source import Source, UnreadableError

NEWLINES = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}
MARK = "@gen" + "erated"


@pytest.fixture(params=NEWLINES.values(), ids=NEWLINES)
def newline(request: pytest.FixtureRequest) -> str:
    return request.param


def read(text: str, newline: str = "\n") -> Source:
    text = text.replace("\n", newline)
    return Source.read("a.py", text.encode())


def silenced(comment: str, code: str = "CS101") -> bool:
    return Pragmas.of(read(f"x = 1  {comment}\ny = 2\n")).silences(1, 1, code)


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa",
        "#noqa",
        "# NoQA",
        "#  NOQA ",
        "# noqa: CS101",
        "# noqa:CS101",
        "#noqa:cs101",
        "# noqa : CS101",
        "# noqa: E501, CS101",
        "# noqa: E501,CS101,W291",
        "# noqa: E501 CS101",
        "# noqa: E501 , CS101 and why",
        "# noqa: CS1",
        "# noqa: CS101 - é 日本",
        "# noqa because",
        "# noqa: because",
        "# type: ignore[name]  # noqa: CS101",
        "# noqa: E501  # noqa: CS101",
        "# noqa: E501  # noqa",
        "# é 🜁 # noqa: CS101",
    ],
)
def test_a_comment_is_heard(comment: str):
    assert silenced(comment)
    assert not Pragmas.of(read(f"x = 1  {comment}\ny = 2\n")).silences(2, 2, "CS101")


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa: E501",
        "# noqa: CS102",
        "# noqa: CS1011",
        "# noqa:E501,W291",
        "# noqa: E501 for CS101",
        "# noqas",
        "# no qa",
        "# noqa_me",
        "# flake8: noqa",
        "# computed-surgery: skip-file",
        "",
        "; z = '# noqa'",
        "; z = '''# noqa: CS101'''",
        "; z = f'{z}# noqa'",
        "; z = b'# noqa'",
    ],
)
def test_a_comment_is_not_for_this_code(comment: str):
    assert not silenced(comment)


def test_any_line_of_a_statement_will_do(newline: str):
    asked = Pragmas.of(
        read("x = f(\n  1,  # noqa: CS101\n  '''\n# noqa: CS102\n''',\n)\ny = 1 # noqa: CS103\n", newline)
    )
    assert asked.silences(1, 6, "CS101")
    assert not asked.silences(1, 1, "CS101")
    assert not asked.silences(3, 6, "CS101")
    assert not asked.silences(1, 6, "CS102"), "it stands in a string"
    assert asked.silences(7, 7, "cs103")
    assert not asked.silences(1, 6, "CS103")


SKIP = "# computed-surgery: skip-file"


@pytest.mark.parametrize(
    ("text", "skip"),
    [
        (f"{SKIP}\nx = 1\n", True),
        (f"x = 1\n\n{SKIP}", True),
        (f"def f():\n    {SKIP}\n    return 1\n", True),
        (f"x = [\n\t\x0c{SKIP}\n]\n", True),
        ("#computed-surgery:skip-file\n", True),
        ("# Computed-Surgery: Skip-File - it is hand-tuned\n", True),
        (f"x = 1  {SKIP}\n", False),
        (f"# see {SKIP}\n", False),
        (f"'''\n{SKIP}\n'''\n", False),
        (f"x = f'''\n{SKIP}\n'''\n", False),
        ("# computed-surgery: skip-files\n", False),
        ("# computed-surgery: skip-file-not\n", False),
        ("# computed_surgery: skip-file\n", False),
        ("# noqa\n", False),
    ],
)
def test_a_file_asks_to_be_skipped_on_a_line_of_its_own(text: str, skip: bool, newline: str):
    assert Pragmas.of(read(text, newline)).skip_file is skip


@pytest.mark.parametrize(
    ("text", "generated"),
    [
        (f"# {MARK} by protoc\nx = 1\n", True),
        (f"#!/usr/bin/python\n# coding: utf-8\n\n# {MARK}: do not edit\n", True),
        (f"'''Bindings.\n\n{MARK}\n'''\nx = 1\n", True),
        (f"'''Bindings.'''\n# {MARK}\nx = 1\n", True),
        (f"'''Bindings.'''  # {MARK}\n", True),
        (f"x = 1\n# {MARK}\n", False),
        (f"x = 1  # {MARK}\n", False),
        (f"x = '{MARK}'\n", False),
        (f"b'{MARK}'\n", False),
        (f"f'{MARK}'\n", False),
        (f"# {MARK}_by_hand\n", False),
        (f"# me{MARK}.example\n", False),
        ("# generated\n", False),
        (f"{MARK}\ndef f(): ...\n", False),
    ],
)
def test_a_generated_file_says_so_at_its_beginning(text: str, generated: bool, newline: str):
    assert Pragmas.of(read(text, newline)).generated is generated


def test_a_file_without_such_words_is_not_tokenized(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> Iterator[tokenize.TokenInfo]:
        raise AssertionError("tokenized")

    monkeypatch.setattr(pragmas, "_tokens", refuse)
    text = "x = 1  # nothing\n"
    assert Pragmas.of(read(text)) == Pragmas()
    assert add_noqa(read(text), {}) == add_noqa(read(text), {1: []}) == text
    with pytest.raises(AssertionError, match="tokenized"):
        Pragmas.of(read("x = 1  # NoQA\n"))


def test_comments_of_what_is_no_python_are_not_told():
    with pytest.raises(UnreadableError, match="its comments cannot be told") as caught:
        Pragmas.of(Source("a.py", "x = 1\ny = (  # noqa\n"))
    assert caught.value.line >= 2


ADDED = [
    ("x = f()\n", {1: ["CS101"]}, "x = f()  # noqa: CS101\n"),
    ("x = f()", {1: ["CS102", "cs101"]}, "x = f()  # noqa: CS101, CS102"),
    ("x = f() \t\n", {1: ["CS101"]}, "x = f()  # noqa: CS101\n"),
    ("x = 1  # why\n", {1: ["CS101"]}, "x = 1  # why  # noqa: CS101\n"),
    ("x = 1 # noqa\n", {1: ["CS101"]}, "x = 1 # noqa\n"),
    ("x = 1 # noqa: because\n", {1: ["CS101"]}, "x = 1 # noqa: because\n"),
    ("x = 1 # noqa:E501\n", {1: ["CS101"]}, "x = 1 # noqa:E501, CS101\n"),
    ("x = 1 # noqa: E501 W1 - why\n", {1: ["CS101"]}, "x = 1 # noqa: E501 W1, CS101 - why\n"),
    ("x = 1 # noqa: CS101\n", {1: ["CS101", "CS102"]}, "x = 1 # noqa: CS101, CS102\n"),
    ("x = 1 # noqa: CS1\n", {1: ["CS101"]}, "x = 1 # noqa: CS1\n"),
    ("x = 1 # noqa: E1 # noqa: CS101\n", {1: ["CS101"]}, "x = 1 # noqa: E1 # noqa: CS101\n"),
    ("x = '# noqa'\n", {1: ["CS101"]}, "x = '# noqa'  # noqa: CS101\n"),
    ("x = f(\n  1,\n)\n", {1: ["CS101"]}, "x = f(  # noqa: CS101\n  1,\n)\n"),
    ("x = f(\n  1,\n)\n", {3: ["CS101"]}, "x = f(\n  1,\n)  # noqa: CS101\n"),
    ("x = '''a\nb\n''' + y\n", {1: ["CS101"]}, "x = '''a\nb\n''' + y  # noqa: CS101\n"),
    ("x = '''a\nb''', '''\nc'''\n", {1: ["CS2"], 2: ["CS1"]}, "x = '''a\nb''', '''\nc'''  # noqa: CS1, CS2\n"),
    ("x = f'''a{\ny}\n''' \\\n  + y\n", {1: ["CS101"]}, "x = f'''a{\ny}\n''' \\\n  + y  # noqa: CS101\n"),
    ("x = 1 + \\\n  2 \\\n  + 3\n", {1: ["CS101"]}, "x = 1 + \\\n  2 \\\n  + 3  # noqa: CS101\n"),
    ("x = 'a\\\nb'\n", {1: ["CS101"]}, "x = 'a\\\nb'  # noqa: CS101\n"),
    ("x = 1  # \\\ny = 2\n", {1: ["CS101"]}, "x = 1  # \\  # noqa: CS101\ny = 2\n"),
    ("# 日本\né = '🜁'\n", {2: ["CS101"]}, "# 日本\né = '🜁'  # noqa: CS101\n"),
    ("a = 1\nb = 2\nc = 3\n", {3: ["CS3"], 1: ["CS1"]}, "a = 1  # noqa: CS1\nb = 2\nc = 3  # noqa: CS3\n"),
    ("\x0cx = 1\x0c\n\x0c\n", {1: ["CS101"]}, "\x0cx = 1  # noqa: CS101\n\x0c\n"),
    ("", {1: ["CS101"]}, "# noqa: CS101"),
]


@pytest.mark.parametrize(("text", "codes", "expected"), ADDED, ids=[repr(text) for text, *_ in ADDED])
def test_a_comment_is_written(text: str, codes: dict[int, list[str]], expected: str, newline: str):
    written = add_noqa(read(text, newline), codes)
    assert written == expected.replace("\n", newline)
    assert add_noqa(read(written), codes) == written, "a second time changes nothing"


def test_mixed_newlines_stay_where_they_are():
    text = "a = 1\r\nb = 2\nc = 3\rd = '''\r\n\r''' \\\r + ''\r\n"
    codes = dict.fromkeys([1, 2, 3, 4], ("CS101",))
    noqa = "  # noqa: CS101"
    assert add_noqa(Source("a.py", text), codes) == (
        f"a = 1{noqa}\r\nb = 2{noqa}\nc = 3{noqa}\rd = '''\r\n\r''' \\\r + ''{noqa}\r\n"
    )


PARTS = st.sampled_from(
    [
        "x = 1",
        "x = f(\n 1,\n {2: '''\n#\n'''})",
        "if x:\n\ty = 2",
        "'''é\n# noqa'''",
        "x = 1 + \\\n  2",
        "x = 1  # noqa: E501",
        "x  # noqa",
        "x  # 日本",
        "x = f'''{\nx}\n\\\n'''",
        "",
        "\x0c",
        "#",
        "x = '\\\n'; y = 2",
    ]
)


@hypothesis.given(
    st.lists(st.tuples(PARTS, st.sampled_from(list(NEWLINES.values()))), min_size=1, max_size=8),
    st.dictionaries(st.integers(0, 7), st.sets(st.sampled_from(["CS101", "CS102", "E501"]), min_size=1)),
)
def test_statements_are_silenced_and_are_still_the_same(parts: list[tuple[str, str]], picked: dict[int, set[str]]):
    source = Source.read("a.py", "".join(part.replace("\n", end) + end for part, end in parts).encode())
    simple = [each for each in ast.walk(source.tree) if isinstance(each, ast.stmt) and not isinstance(each, ast.If)]
    asked = {simple[index].lineno: codes for index, codes in picked.items() if index < len(simple)}
    written = Source("a.py", add_noqa(source, asked))
    assert ast.dump(written.tree) == ast.dump(source.tree)
    assert add_noqa(written, asked) == written.text
    found = Pragmas.of(written)
    for statement in simple:
        for code in asked.get(statement.lineno, ()):
            assert found.silences(statement.lineno, statement.end_lineno, code)
