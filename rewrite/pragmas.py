"""What comments of a file ask of whoever rewrites it: leave the file, leave the line; and how to write such a one."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rewrite.source import Source, UnreadableError

SKIP_FILE = re.compile(r"#\s*computed-surgery\s*:\s*skip-file(?![\w-])", re.IGNORECASE)
GENERATED = re.compile(r"(?<![\w.])@generated(?!\w)")
# what flake8 takes: codes after a colon, between commas or blanks; where none can be read, the whole line is meant
NOQA = re.compile(
    r"#\s*noqa\b(?:\s*:\s*(?P<codes>[A-Z]+[0-9]+\b(?:(?:\s*,\s*|\s+)[A-Z]+[0-9]+\b)*))?", re.IGNORECASE | re.ASCII
)
CODE = re.compile(r"[A-Z]+[0-9]+")
MAYBE = re.compile(r"noqa|skip-file|@generated", re.IGNORECASE)
# a string in pieces, which newer tokenizers give for f"" and t""
PIECES_BEGIN, PIECES_END = ("FSTRING_START", "TSTRING_START"), ("FSTRING_END", "TSTRING_END")


@dataclass(frozen=True)
class Pragmas:
    r"""What the comments of one file ask for.

    ``skip_file`` is a comment ``# computed-surgery: skip-file`` with a line to itself; ``generated`` is
    ``@generated`` in a comment before the first statement, or in the docstring. What a string says is no comment.

    >>> asked = Pragmas.of(Source("a.py", "x = f(  # noqa: CS101, E501\n)\n"))
    >>> asked.silences(1, 2, "CS101"), asked.silences(1, 2, "CS102"), asked.silences(2, 2, "CS101")
    (True, False, False)
    """

    skip_file: bool = False
    generated: bool = False
    # by line; an empty set where no codes are given, which is all of them
    _silenced: Mapping[int, frozenset[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, source: Source) -> Pragmas:
        """The pragmas of ``source``; raises `UnreadableError` where its comments cannot be told."""
        if MAYBE.search(source.text) is None:
            return cls()
        comments = [token for token in _tokens(source.text) if token.type == tokenize.COMMENT]
        silenced = {token.start[0]: found for token in comments if (found := _silenced(token.string)) is not None}
        skip = any(SKIP_FILE.match(token.string) and not token.line[: token.start[1]].strip() for token in comments)
        return cls(skip, any(map(GENERATED.search, _head(source, comments))), silenced)

    def silences(self, line_from: int, line_to: int, code: str) -> bool:
        """Whether a ``# noqa`` on one of these lines, the last one included, is for ``code``.

        As in flake8, the beginning of a code stands for all that begin so: ``# noqa: CS1`` is for CS101.
        """
        return any(
            not codes or code.upper().startswith(tuple(codes))
            for line, codes in self._silenced.items()
            if line_from <= line <= line_to
        )


def add_noqa(source: Source, codes: Mapping[int, Iterable[str]]) -> str:
    r"""The text of ``source`` with ``# noqa`` for each of these lines and its codes.

    A comment that is there gets what it lacks. A line that ends within a string or with a backslash can have no
    comment: it goes to the next one that can. Doing it again changes nothing.

    >>> print(add_noqa(Source("a.py", "x = f()\ny = '''\n'''  # noqa: E501\n"), {1: ["CS101"], 2: ["CS102"]}), end="")
    x = f()  # noqa: CS101
    y = '''
    '''  # noqa: E501, CS102
    """
    asked = {line: wanted for line, each in codes.items() if (wanted := {code.upper() for code in each})}
    if not asked:
        return source.text
    tokens = list(_tokens(source.text))
    comments = {token.start[0]: token.start[1] for token in tokens if token.type == tokenize.COMMENT}
    within = {line for first, last in _strings(tokens) for line in range(first, last)}
    at_end: defaultdict[int, set[str]] = defaultdict(set)
    for line, wanted in asked.items():
        place = line
        while place in within or (place not in comments and _line(source, place)[2].rstrip("\r\n").endswith("\\")):
            place += 1
        at_end[place] |= wanted
    text = source.text
    for line in sorted(at_end, reverse=True):  # from the end, so that earlier places stay where they are
        begin, end, whole = _line(source, line)
        text = text[:begin] + _with_noqa(whole, comments.get(line), at_end[line]) + text[end:]
    return text


def _with_noqa(line: str, comment: int | None, codes: set[str]) -> str:
    """``line`` with its comment, which begins at ``comment``, made to silence ``codes``."""
    body = line.rstrip("\r\n")
    found = None if comment is None else NOQA.search(body, comment)
    if found is None:
        kept = body.rstrip(" \t\f")
        return f"{kept}{'  ' if kept else ''}# noqa: {', '.join(sorted(codes))}{line[len(body) :]}"
    present = _silenced(body[comment:])
    missing = sorted(code for code in codes if present and not code.startswith(tuple(present)))
    return line[: found.end()] + "".join(f", {code}" for code in missing) + line[found.end() :]


def _line(source: Source, line: int) -> tuple[int, int, str]:
    begin, end = source.line_at(source.offset(line, 0))
    return begin, end, source.text[begin:end]


def _silenced(comment: str) -> frozenset[str] | None:
    """The codes that a comment is for: an empty set means all, None that it is no ``# noqa``."""
    found = list(NOQA.finditer(comment))
    if not found:
        return None
    each = [_codes(match) for match in found]
    return frozenset[str]() if not all(each) else frozenset[str]().union(*each)


def _codes(found: re.Match[str]) -> frozenset[str]:
    return frozenset(CODE.findall((found["codes"] or "").upper()))


def _head(source: Source, comments: Iterable[tokenize.TokenInfo]) -> Iterator[str]:
    """The docstring, and the comments before the first statement that is not the docstring."""
    docstring = ast.get_docstring(source.tree, clean=False)
    body = source.tree.body[docstring is not None :]
    if docstring is not None:
        yield docstring
    yield from (token.string for token in comments if not body or token.start[0] < body[0].lineno)


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens; lines and columns are those of ``text``, whatever its newlines."""
    normal = re.sub(r"\r\n?", "\n", text)  # this tokenizer takes a lone CR for no newline, unlike the parser
    try:
        yield from tokenize.generate_tokens(io.StringIO(normal, newline="\n").readline)
    except tokenize.TokenError as error:
        line, column = error.args[1]
        raise UnreadableError(f"its comments cannot be told: {error.args[0]}", line, column + 1) from error
    except SyntaxError as error:
        raise UnreadableError(
            f"its comments cannot be told: {error.msg}", error.lineno or 1, error.offset or 1
        ) from error


def _strings(tokens: Iterable[tokenize.TokenInfo]) -> Iterator[tuple[int, int]]:
    """First and last line of each string."""
    opened: list[int] = []
    for token in tokens:
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            yield token.start[0], token.end[0]
        elif kind in PIECES_BEGIN:
            opened.append(token.start[0])
        elif kind in PIECES_END:
            yield opened.pop(), token.end[0]
