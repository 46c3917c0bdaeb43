"""The words that a rule asks for: what its host and the host's type are called in a source file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

from rewrite.items import INDEX
from rewrite.known_calls import CHILDREN
from rewrite.layer_names import ROW_OF
from rewrite.layers import Layer, bound, host_types, layer, tensors
from surgery.rules.filters import split_operation, split_type
from surgery.rules.lexing import Kind, Token, lex
from surgery.rules.pattern import EXPRESSION, Pattern
from surgery.rules.words import Spelling, is_lone_star, spellings

LETTER: Final = re.compile(r"\w", re.ASCII)
ANY_LETTERS: Final = rb"[\w\x80-\xff]*"
ANY_LETTER: Final = rb"(?:[^.\s\x80-\xff]|[\xc0-\xff][\x80-\xbf]*)"  # in as many bytes as it takes
# hosts may get names here that are written nowhere
DYNAMIC: Final = (
    *(b"add_module", b"register_module", b"setattr", b"__setattr__"),
    *(b"ModuleDict", b"OrderedDict", b"_modules", b"__dict__"),
)
# what wraps a module calls it so
WRAPPING: Final = {("compile", "_orig_mod"), ("DistributedDataParallel", "module")}
# between the dot and the name there may be ends of lines; a private name gets the one of its class before it
NAMED: Final = (
    rb"\.[\s\\]*(?:#[^\r\n]*[\r\n][\s\\]*)*(?P<attribute>%b|__\w+(?<!__))\b"
    rb"|[\"'][^\"'\s]*?(?P<text>%b)"
    rb"|\b(?P<keyword>%b)\s*[=:]"
    rb"|\b(?P<called>%b)\b"
)


@dataclass(frozen=True)
class Names:
    """Names of hosts: ``given`` is an expression for how a file gives one; ``written`` are all, if they are few."""

    given: re.Pattern[bytes]
    written: frozenset[str] | None = None


@dataclass(frozen=True)
class Wanted:
    """What a rule asks of a file: that it may give a host one of these names, and may make one of these types.

    ``kind`` is an expression for what has to be written; None asks for nothing. A host that a file gives no name stands
    in another file.
    """

    name: Names | None = None
    kind: re.Pattern[bytes] | None = None

    @classmethod
    def of(cls, pattern: Pattern) -> Wanted:
        """What ``pattern`` asks for."""
        if pattern.text.startswith(EXPRESSION):
            return cls()
        tokens, _ = split_operation(pattern.text, lex(pattern.text))
        return cls(_name(pattern, tokens), _kind(pattern, tokens))


def _name(pattern: Pattern, tokens: Sequence[Token]) -> Names | None:
    path, kind = split_type(pattern.text, tokens)
    words: set[bytes] = set()
    for spelling in spellings(pattern.text, path):
        word = _host(_names(spelling), host_known=kind is not None)
        if word is None:
            return None
        words.add(word)
    word = b"|".join(sorted(words))
    own = re.compile(word)
    inner = {called.encode() for called, host in _inner_hosts() if own.fullmatch(host.encode())}
    given = re.compile(NAMED % (word, word, word, b"|".join((*DYNAMIC, *sorted(inner)))))
    plain = all(re.fullmatch(rb"\w+", each) for each in words)
    return Names(given, frozenset(each.decode() for each in words) if plain else None)


def _kind(pattern: Pattern, tokens: Sequence[Token]) -> re.Pattern[bytes] | None:
    kind = pattern.host_type
    if kind is None or kind.accepts("Module"):
        return None
    begin = next(index for index, token in enumerate(tokens) if token.kind is Kind.AT) + 1
    end = next(index for index in range(begin, len(tokens)) if tokens[index].kind is Kind.DOT)
    words = {_word(each) for each in spellings(pattern.text, tokens[begin:end])}
    known = {name.encode() for name, bases in _bases().items() if any(map(kind.accepts, bases))}
    if None in words:
        return None
    return re.compile(rb"\b(?:%b)\b" % b"|".join(sorted({each for each in words if each is not None} | known)))


def _names(tokens: Spelling) -> list[Spelling]:
    ends = [-1, *(index for index, token in enumerate(tokens) if token.kind is Kind.DOT), len(tokens)]
    return [tokens[begin + 1 : end] for begin, end in pairwise(ends)]


def _host(names: Sequence[Spelling], *, host_known: bool) -> bytes | None:
    """An expression for the host's own name; None where it is not told: a star before or after crosses dots."""
    *before, last = names
    if not before or (not host_known and is_lone_star(last)) or _crosses_dots(last) or _crosses_dots(before[-1]):
        return None
    return _word(before[-1])


def _crosses_dots(name: Spelling) -> bool:
    return any(one.kind is two.kind is Kind.STAR for one, two in pairwise(name))


def _word(name: Spelling) -> bytes | None:
    """An expression for the identifiers that a part of a pattern matches; None where it asks for too little."""
    parts: list[bytes] = []
    letters = [chr(token.characters.ranges[0][0]) for token in name if token.kind is Kind.TEXT]
    if not all(map(LETTER.match, letters)) or not any(map(str.isalpha, letters)):
        return None
    for token in name:
        given = {Kind.STAR: ANY_LETTERS, Kind.ONE: ANY_LETTER}
        parts.append(given.get(token.kind) or chr(token.characters.ranges[0][0]).encode())
    return b"".join(parts)


@cache
def _bases() -> dict[str, frozenset[str]]:
    """Of each layer of torch the classes that hosts in it are of."""
    found = {name: frozenset((name, *row[2].replace("?d", name[-2:]).split())) for name, row in ROW_OF.items()}
    for each in _layers():
        found[each.name] = found[each.name].union(*(host_types(each, name) or () for name in _dotted(each)))
    return found


@cache
def _inner_hosts() -> tuple[tuple[str, str], ...]:
    """What is called, and the name that a module gets by it that nobody writes."""
    built = {(each.name, name.split(".")[-2]) for each in _layers() for name in _dotted(each)}
    brought = {
        (name, "".join(map(str, path[-1])))
        for name, arguments in CHILDREN.items()
        for _, path in arguments.values()
        if path[-1] != INDEX
    }
    return tuple(sorted(built | brought | WRAPPING))


def _layers() -> Iterator[Layer]:
    return (found for name in ROW_OF if (found := layer(f"torch.nn.{name}")) is not None)


def _dotted(each: Layer) -> set[str]:
    """The names of what a layer has below itself, with its default arguments or unknown ones."""
    made = (tensors(each, {}), tensors(each, bound(each, [], {})))
    named = {name for one in made for name in (*one.certain, *one.possible, *one.buffers, *one.possible_buffers)}
    return {name for name in named if "." in name}
